"""Comparing an export with the model it was made from, before it is published.

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

from zoo.exports.checks import CHANNELS
from zoo.exports.jpeg import decode
from zoo.exports.signature import computes_flow
from zoo.models.endpoints import features
from zoo.models.plain_rgb import network_of
from zoo.models.testing import (
    alone_or_all,
    inputs_of,
    video_classifier,
    video_view,
)

TOLERANCE = 1e-5  # of the largest raw score, or of 1 if that is less
# bfloat16 keeps 8 binary digits and float16 11; how a server's compiler groups
# operations decides what is rounded, and errors of single operations add up.
HALF_TOLERANCE = 2**-5
FLOW_TOLERANCE = 1e-3  # of networks that compute flow, by hundreds of iterations
SCRIPT = Path(__file__).with_name("fresh_process.py")
SHAPE = (1, 5, 48, 64)  # of the clips that are compared, B, T, H, W
FLOW_SHAPE = (1, 3, 48, 64)  # of those between which flow is computed


class VerificationError(RuntimeError):
    """An export that does not compute what its network computes, or does not load.

    Source: none; see the module.
    """


def verify(folder, model, contract, served):
    """Raises unless an export gives the model's own outputs in a fresh process.

    The process uses the loader of TensorFlow Serving, on the CPU, and cannot import
    the zoo. Every signature is run, but for `features` of a network that computes flow:
    they are of what `serving_default` computes, and would take a minute more. Outputs
    may differ by 1e-5 of the largest raw score (of 1 if that is less), those of a
    network that computes flow by 1e-3. A network that computes in half precision may
    differ by 1/32, since rounding depends on the order of operations; its traced
    functions by 1e-5 all the same.

    Args:
        folder: of the SavedModel.
        model: the classifier.
        contract: `Contract` it was exported by, with labels.
        served: its `zoo.exports.signature.Served`.

    Returns:
        The largest difference from the model, of all signatures.

    Raises:
        VerificationError: it does not load, or the outputs differ.

    Source: thesis 7.3.3 for the network.
    """
    requests = sample_requests(served, computes_flow(model))
    with tf.device("/CPU:0"):  # a GPU rounds otherwise
        expected = expected_outputs(model, contract, requests)
        traced = {
            name: served.functions[name](**_tensors(inputs))
            for name, inputs in requests.items()
        }
    got = run_in_fresh_process(folder, requests, scratch=folder)
    same = FLOW_TOLERANCE if computes_flow(model) else TOLERANCE
    differences = []
    for name, outputs in expected.items():
        of_trace = {key: traced[name][key] for key in outputs}
        compare(of_trace, got[name], same, name)
        difference = compare(outputs, got[name], tolerance(model), name)
        if "labels" in got[name]:
            require_consistent(got[name], contract.labels)
        differences.append(difference)
    return max(differences)


def sample_requests(served, with_flow=False):
    """One request of every signature that is verified, all of the same moving waves.

    Noise would do as well, but flow between frames of noise is as chaotic as they are,
    and turns on the last bit.

    Args:
        served: `zoo.exports.signature.Served`.
        with_flow: whether it computes flow, between few frames then.

    Returns:
        {signature: {input: array}}; JPEG files as bytes, and clips as they decode.

    Source: thesis 2.3 for the inputs.
    """
    shape = FLOW_SHAPE if with_flow else SHAPE
    files, clips = encoded(waves(shape))
    flow = np.random.default_rng(0).normal(0, 5, (*shape, CHANNELS["flow"]))
    arrays = {
        "clips": clips,
        "rgb": clips.astype(np.float32),
        "flow": flow.astype(np.float32),
        "jpeg": files,
    }
    return {
        name: {key: arrays[key] for key in function.structured_input_signature[1]}
        for name, function in served.functions.items()
        if name != "features" or not with_flow
    }


def encoded(clips):
    """JPEG files of clips, bytes [B, T], and the clips as they decode.

    Args:
        clips: uint8 [B, T, H, W, 3].

    Source: ITU-T T.81.
    """
    files = [[tf.io.encode_jpeg(frame).numpy() for frame in clip] for clip in clips]
    decoded = [[decode(file) for file in row] for row in files]
    return np.array(files), np.array(decoded)


def expected_outputs(model, contract, requests):
    """What a model gives for requests, by the networks that evaluate it in Python.

    Args:
        model: the classifier. contract: `Contract`. requests: of `sample_requests`.

    Returns:
        {signature: {output: array}}, those that are numbers of the model.

    Source: thesis 7.3.3.
    """
    view = contract.frames, contract.shorter_side
    network = video_classifier(model, *view, contract.flip)
    inner = network_of(model)

    def answer(inputs):
        outputs = network(alone_or_all(inputs), training=False)
        return {"logits": outputs["logits"], "scores": outputs["predictions"]}

    def raw(inputs):
        inputs = alone_or_all({kind: inputs[kind] for kind in inputs_of(inner)})
        names = ["logits", "predictions"]
        names += [f"{tower}_logits" for tower in getattr(inner, "towers", ())]
        return features(inner, names)(inputs, training=False)

    def maps(inputs):
        seen = video_view(model, *view)(alone_or_all(inputs), training=False)
        return features(inner, contract.features)(alone_or_all(seen), training=False)

    makers = {"serving_default": answer, "raw": raw, "features": maps}
    outputs = {
        name: makers[name](inputs)
        for name, inputs in requests.items()
        if name != "jpeg"
    }
    # Its files are those of the same clips.
    files = {"jpeg": outputs["serving_default"]} if "jpeg" in requests else {}
    return outputs | files


def waves(shape):
    """Frames of waves that move a pixel to the right each, uint8 [B, T, H, W, 3].

    Args:
        shape: (B, T, H, W).

    Source: none.
    """
    b, t, y, x = np.indices(shape, sparse=True)
    colours = [np.sin((x - t) / 4 + y / 7 + b + phase) for phase in (0, 1, 2)]
    return np.uint8(127 + 100 * np.stack(colours, axis=-1))


def _tensors(inputs):
    return {name: tf.constant(x) for name, x in inputs.items()}


def tolerance(model):
    """What outputs may differ by, relative to the raw scores (see `verify`).

    Source: the formats' precision, IEEE 754 and bfloat16.
    """
    if compute_dtypes(model) & {"float16", "bfloat16"}:
        return HALF_TOLERANCE
    return FLOW_TOLERANCE if computes_flow(model) else TOLERANCE


def compute_dtypes(network):
    """The types in which the layers of a network compute, nested ones included.

    Source: keras.DTypePolicy.
    """
    nested = [x for x in network.layers if isinstance(x, keras.Model)]
    own = {layer.compute_dtype for layer in network.layers if layer not in nested}
    return own.union(*(compute_dtypes(model) for model in nested))


def compare(expected, got, relative, signature="serving_default"):
    """The largest difference of the outputs of a signature; see `verify`.

    Args:
        expected: {output: float array} of the model.
        got: all outputs of the signature.
        relative: accepted difference, as part of the largest raw score, or of the
            largest value of a signature that has none.
        signature: its name.

    Raises:
        VerificationError: a larger difference, or a value that is not finite.

    Source: none; see the module.
    """
    expected = {key: np.asarray(value, float) for key, value in expected.items()}
    if not all(np.isfinite(value).all() for value in expected.values()):
        raise VerificationError(
            "The model itself returns scores that are not finite, so there is nothing "
            "to serve. Check its weights, e.g. for a training that diverged."
        )
    scores = [expected["logits"]] if "logits" in expected else expected.values()
    largest = max(float(np.abs(value).max()) for value in scores)
    accepted, difference = relative * max(1.0, largest), 0.0
    for key, value in expected.items():
        apart = np.abs(value - got[key]).max()
        if not apart <= accepted:  # also if it is not a number
            raise VerificationError(
                f"The export's `{key}` differ from the model's by {apart:.3g}, "
                f"accepted is {accepted:.3g} ({signature}). It was not published."
            )
        difference = max(difference, float(apart))
    return difference


def require_consistent(got, labels):
    """Makes sure that classes, labels and top scores of an answer are of its scores.

    Args:
        got: outputs of `serving_default` or `jpeg`. labels: one string per class.

    Raises:
        VerificationError: they are not.

    Source: none; see the module.
    """
    top = np.take_along_axis(got["scores"], got["classes"], axis=1)
    names = np.asarray(labels)[got["classes"]]
    if not (np.array_equal(top, got["top_scores"]) and (names == got["labels"]).all()):
        raise VerificationError(
            "The export's classes, labels and top_scores do not belong together. "
            "It was not published."
        )


def run_in_fresh_process(folder, requests, scratch=None):
    """Outputs of signatures, computed by `fresh_process.py`.

    Args:
        folder: of the SavedModel.
        requests: {signature: {input: array}}.
        scratch: folder for temporary files; None takes the system's.

    Returns:
        {signature: {output: array}}.

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
        arrays = {
            f"{name}/{key}": array
            for name, inputs in requests.items()
            for key, array in inputs.items()
        }
        np.savez(given, **arrays)
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
        found = {name: {} for name in requests}
        with np.load(outputs) as results:
            for path, array in results.items():
                name, key = path.split("/")
                found[name][key] = array
        return found
