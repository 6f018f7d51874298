"""The streams of chapter 3, each on its own: VGG-16 and VGG-M on frames and on flow.

The promise (Table 3.3, accuracy on the first split of UCF101): 82.6 % for VGG-16 on
frames, 86.3 % on flow; VGG-M 74.2 % and 82.3 %. These are the thesis' numbers; they
need UCF101, its TV-L1 flow (Brox for VGG-M) and a GPU, and have not been repeated here.

    zoo train fusion_appearance --data UCF101/train1 --validation UCF101/test1 \\
        --out runs/appearance
    zoo train fusion_motion --data UCF101/train1 --validation UCF101/test1 \\
        --flow UCF101/tvl1_flow --out runs/motion

Sections 3.3.5 and 3.4.3: the rate is lowered when the error saturates; crops from the
corners and the centre; one frame or one stack of a video per update. The rate of
VGG-16, printed as "50^-4", is 5e-4, and dropout on flow is 0.9, both by the released
code, which also gives the batches of 128 and the passes per epoch. For VGG-M (Simonyan
and Zisserman 2014a: batch 256, rate 1e-2) no ImageNet weights are published in a
format that can be fetched: pass --weights.
"""

import dataclasses

from zoo.training.recipe import Recipe

APPEARANCE = Recipe(
    model="vgg16",
    options={"dropout": 0.85},
    weights="imagenet",
    frames=1,
    test_frames=25,
    crop="corners",
    batch_size=128,
    accumulation=16,
    learning_rate=5e-4,
    repeats=10,
    epochs=30,
)
MOTION = dataclasses.replace(
    APPEARANCE, model="motion_vgg16", options={"dropout": 0.9}, repeats=100
)
VGG_M = {"weights": None, "batch_size": 256, "learning_rate": 1e-2, "crop": "jitter"}

RECIPES = {
    "fusion_appearance": APPEARANCE,
    "fusion_motion": MOTION,
    "fusion_appearance_vgg_m": dataclasses.replace(APPEARANCE, model="vgg_m", **VGG_M),
    "fusion_motion_vgg_m": dataclasses.replace(MOTION, model="motion_vgg_m", **VGG_M),
}
