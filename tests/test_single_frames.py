"""A single frame of the synthetic scenes carries no class information.

A network is trained on single frames, read back from the files through the training
pipeline, until it knows its training frames; on unseen videos it stays at chance. The
same network on the same frames learns what frames do show, so it could have learnt.
"""

import keras
import numpy as np
import pytest

import zoo
from zoo.datasets import ClipSpec, FrameCache, VideoList, training_dataset
from zoo.datasets.pipeline import test_videos
from zoo.datasets.synthetic import write_dynamic_scenes

SPEC = ClipSpec(
    frames=1, size=32, shorter_side=32, stride_range=(1, 1), jitter=0.0, flip=False
)
STEPS, BATCH = 150, 32


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Training frames by the pipeline, and one middle frame per unseen video."""
    root = tmp_path_factory.mktemp("scenes")
    sets = []
    for seed, videos in enumerate((30, 25)):
        folder = root / str(seed)
        write_dynamic_scenes(folder, videos, size=(32, 32), frames=6, seed=seed)
        sets.append(VideoList.from_folder(folder))
    data = training_dataset(sets[0], BATCH, SPEC, cache=FrameCache())
    train = [np.concatenate(part) for part in zip(*data.take(STEPS), strict=True)]
    tests = list(test_videos(sets[1], 1))
    return train, (
        np.stack([t.clip for t in tests]),
        np.array([t.label for t in tests]),
    )


def accuracy(train, test, classes):
    """Accuracy on unseen frames after training the frame-wise network."""
    model = zoo.load("resnet_tiny", num_classes=classes)
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    model.fit(*train, batch_size=BATCH, epochs=1, shuffle=False, verbose=0)
    found = model.predict(test[0], verbose=0).argmax(axis=1)
    return (found == test[1]).mean()


@pytest.mark.slow
def test_frame_wise_network_stays_at_chance(frames):
    train, test = frames
    chance, count = 1 / 8, len(test[1])
    deviation = (chance * (1 - chance) / count) ** 0.5
    assert accuracy(train, test, 8) < chance + 4 * deviation


@pytest.mark.slow
def test_the_same_network_learns_what_frames_show(frames):
    """Control: whether a frame is bright, which every frame shows."""

    def bright(part):
        brightness = part[0].mean(axis=(1, 2, 3, 4))
        return part[0], (brightness > 128).astype("int32")

    train, test = (bright(part) for part in frames)
    assert accuracy(train, test, 2) > 0.9
