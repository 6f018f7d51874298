"""What happens at the end of an epoch: keep the best model, save the state, stop.

keras.callbacks.BackupAndRestore overwrites its only copy in place, so a full disk or
a kill at the wrong moment destroys it; `Snapshot` replaces it by a complete new file
or leaves it alone.

Source: our own; the files are Keras' `.weights.h5`.
"""

import contextlib
import errno
import math
import re
from pathlib import Path

import keras

from zoo.files import replacing
from zoo.weights import folder as model_folder

_SNAPSHOT = "epoch-{:04d}.weights.h5"


class Diverged(ValueError):
    """The loss is no longer a finite number (our own check)."""


class StopWhenDiverged(keras.callbacks.Callback):
    """Raises `Diverged` when the loss is NaN or infinite, before anything is saved.

    Args:
        run_dir: named in the message.

    Source: our own; keras.callbacks.TerminateOnNaN ends as if all were well.
    """

    def __init__(self, run_dir):
        super().__init__()
        self.run_dir = run_dir

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
            raise Diverged(
                f"The loss became {loss} in epoch {self._epoch + 1}, step {batch + 1}, "
                f"at a learning rate of {rate:.3g}. {self.run_dir} keeps the epochs "
                "before; start again in another folder with a lower learning rate."
            )


class Snapshot(keras.callbacks.Callback):
    """Saves weights and optimiser after every epoch, and restores them.

    The folder holds one complete snapshot at any time, its epoch in its name.

    Args:
        folder: for the snapshots; created if absent.

    Source: our own.
    """

    def __init__(self, folder):
        super().__init__()
        self.folder = Path(folder)

    @property
    def epochs(self):
        """Number of epochs that the latest snapshot has seen (0 without one)."""
        return max(map(_epoch_of, self._files()), default=0)

    def restore(self, model):
        """Loads the latest snapshot into a compiled model, if there is one.

        Args:
            model: compiled keras.Model of the same architecture and optimiser.

        Returns:
            The number of epochs it has seen.

        Raises:
            ValueError: the snapshot is of another model.
        """
        epochs = self.epochs
        if epochs:
            path = self.folder / _SNAPSHOT.format(epochs)
            model.optimizer.build(model.trainable_variables)
            model_folder.load_weights(model, path)
        return epochs

    def on_epoch_end(self, epoch, logs=None):
        earlier = self._files()
        path = self.folder / _SNAPSHOT.format(epoch + 1)
        with replacing(path) as temporary, hdf5_errors():
            self.model.save_weights(temporary)
        for file in earlier:
            if file != path:
                file.unlink()

    def _files(self):
        return [p for p in self.folder.glob("epoch-*.weights.h5") if _epoch_of(p)]


def _epoch_of(path):
    match = re.fullmatch(r"epoch-(\d+)\.weights\.h5", path.name)
    return int(match[1]) if match else 0


class BestModel(keras.callbacks.Callback):
    """Keeps the best epoch so far as a model folder, without the optimiser's state.

    Best is the highest validation accuracy, at equal accuracy the lowest loss; the
    training's own figures count where there is no validation.

    Args:
        folder: to write. record: its `zoo.weights.folder.ModelRecord`.
        history: rows ({key: value}) of earlier epochs, when training is resumed.

    Source: our own.
    """

    def __init__(self, folder, record, history=()):
        super().__init__()
        self.folder = folder
        self.record = record
        self.best = max(map(_merit, history), default=(-math.inf,))

    def on_epoch_end(self, epoch, logs=None):
        merit = _merit(logs)
        if merit > self.best:
            save_model(self.folder, self.model, self.record)
            self.best = merit


def _merit(logs):
    prefix = "val_" if logs.get("val_loss") is not None else ""
    return logs[f"{prefix}accuracy"], -logs[f"{prefix}loss"]


def save_model(folder, model, record):
    """Writes a model folder without the optimiser's state (our format).

    Args:
        folder, model, record: as in `zoo.weights.folder.save`.
    """
    bare = type(model)(model.input, model.output, name=model.name)
    with hdf5_errors():
        model_folder.save(folder, bare, record)


@contextlib.contextmanager
def hdf5_errors():
    """Turns HDF5's own words for a full disk into an OSError (format: HDF Group).

    Raises:
        OSError: ENOSPC, when HDF5 reports it in the text of a RuntimeError.
    """
    try:
        yield
    except RuntimeError as error:
        if "No space left" not in str(error):
            raise
        raise OSError(errno.ENOSPC, "No space left on device") from error
