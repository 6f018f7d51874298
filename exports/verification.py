"""Comparing an export with the network it was made from, before it is published.

Source: thesis 7.3.3 for the network; the house rule that nothing is served unchecked.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from zoo.exports.signature import channels_of, computes_flow
from zoo.models.testing import alone_or_all

TOLERANCE = 1e-5  # of the largest raw score, or of 1 if that is less
# bfloat16 keeps 8 binary digits and float16 11; how a server's compiler groups
# operations decides what is rounded, and errors of single operations add up.
HALF_TOLERANCE = 2**-5
FLOW_TOLERANCE = 1e-3  # of networks that compute flow, by hundreds of iterations
SCRIPT = Path(__file__).with_name("fresh_process.py")


class VerificationError(RuntimeError):
    """An export that does not compute what its network computes, or does not load.

    Source: none; see the module.
    """


def verify(folder, network, function, labels):
    """Raises unless an export gives the network's own outputs in a fresh process.

    The process uses the loader of TensorFlow Serving, on the CPU, and cannot import
    the zoo. Outputs may differ by 1e-5 of the largest raw score (of 1 if that is
    less), those of a network that computes flow by 1e-3. A network that computes in
    half precision may differ by 1/32, since rounding depends on the order of
    operations; its traced function by 1e-5 all the same.

    Args:
        folder: of the SavedModel.
        network: of `zoo.models.testing.video_classifier`.
        function: its concrete function, see `zoo.exports.signature`.
        labels: one string per class.

    Returns:
        The largest difference from the network, in raw scores and probabilities.

    Raises:
        VerificationError: it does not load, or the outputs differ.

    Source: thesis 7.3.3 for the network.
    """
    inputs = sample_inputs(network)
    with tf.device("/CPU:0"):  # a GPU rounds otherwise
        outputs = network(alone_or_all(inputs), training=False)
        traced = function(**{name: tf.constant(x) for name, x in inputs.items()})
    expected = {"logits": outputs["logits"], "scores": outputs["predictions"]}
    got = run_in_fresh_process(folder, inputs, scratch=folder)
    same = FLOW_TOLERANCE if computes_flow(network) else TOLERANCE
    compare({key: traced[key] for key in expected}, got, labels, same)
    return compare(expected, got, labels, tolerance(network))


def sample_inputs(network):
    """Random clips of what a network takes: colours, and flow of a few pixels.

    A network that computes flow gets a moving wave: flow between frames of noise is as
    chaotic as they are, and turns on the last bit.

    Source: thesis 2.3 for the inputs.
    """
    rng, shape = np.random.default_rng(0), (1, 5, 48, 64)
    if computes_flow(network):
        return {"clips": _waves(shape)}
    makers = {
        "clips": lambda shape: rng.integers(0, 256, shape, np.uint8),
        "flow": lambda shape: rng.normal(0, 5, shape).astype(np.float32),
    }
    return {
        name: makers[name]((*shape, channels))
        for name, channels in channels_of(network).items()
    }


def _waves(shape):
    """Frames of waves that move a pixel to the right each, uint8 [1, T, H, W, 3]."""
    _, frames, height, width = shape
    t, y, x = np.mgrid[:frames, :height, :width]
    colours = [np.sin((x - t) / 4 + y / 7 + phase) for phase in (0, 1, 2)]
    return np.uint8(127 + 100 * np.stack(colours, axis=-1))[None]


def tolerance(network):
    """What outputs may differ by, relative to the raw scores (see `verify`).

    Source: the formats' precision, IEEE 754 and bfloat16.
    """
    if compute_dtypes(network) & {"float16", "bfloat16"}:
        return HALF_TOLERANCE
    return FLOW_TOLERANCE if computes_flow(network) else TOLERANCE


def compute_dtypes(network):
    """The types in which the layers of a network compute, nested ones included.

    Source: keras.DTypePolicy.
    """
    nested = [x for x in network.layers if isinstance(x, keras.Model)]
    own = {layer.compute_dtype for layer in network.layers if layer not in nested}
    return own.union(*(compute_dtypes(model) for model in nested))


def compare(expected, got, labels, relative):
    """The largest difference of `scores` and `logits`; see `verify`.

    Args:
        expected: {"scores", "logits"} of the network, float [B, K].
        got: all outputs of the signature.
        labels: one string per class.
        relative: accepted difference, as part of the largest raw score.

    Raises:
        VerificationError: a larger difference, a value that is not finite, or classes,
            labels and top scores that do not belong together.

    Source: none; see the module.
    """
    expected = {key: np.asarray(value) for key, value in expected.items()}
    if not all(np.isfinite(value).all() for value in expected.values()):
        raise VerificationError(
            "The model itself returns scores that are not finite, so there is nothing "
            "to serve. Check its weights, e.g. for a training that diverged."
        )
    accepted = relative * max(1.0, float(np.abs(expected["logits"]).max()))
    difference = 0.0
    for key, value in expected.items():
        apart = np.abs(value - got[key]).max()
        if not apart <= accepted:  # also if it is not a number
            raise VerificationError(
                f"The export's `{key}` differ from the model's by {apart:.3g}, "
                f"accepted is {accepted:.3g}. It was not published."
            )
        difference = max(difference, float(apart))
    top = np.take_along_axis(got["scores"], got["classes"], axis=1)
    names = np.asarray(labels)[got["classes"]]
    if not (np.array_equal(top, got["top_scores"]) and (names == got["labels"]).all()):
        raise VerificationError(
            "The export's classes, labels and top_scores do not belong together. "
            "It was not published."
        )
    return difference


def run_in_fresh_process(folder, inputs, scratch=None):
    """Outputs of the signature, computed by `fresh_process.py`.

    Args:
        folder: of the SavedModel.
        inputs: {name: array} of the signature.
        scratch: folder for temporary files; None takes the system's.

    Returns:
        {output: array}.

    Raises:
        VerificationError: the process failed; the message ends with its own.

    Source: tensorflow.org/guide/saved_model.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "CUDA_VISIBLE_DEVICES": "-1",  # this process may hold all of its memory
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    with tempfile.TemporaryDirectory(dir=scratch) as scratch:
        given, outputs = os.path.join(scratch, "in.npz"), f"{scratch}/out.npz"
        np.savez(given, **inputs)
        command = [sys.executable, "-P", SCRIPT, folder, given, outputs]
        process = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=1800
        )
        if process.returncode:
            raise VerificationError(
                "The export does not run in a fresh process with TensorFlow alone "
                f"(exit status {process.returncode}), so it was not published. The "
                f"process said:\n{process.stderr[-3000:]}"
            )
        with np.load(outputs) as arrays:
            return dict(arrays)
