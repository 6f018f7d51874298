"""T-ResNet on YUP++, the training of thesis 7.3.3 in its two stages.

The promise (Table 7.2, accuracy on YUP++ with the 10/90 split): 92.4 % with a static
camera and 81.5 % with a moving one for T-ResNet-50, against the ResNet-50 of stage 1.
These are the thesis' numbers; they need the YUP++ videos and a GPU, and have not been
repeated here.

    zoo train dynamic_scenes_spatial --data YUP++/train --validation YUP++/test \\
        --out runs/spatial
    zoo train dynamic_scenes --data YUP++/train --validation YUP++/test \\
        --weights runs/spatial/best --out runs/temporal
    zoo evaluate --model runs/temporal/best --data YUP++/test --out runs/report

YUP++/train and YUP++/test hold camera_stationary/<class>/ and camera_moving/<class>/.

Stage 1 takes one frame of each of 256 videos per update, stage 2 16 frames of each of
256 / 32 = 8 videos. Where the thesis is silent: one epoch is 50 passes over the list
and batch normalisation works on groups of 4 videos (both from the released code). The
number of epochs is a bound; training ends when the error saturates after two drops.
Stage 1 computes its batch in 8 parts on one device; for several devices, or with
memory enough for 256 frames at once, add --set accumulation=1.
"""

from zoo.training.recipe import Recipe

RECIPES = {
    "dynamic_scenes_spatial": Recipe(
        model="resnet50",
        options={"sub_batch": 4},
        weights="imagenet",
        frames=1,
        batch_size=256,
        accumulation=8,
        repeats=50,
        epochs=30,
    ),
    "dynamic_scenes": Recipe(
        model="t_resnet50",
        options={"sub_batch": 4},
        frames=16,
        stride=(5, 15),
        batch_size=8,
        repeats=50,
        epochs=30,
    ),
}
