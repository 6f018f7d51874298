"""Tiny networks on the synthetic dynamic scenes, trained from scratch in minutes.

The frame-wise network must stay near chance, since a single frame of these clips says
nothing about their class; the T-ResNet of the same size learns the motion.

    zoo train synthetic_scenes --data scenes/train --validation scenes/test --out run

Other than in the thesis (7.3.3) there is no ImageNet start, so the temporal branch
begins at full strength (temporal_scale 1) and Adam replaces SGD. Mirrors would swap
classes and are left out.
"""

import dataclasses

from zoo.training.recipe import Recipe

T_RESNET_TINY = Recipe(
    model="t_resnet_tiny",
    options={"temporal_scale": 1.0},
    frames=8,
    test_frames=12,
    stride=(1, 1),
    size=32,
    shorter_side=32,
    flip=False,
    batch_size=32,
    epochs=14,
    optimizer="adam",
    learning_rate=2e-3,
    patience=3,
)

RECIPES = {
    "synthetic_scenes": T_RESNET_TINY,
    "synthetic_scenes_spatial": dataclasses.replace(
        T_RESNET_TINY, model="resnet_tiny", options={}
    ),
}
