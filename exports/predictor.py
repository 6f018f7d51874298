"""Reading an export back: a function from clips to named arrays.

Source: the signature of `zoo.exports.export`, thesis 7.3.3.
"""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf

from zoo.exports.folder import versions

GRAPH = "saved_model.pb"


def load_exported(path):
    """Loads an export for use in Python.

    Args:
        path: a version folder, or the folder of a model, whose highest version is
            taken.

    Returns:
        An `Exported`, to be called with uint8 clips [B, T, H, W, 3].

    Raises:
        FileNotFoundError: no export there.
        ValueError: a damaged or foreign one.

    Source: the layout of TensorFlow Serving.
    """
    return Exported(find_version(path))


def find_version(path):
    """The version folder that `path` means; see `load_exported`.

    Source: the layout of TensorFlow Serving.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; `zoo export` or zoo.exports.export writes one."
        )
    if (path / GRAPH).is_file():
        return path
    found = versions(path)
    if found:
        return path / str(found[-1])
    inside = path.iterdir() if path.is_dir() else ()
    models = sorted(str(p) for p in inside if versions(p))
    if models:
        raise FileNotFoundError(
            f"{path} is no export but holds some; take one: {', '.join(models)}."
        )
    raise FileNotFoundError(
        f"{path} is no export: neither {GRAPH} nor a folder of a version (1, 2, ...) "
        "is in it. `zoo export` or zoo.exports.export writes one."
    )


class Exported:
    """An export in memory.

    Attributes:
        path: of the version folder.
        record: what zoo.json says; empty for a SavedModel written by others.

    Source: the signature of `zoo.exports.export`, thesis 7.3.3.
    """

    def __init__(self, path):
        self.path = Path(path)
        self._model = _load(self.path)
        self._run = self._model.signatures.get("serving_default")
        names = self._run and set(self._run.structured_input_signature[1])
        if names != {"clips"}:
            raise ValueError(
                f"{path} is a SavedModel, but not one of the zoo: its signature "
                f"serving_default takes {names and sorted(names)}, expected is "
                "['clips']."
            )
        record = self.path / "assets.extra" / "zoo.json"
        self.record = json.loads(record.read_text("utf-8")) if record.exists() else {}

    def __call__(self, clips):
        """Outputs of the signature for a batch of clips.

        Args:
            clips: uint8 [B, T, H, W, 3], RGB, any length and size.

        Returns:
            {"scores", "logits": [B, K]; "classes", "labels", "top_scores": [B, k]} as
            NumPy arrays, labels as str.

        Raises:
            ValueError: another type or shape, or larger than the export's limits.
        """
        clips = np.asarray(clips)
        if clips.dtype != np.uint8 or clips.ndim != 5 or clips.shape[-1] != 3:
            raise ValueError(
                f"clips must be uint8 [B, T, H, W, 3], RGB, got {clips.dtype} of shape "
                f"{clips.shape}; one video of frames [T, H, W, 3] is frames[None]."
            )
        try:
            outputs = self._run(clips=tf.constant(clips))
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(_assertion(error.message)) from error
        arrays = {key: value.numpy() for key, value in outputs.items()}
        arrays["labels"] = np.char.decode(arrays["labels"].astype("S"), "utf-8")
        return arrays


def _load(path):
    try:
        return tf.saved_model.load(str(path))
    except Exception as error:  # by what is damaged: OpError, OSError, IndexError, ...
        raise ValueError(
            f"{path} cannot be loaded, a file is missing or damaged; copy it again or "
            f"export again. TensorFlow says: {error}"
        ) from error


def _assertion(message):
    """What an assertion in the graph says, without the names of operations."""
    if "assertion failed: " not in message:
        return message
    text = message.split("assertion failed: [", 1)[1].split("\n")[0]
    return text.replace(":] [", ": [", 1)
