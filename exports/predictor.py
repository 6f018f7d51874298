"""Reading an export back: a function from clips to named arrays.

Source: the signature of `zoo.exports.export`, thesis 7.3.3.
"""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf

from zoo.exports.checks import CHANNELS, CONTENTS, TYPES
from zoo.exports.folder import versions
from zoo.exports.server_errors import readable

GRAPH = "saved_model.pb"


def load_exported(path):
    """Loads an export for use in Python.

    Args:
        path: a version folder, or the folder of a model, whose highest version is
            taken.

    Returns:
        An `Exported`, to be called with uint8 clips [B, T, H, W, 3], with flow, or
        both, as its model sees them.

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
        inputs: names of what it takes, "clips", "flow" or both.
        signatures: names of what it answers; one method each.
        record: what zoo.json says; empty for a SavedModel written by others.

    Source: the signature of `zoo.exports.export`, thesis 7.3.3.
    """

    def __init__(self, path):
        self.path = Path(path)
        self._model = _load(self.path)
        self.signatures = tuple(self._model.signatures)
        record = self.path / "assets.extra" / "zoo.json"
        self.record = json.loads(record.read_text("utf-8")) if record.exists() else {}
        if self.record.get("task") == "detection":
            raise ValueError(
                f"{path} is a detector, and this reads classifiers; call its signature "
                "itself: tf.saved_model.load(path).signatures['serving_default']"
                "(frames=...)."
            )
        found = self._inputs("serving_default")
        if not found or not set(found) <= {"clips", "flow"}:
            raise ValueError(
                f"{path} is a SavedModel, but not one of the zoo: its signature "
                f"serving_default takes {found}, expected are ['clips'], ['flow'] or "
                "both."
            )
        self.inputs = tuple(found)

    def __call__(self, clips=None, flow=None):
        """Outputs of the signature `serving_default` for a batch of clips.

        Args:
            clips: uint8 [B, T, H, W, 3], RGB, any length and size.
            flow: float32 [B, T, H, W, 20], the stacks of optical flow around the
                frames in pixels; for a model that sees flow.

        Returns:
            {"scores", "logits": [B, K]; "classes", "labels", "top_scores": [B, k]} as
            NumPy arrays, labels as str.

        Raises:
            ValueError: another type or shape, or larger than the export's limits; an
                input that is missing, or that the model does not take.
        """
        return self._answer("serving_default", clips=clips, flow=flow)

    def jpeg(self, jpeg):
        """The same for JPEG files of the frames: bytes, a nested sequence [B][T].

        Raises:
            ValueError: a file that is none, files of several sizes, or a request that
                is empty or larger than the export's limits; a model that needs flow.
        """
        return self._answer("jpeg", jpeg=jpeg)

    def raw(self, rgb=None, flow=None):
        """Scores of what the network itself sees, neither sampled nor resized.

        Args:
            rgb: float32 [B, T, H, W, 3], 0-255. flow: as for a call.

        Returns:
            {"logits", "predictions": [B, K]} and of a network of towers
            "appearance_logits" and "motion_logits".

        Raises:
            ValueError: as a call.
        """
        return self._answer("raw", rgb=rgb, flow=flow)

    def features(self, clips=None, flow=None):
        """Maps of the endpoints that were chosen at export, {name: [B, T', H', W', C]}.

        Args:
            clips, flow: as for a call.

        Raises:
            ValueError: as a call; an export without them.
        """
        return self._answer("features", clips=clips, flow=flow)

    def _inputs(self, signature):
        run = self._model.signatures.get(signature)
        return run and sorted(run.structured_input_signature[1])

    def _answer(self, signature, **given):
        inputs = self._inputs(signature)
        if inputs is None:
            raise ValueError(
                f"{self.path} has no signature {signature!r}, but "
                f"{', '.join(self.signatures)}; export again for more."
            )
        given = {name: x for name, x in given.items() if x is not None}
        if set(given) != set(inputs):
            raise ValueError(
                f"{self.path} takes {' and '.join(inputs)}; got "
                f"{' and '.join(given) or 'nothing'}."
            )
        tensors = {
            name: _files(x) if name == "jpeg" else tf.constant(_checked(name, x))
            for name, x in given.items()
        }
        try:
            outputs = self._model.signatures[signature](**tensors)
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(readable(error.message)) from error
        arrays = {key: value.numpy() for key, value in outputs.items()}
        if "labels" in arrays:
            arrays["labels"] = np.char.decode(arrays["labels"].astype("S"), "utf-8")
        return arrays


def _files(files):
    try:
        return tf.constant(files, tf.string)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "jpeg must be bytes, JPEG files of the frames of every clip, [B][T] with "
            f"as many frames in every clip; got {type(files).__name__}: {error}"
        ) from error


def _checked(name, array):
    array = np.asarray(array)
    if TYPES[name] == tf.float32 and array.dtype.kind == "f":
        array = array.astype(np.float32)
    channels = CHANNELS[name]
    wrong = array.dtype != TYPES[name] or array.ndim != 5 or array.shape[-1] != channels
    if wrong:
        raise ValueError(
            f"{name} must be {CONTENTS[name]}, got {array.dtype} of shape "
            f"{array.shape}; one video of frames [T, H, W, {channels}] is frames[None]."
        )
    return array


def _load(path):
    try:
        return tf.saved_model.load(str(path))
    except Exception as error:  # by what is damaged: OpError, OSError, IndexError, ...
        raise ValueError(
            f"{path} cannot be loaded, a file is missing or damaged; copy it again or "
            f"export again. TensorFlow says: {error}"
        ) from error
