"""Spatiotemporal fusion of two trained VGGs, the training of thesis 3.3.5.

The promise (Table 3.5, accuracy on UCF101 and HMDB51, three splits): 92.5 % and 65.4 %
with VGG-16 for both streams, 90.8 % and 62.1 % with VGG-M for motion. These are the
thesis' numbers; they need the data, its flow and a GPU, and have not been repeated
here.

    zoo train fusion --data UCF101/train1 --validation UCF101/test1 \\
        --flow UCF101/tvl1_flow --out runs/fusion \\
        --weights appearance=runs/appearance/best,motion=runs/motion/best

96 videos per update, 5 chunks of each at a stride of 1 to 10 frames, a rate of 1e-3
that is lowered when the error saturates; nothing below the fusion is trained, since
"full backpropagation did not result in an improvement". Dropout of 0.85 and ten passes
over the list per epoch are those of the released code (whose strides are 5 to 15). The
batch is computed in 24 parts of 4 videos on one device; with memory for more, lower
accumulation, which changes nothing else.
"""

import dataclasses

from zoo.training.recipe import Recipe

FUSION = Recipe(
    model="fusion_vgg16",
    options={"dropout": 0.85},
    frozen=("appearance_conv*", "motion_conv*"),
    frames=5,
    test_frames=5,
    stride=(1, 10),
    batch_size=96,
    accumulation=24,
    learning_rate=1e-3,
    repeats=10,
    epochs=30,
)

RECIPES = {
    "fusion": FUSION,
    "fusion_vgg16_vgg_m": dataclasses.replace(FUSION, model="fusion_vgg16_vgg_m"),
}
