"""ST-ResNet*, with a maximum over time: the last row of thesis Table 4.2.

The promise (Table 4.3, accuracy on the first splits): 93.5 % on UCF101, 66.4 % on
HMDB51. These are the thesis' numbers; they need the data, its TV-L1 flow and a GPU,
and have not been repeated here.

    zoo train st_resnet_star --data UCF101/train1 --validation UCF101/test1 \\
        --flow UCF101/tvl1_flow --weights runs/st_resnet/best --out runs/st_resnet_star

It starts from the trained ST-ResNet: 128 videos per update, 11 chunks of each at a
stride of 1 to 15 frames, of which the pooling over time leaves 4 predictions.
"""

import dataclasses

from zoo.training.recipes import st_resnet

RECIPES = {
    "st_resnet_star": dataclasses.replace(
        st_resnet.RECIPES["st_resnet"],
        options={"sub_batch": 4, "temporal_pooling": "res5"},
        frames=11,
        stride=(1, 15),
        learning_rate=((1e-4, 2_000), (1e-5, 2_000)),
        repeats=1,
    ),
}
