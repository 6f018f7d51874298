"""The streams of chapter 4, each on its own: the first two rows of thesis Table 4.2.

The promise (Table 4.3, accuracy on the first split of UCF101): 82.3 % for ResNet-50 on
frames, 79.1 % on flow, 89.5 % for both together. These are the thesis' numbers; they
need UCF101, its TV-L1 flow and a GPU, and have not been repeated here.

    zoo train st_resnet_appearance --data UCF101/train1 --validation UCF101/test1 \\
        --out runs/appearance
    zoo train st_resnet_motion --data UCF101/train1 --validation UCF101/test1 \\
        --flow UCF101/tvl1_flow --out runs/motion

One frame or one stack of a video per update. Batch normalisation works on 4 frames,
and on 86 stacks; 86 does not divide the 256 of the table, so that motion takes 258.
Dropout of 0.8 before the classifier of the motion stream is the released code's (the
thesis speaks of it in 5.4.1); so are the passes per epoch.
"""

from zoo.training.recipe import Recipe

RECIPES = {
    "st_resnet_appearance": Recipe(
        model="resnet50",
        options={"sub_batch": 4},
        weights="imagenet",
        frames=1,
        test_frames=25,
        batch_size=256,
        accumulation=8,
        learning_rate=((1e-2, 10_000), (1e-3, 10_000)),
        repeats=10,
        epochs=1000,  # the counted updates end it
    ),
    "st_resnet_motion": Recipe(
        model="motion_resnet50",
        options={"sub_batch": 86, "dropout": 0.8},
        weights="imagenet",
        frames=1,
        test_frames=25,
        crop="corners",
        batch_size=258,
        accumulation=3,
        learning_rate=((1e-2, 30_000), (1e-3, 10_000)),
        repeats=100,
        epochs=1000,
    ),
}
