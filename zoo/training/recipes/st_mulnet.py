"""ST-MulNet from two trained streams, the training of thesis 5.4.1.

The promise (Table 5.5, accuracy on UCF101 and HMDB51, three splits): 94.2 % and 68.9 %
with ResNet-50 on frames and ResNet-152 on flow. These are the thesis' numbers; they
need the data, its TV-L1 flow and a GPU, and have not been repeated here.

    zoo train st_mulnet --data UCF101/train1 --validation UCF101/test1 \\
        --flow UCF101/tvl1_flow --out runs/st_mulnet \\
        --weights appearance=runs/appearance/best,motion=runs/motion/best

128 videos per update, 5 chunks of each at a stride of 5 to 35 frames; the rate of 1e-3
falls tenfold "after 20 epochs and again after 10 epochs more", and training ends after
another 10. An epoch is ten passes over the list, as in the released code, which for the
9,537 videos of UCF101's first split are 745 updates. Batch normalisation works on 4
videos, dropout is 0.8 in the motion stream. The batch is computed in 32 parts of 4
videos on one device; with memory for more, lower accumulation.
"""

import dataclasses

from zoo.training.recipe import Recipe

EPOCH = 745  # updates

ST_MULNET = Recipe(
    model="st_mulnet50",
    options={"sub_batch": 4, "dropout": 0.8},
    frames=5,
    test_frames=25,
    stride=(5, 35),
    batch_size=128,
    accumulation=32,
    learning_rate=((1e-3, 20 * EPOCH), (1e-4, 10 * EPOCH), (1e-5, 10 * EPOCH)),
    repeats=10,
    epochs=1000,  # the counted updates end it
)

RECIPES = {
    "st_mulnet": ST_MULNET,
    "st_mulnet152": dataclasses.replace(ST_MULNET, model="st_mulnet50_152"),
}
