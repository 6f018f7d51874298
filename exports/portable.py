"""What exports as a single file have in common: one function, written and compared.

LiteRT and ONNX run the network that SavedModels run, from the frames of a video to its
scores, with normalisations folded; the rest of the signatures is for servers.

Source: the test-time network of thesis 7.3.3.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from zoo.exports.checks import TYPES
from zoo.exports.optimize import optimized
from zoo.exports.saved_model import check_model
from zoo.exports.signature import computes_flow, copies
from zoo.exports.verification import FLOW_TOLERANCE, VerificationError, waves
from zoo.files import replacing
from zoo.models.testing import alone_or_all, video_classifier

TOLERANCE = 1e-4  # of the largest raw score, or of 1 if that is less
# A clip longer than the view and one shorter, none of the size of the other.
SHAPES = ((1, 7, 52, 70), (2, 3, 64, 48))


class FormatError(ValueError):
    """A model needs something that a format does not have.

    Source: none; see the module.
    """


class Format(NamedTuple):
    """A format of files.

    Attributes:
        name: of it. ending: of its files.
        convert: from a `Network` to the bytes of a file.
        run: from a path and {input: array} to {output: array}.

    Source: none; see the module.
    """

    name: str
    ending: str
    convert: Callable
    run: Callable


class Network(NamedTuple):
    """A function to convert.

    Attributes:
        name: of the model. module: owner of the weights.
        function: the tf.function of `specs`. specs: {input: tf.TensorSpec}.

    Source: thesis 7.3.3.
    """

    name: str
    module: tf.Module
    function: Callable
    specs: dict


def export_file(model, path, contract, kind, verify=True):
    """Writes a classifier as a file, and the names of its classes beside it.

    Args:
        model: a classifier of the zoo.
        path: of the file. contract: `zoo.exports.Contract`.
        kind: the `Format`.
        verify: run the file and compare it with the model.

    Returns:
        The path, a pathlib.Path.

    Raises:
        ValueError: another ending, labels that do not fit, or a detector.
        FileExistsError: the file exists.
        FormatError: the model needs what the format does not have.
        VerificationError: the file does not compute what the model does.

    Source: thesis 7.3.3.
    """
    path = _checked(model, Path(path), kind)
    view = contract.frames, contract.shorter_side, contract.flip
    network = video_classifier(model, *view)
    labels = _labels(contract.labels, network.output["logits"].shape[-1])
    # Of the model alone: a network of videos is built from its named layers.
    converted = kind.convert(_network(video_classifier(optimized(model), *view)))
    with replacing(path) as temporary:
        temporary.write_bytes(converted)
        if verify:
            run = kind.run
            apart = compare(network, lambda inputs: run(temporary, inputs))
            logging.info("%s agrees with the model to %.2g.", path.name, apart)
    beside = path.with_name(f"{path.stem}.labels.txt")
    beside.write_text("".join(f"{label}\n" for label in labels), "utf-8")
    return path


def _checked(model, path, kind):
    check_model(model)
    if isinstance(model.output, dict) and "class_scores" in model.output:
        raise ValueError(
            f"{kind.name} files are written of classifiers, and {model.name} finds "
            "objects: export it as a SavedModel."
        )
    if path.suffix != kind.ending:
        raise ValueError(f"{kind.name} files end in {kind.ending}, got {path.name!r}.")
    if path.exists():
        raise FileExistsError(f"{path} exists; choose another name or remove it.")
    return path


def _labels(labels, classes):
    labels = labels or [f"class_{i}" for i in range(classes)]
    if len(labels) != classes:
        raise ValueError(
            f"The model has {classes} classes, got {len(labels)} labels "
            f"({', '.join(map(repr, labels[:3]))}, ...). Pass one per class, in order."
        )
    return labels


def _network(network):
    """The function to convert, of plain variables, see `zoo.exports.signature`."""
    module = tf.Module()
    module.trained = copies(network.trainable_variables)
    module.fixed = copies(network.non_trainable_variables)

    def answer(**inputs):
        outputs, _ = network.stateless_call(
            module.trained, module.fixed, alone_or_all(inputs), training=False
        )
        return {"logits": outputs["logits"], "scores": outputs["predictions"]}

    specs = {
        x.name: tf.TensorSpec((None,) * 4 + (x.shape[-1],), TYPES[x.name], x.name)
        for x in network.inputs
    }
    return Network(network.name, module, tf.function(answer, autograph=False), specs)


def compare(network, run):
    """The largest difference between a file and the network it was made of.

    Args:
        network: of `zoo.models.testing.video_classifier`, not optimised.
        run: from {input: array} to {output: array}.

    Raises:
        VerificationError: `logits` or `scores` differ by more than 1e-4 of the largest
            raw score (of 1 if that is less), 1e-3 where flow is computed, or a value is
            not finite.

    Source: none; see the module.
    """
    worst = 0.0
    for shape in SHAPES:
        inputs = _sample(network, shape)
        expected = network(alone_or_all(inputs), training=False)
        got = run(inputs)
        logits = keras.ops.convert_to_numpy(expected["logits"])
        relative = FLOW_TOLERANCE if computes_flow(network) else TOLERANCE
        accepted = relative * max(1.0, float(np.abs(logits).max()))
        pairs = {"logits": "logits", "scores": "predictions"}
        for name, of_network in pairs.items():
            value = keras.ops.convert_to_numpy(expected[of_network])
            if value.shape != got[name].shape:
                raise VerificationError(
                    f"The file's `{name}` have shape {got[name].shape}, the model's "
                    f"{value.shape}. It was not published."
                )
            apart = float(np.abs(value - got[name]).max())
            if not apart <= accepted:  # also if it is not a number
                raise VerificationError(
                    f"The file's `{name}` differ from the model's by {apart:.3g}, "
                    f"accepted is {accepted:.3g}. It was not published."
                )
            worst = max(worst, apart)
    return worst


def _sample(network, shape):
    """Random clips of a shape; moving waves for flow, which noise makes chaotic."""
    if computes_flow(network):
        return {"clips": np.repeat(waves((1, *shape[1:])), shape[0], axis=0)}
    rng = np.random.default_rng(0)
    makers = {
        "clips": lambda shape: rng.integers(0, 256, shape, np.uint8),
        "flow": lambda shape: rng.normal(0, 5, shape).astype(np.float32),
    }
    return {x.name: makers[x.name]((*shape, x.shape[-1])) for x in network.inputs}
