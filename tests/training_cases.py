"""A network and videos so small that a training takes seconds; also a script.

    python tests/training_cases.py VIDEOS RUN_DIR [KILL_AT]

trains `probe_net` on a folder of videos. KILL_AT kills the process with SIGKILL:
"start" while it writes run.json, "batch" in the middle of the third epoch, "epoch end"
when the fourth is logged but not saved.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path

import keras
import numpy as np

from zoo import layers, registry
from zoo.files import replacing
from zoo.training import Recipe

RECIPE = Recipe(
    model="probe_net",
    options={"sub_batch": 2},
    frames=2,
    test_frames=3,
    stride=(1, 2),
    size=16,
    shorter_side=16,
    batch_size=4,
    epochs=4,
    patience=1,
)


def probe_net(num_classes=2, classifier_activation="softmax", *, sub_batch=2):
    """A network with every kind of weight, and two layers."""
    rgb = keras.Input((None, None, None, 3), name="rgb")
    x = layers.RGBNormalization((120.0, 120.0, 120.0), name="rgb_normalization")(rgb)
    x = layers.SpatialConv(8, 3, 2, name="conv")(x)
    x = layers.SubBatchNormalization(sub_batch, name="bn")(x)
    x = keras.layers.ReLU(name="conv1")(x)
    x = layers.TemporalConv(taps=3, padding="same", name="time")(x)
    x = layers.ChannelScale(1.0, name="scale")(x)
    x = keras.layers.Dense(num_classes, name="fc")(x)
    x = keras.layers.GlobalAveragePooling3D(name="logits")(x)
    outputs = keras.layers.Activation(classifier_activation, name="predictions")(x)
    return keras.Model(rgb, outputs, name="probe_net")


def register_probe():
    """Registers `probe_net`."""
    registry.register(task="classification", section="7.3")(probe_net)


def write_videos(root, per_class=4, size=(16, 24)):
    """Two classes of noise, dark and light, in YUP++'s folders; returns the root."""
    from tests import video_files

    rng = np.random.default_rng(0)
    for camera in ("camera_stationary", "camera_moving"):
        for name, level in (("dark", 60), ("light", 190)):
            folder = Path(root) / camera / name
            folder.mkdir(parents=True)
            for number in range(per_class // 2):
                frames = level + rng.integers(-60, 60, (6, *size, 3))
                path = folder / f"{name}_{camera[7:]}_{number}.mp4"
                video_files.write(path, frames.astype(np.uint8))
    return Path(root)


def _kill():
    os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def _killed_inside(path):
    with replacing(path) as temporary:
        temporary.write_text("{")
        _kill()
        yield temporary


def _arm(kill_at):
    from zoo.training import fit, run
    from zoo.training.callbacks import Snapshot, StopWhenDiverged

    class KillInBatch(StopWhenDiverged):
        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)
            if (self._epoch, batch) == (2, 0):
                _kill()

    class KillAtEpochEnd(Snapshot):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 3:
                _kill()
            super().on_epoch_end(epoch, logs)

    if kill_at == "start":
        run.replacing = _killed_inside
    elif kill_at == "batch":
        fit.StopWhenDiverged = KillInBatch
    elif kill_at == "epoch end":
        fit.Snapshot = KillAtEpochEnd


def _main(videos, run_dir, kill_at=None):
    from zoo.datasets import VideoList
    from zoo.training import train

    register_probe()
    _arm(kill_at)
    listed = VideoList.from_folder(videos)
    train(RECIPE, listed, run_dir, listed, seed=3, verbose=0)


if __name__ == "__main__":
    _main(*sys.argv[1:])
