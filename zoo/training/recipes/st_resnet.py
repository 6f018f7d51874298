"""ST-ResNet from two trained streams: the third row of thesis Table 4.2.

The promise (Table 4.3, accuracy on the first splits): 92.8 % on UCF101, 65.6 % on
HMDB51. These are the thesis' numbers; they need the data, its TV-L1 flow and a GPU,
and have not been repeated here.

    zoo train st_resnet --data UCF101/train1 --validation UCF101/test1 \\
        --flow UCF101/tvl1_flow --out runs/st_resnet \\
        --weights appearance=runs/appearance/best,motion=runs/motion/best

128 videos per update, 5 chunks of each at a stride of 5 to 15 frames, a loss for each
chunk and stream; batch normalisation over 4 videos. Passes per epoch are the released
code's. The batch is computed in 32 parts of 4 videos on one device; with memory for
more, lower accumulation, which changes nothing else.
"""

from zoo.training.recipe import Recipe

RECIPES = {
    "st_resnet": Recipe(
        model="st_resnet50",
        options={"sub_batch": 4},
        frames=5,
        test_frames=25,
        stride=(5, 15),
        batch_size=128,
        accumulation=32,
        learning_rate=((1e-3, 30_000), (1e-4, 30_000), (1e-5, 20_000)),
        repeats=10,
        epochs=1000,  # the counted updates end it
    ),
}
