"""What moves where: tiny networks on the synthetic pairs of moving discs.

Two textured discs move in every clip, one to the left and one to the right; the class
is which of them moves which way. The promise: each stream alone and their late fusion
guess (50 %), networks that fuse or connect the streams at the level of features get
nearly all right. `make pairs` makes the clips, runs all of these with three seeds, and
prints the table.

    zoo train moving_pairs_st_mulnet --data train/videos --flow train/flow \\
        --validation test/videos --out run

Other than in the thesis (3.3.5, 4.3.5, 5.4.1) there is no ImageNet start, so Adam
replaces SGD, and dropout is left out. A clip is a single chunk: a network of several
frames in order could find motion in the frames, and would need no flow. Mirrors would
swap the classes and are left out.
"""

import dataclasses

from zoo.training.recipe import Recipe

APPEARANCE = Recipe(
    model="resnet26_tiny",
    frames=1,
    test_frames=1,
    stride=(1, 1),
    size=64,
    shorter_side=64,
    jitter=0.0,
    flip=False,
    batch_size=32,
    epochs=20,
    optimizer="adam",
    learning_rate=1e-3,
    patience=6,
)
SUM = {"method": "sum", "keep_motion": False, "pooling": "2d", "dropout": 0.0}


def _of(model, **options):
    return dataclasses.replace(APPEARANCE, model=model, options=options)


RECIPES = {
    "moving_pairs_appearance": APPEARANCE,
    "moving_pairs_motion": _of("motion_resnet26_tiny"),
    "moving_pairs_late": _of("fusion_vgg_tiny", **SUM, fuse_at="fc8"),
    "moving_pairs_fusion": _of("fusion_vgg_tiny", **SUM),
    "moving_pairs_st_resnet": _of("st_resnet26_tiny"),
    "moving_pairs_st_mulnet": _of("st_mulnet26_tiny"),
}
