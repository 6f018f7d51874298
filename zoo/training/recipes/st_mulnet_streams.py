"""The streams of chapter 5, each on its own: thesis 5.4.1.

The promise (Table 5.4, accuracy on UCF101, three splits): 82.3 % for ResNet-50 on
frames, 87.0 % on flow, 91.7 % for both; 87.2 % for ResNet-152 on flow. These are the
thesis' numbers; they need UCF101, its TV-L1 flow and a GPU, and have not been repeated
here.

    zoo train st_mulnet_appearance --data UCF101/train1 --validation UCF101/test1 \\
        --out runs/appearance
    zoo train st_mulnet_motion152 --data UCF101/train1 --validation UCF101/test1 \\
        --flow UCF101/tvl1_flow --out runs/motion

Batches of 256 frames and 128 stacks, a rate of 1e-2 that is lowered twice when the
error saturates, dropout of 0.8 in the motion stream (before the classifier, where the
released code has it). The groups of 32 of batch normalisation and the passes per epoch
are the released code's.
"""

import dataclasses

from zoo.training.recipe import Recipe

APPEARANCE = Recipe(
    model="resnet50",
    options={"sub_batch": 32},
    weights="imagenet",
    frames=1,
    test_frames=25,
    batch_size=256,
    accumulation=8,
    repeats=10,
    epochs=30,
)
MOTION = dataclasses.replace(
    APPEARANCE,
    model="motion_resnet50",
    options={"sub_batch": 32, "dropout": 0.8},
    crop="corners",
    batch_size=128,
    accumulation=4,
    repeats=100,
)

RECIPES = {
    "st_mulnet_appearance": APPEARANCE,
    "st_mulnet_motion": MOTION,
    "st_mulnet_motion152": dataclasses.replace(MOTION, model="motion_resnet152"),
}
