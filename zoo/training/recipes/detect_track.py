"""Detect & Track on ImageNet VID and DET, from a trained R-FCN (thesis 8.5.2).

The promise (Table 8.1): 75.8 % mean average precision of single frames after training
with the tracking loss, 79.8 % of tubes, with ResNet-101 on ImageNet VID's validation
set. These are the thesis' numbers; they need the data and a GPU, and have not been
repeated here.

    zoo train detect_track --data ILSVRC2015 --weights runs/rfcn/last --out runs/dt

Four pairs per update, by turns two adjacent frames of a random place of a random video,
and the same still of ImageNet DET twice; 40,000 updates at 1e-4 and 20,000 at 1e-5.
"""

import dataclasses

from zoo.training.detection_recipe import DetectionRecipe

DETECT_TRACK = DetectionRecipe(model="detect_track_resnet101", accumulation=4)
RECIPES = {
    "detect_track": DETECT_TRACK,
    "detect_track_50": dataclasses.replace(DETECT_TRACK, model="detect_track_resnet50"),
    "detect_track_resnext": dataclasses.replace(
        DETECT_TRACK,
        model="detect_track_resnext101",
        # The release's solver: eight pairs per update, half as many updates.
        batch_size=8,
        accumulation=8,
        loss_weights={"track": 0.1},
        learning_rate=((1e-4, 20_000), (1e-5, 10_000)),
    ),
}
