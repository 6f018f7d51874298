"""Export of a model as a SavedModel directory for TensorFlow Serving.

Source: the test-time network of thesis 7.3.3; the directory layout of
tensorflow.org/tfx/serving/serving_config.
"""

import dataclasses
import datetime
import hashlib
import json
import os
import re
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from absl import logging

import zoo.models
from zoo.exports import warmup
from zoo.exports.contract import Contract
from zoo.exports.folder import publishing, require_free
from zoo.exports.signature import (
    channels_of,
    computes_flow,
    endpoints_of,
    signatures,
)
from zoo.exports.verification import compute_dtypes
from zoo.exports.verification import verify as verify_export
from zoo.models.plain_rgb import network_of
from zoo.models.testing import video_classifier

EXTRA = "assets.extra"
RECORD = "zoo.json"
LABELS = "labels.txt"


def export(
    model,
    out_dir,
    name=None,
    labels=(),
    version=None,
    frames=16,
    shorter_side=256,
    flip=True,
    top_k=5,
    verify=True,
):
    """Writes `<out_dir>/<name>/<version>/`, which TensorFlow Serving can serve.

    The signature `serving_default` takes `clips`, uint8 [B, T, H, W, 3], RGB, of any
    length and size, and for a model that sees optical flow also (or only) `flow`,
    float32 [B, T, H, W, 20], the stack of flow in pixels around every frame. It
    returns `scores` and `logits` float32 [B, K], and of the k best classes, best
    first, `classes` int32, `labels` string and `top_scores` float32 [B, k]. Frames
    are taken, resized and normalised inside, and the scores
    of their mirror images averaged in, by the network that evaluates models in Python.
    A model that computes flow itself (`zoo.load(..., flow="tvl1")`) takes `clips`
    alone, and needs all frames of a video, without gaps.

    The directory appears whole or not at all, even if the process is killed.

    Args:
        model: a classifier of the zoo.
        out_dir: local folder of all served models.
        name: under which it is served; None takes the model's.
        labels: names of the classes in order; without, "class_0", "class_1", ...
        version: integer >= 1; None takes the one after the highest.
        frames: number of equally spaced frames taken from a clip.
        shorter_side: to which they are resized, in pixels.
        flip: average the raw scores over the frames and their mirror images.
        top_k: number of best classes returned, at most the number of classes.
        verify: run the export in a fresh process without the zoo and compare, before
            it is published; takes seconds, a minute for 50 layers on a few cores.

    Returns:
        The path of the directory, a pathlib.Path.

    Raises:
        ValueError: labels, name, version or numbers that do not fit.
        FileExistsError: the version exists.
        VerificationError: the export does not compute what the model does.
        OSError: no space left, or no permission; nothing is left behind.

    Source: thesis 7.3.3.
    """
    contract = Contract(labels, frames, shorter_side, flip, top_k)
    return publish(model, out_dir, contract, name, version, verify)


def publish(model, out_dir, contract, name=None, version=None, verify=True):
    """`export` by a `Contract`, which also holds limits and provenance.

    Args:
        model, out_dir, name, version, verify: as for `export`.
        contract: `Contract`; one without labels gets "class_0", "class_1", ...

    Returns:
        The path of the directory, a pathlib.Path.

    Source: thesis 7.3.3.
    """
    check_model(model)
    name = checked_name(model.name if name is None else name)
    folder = local(out_dir) / name
    require_free(folder, version)
    network = video_classifier(
        model, contract.frames, contract.shorter_side, contract.flip
    )
    contract = _with_labels(contract, network.output["logits"].shape[-1], name)
    endpoints = endpoints_of(network_of(model), contract.features)
    contract = dataclasses.replace(contract, features=endpoints)
    served = signatures(model, contract)
    record = {"name": name, "model": model.name, "task": "classification"}
    record |= _about(model, network) | dataclasses.asdict(contract)
    record["signatures"] = tensors_of(served)
    record |= facts(network, contract.labels)
    with publishing(folder, version) as publication:
        temporary = publication.temporary
        write(temporary, served, record)
        requests = warmup.requests(served, contract)
        warmup.write(temporary / EXTRA / warmup.FILE, name, requests)
        if verify:
            difference = verify_export(temporary, model, contract, served)
            logging.info("The export agrees with the model to %.2g.", difference)
    return publication.path


def _about(model, network):
    """Facts of zoo.json that a client may ask for."""
    activation = network_of(model).get_layer("predictions").activation.__name__
    return {
        "activation": activation,
        "inputs": list(channels_of(network)),
        "computes_flow": computes_flow(model),
    }


def tensors_of(served):
    """{signature: {"inputs", "outputs": {name: {"dtype", "shape"}}}} for zoo.json.

    Args:
        served: `zoo.exports.signature.Served`.

    Source: tensorflow.org/guide/saved_model.
    """

    def listed(tensors):
        return {
            name: {"dtype": tensor.dtype.name, "shape": list(tensor.shape)}
            for name, tensor in sorted(tensors.items())
        }

    return {
        name: {
            "inputs": listed(function.structured_input_signature[1]),
            "outputs": listed(function.structured_outputs),
        }
        for name, function in served.functions.items()
    }


def write(folder, served, record):
    """SavedModel and record; TensorFlow Serving copies neither into its graph.

    Args:
        folder: to write. served: `zoo.exports.signature.Served`. record: what zoo.json
            says, with "labels".

    Source: tensorflow.org/guide/saved_model.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        labels = Path(scratch) / LABELS
        lines = "".join(f"{label}\n" for label in record["labels"])
        labels.write_text(lines, encoding="utf-8")
        served.module.labels = tf.saved_model.Asset(str(labels))
        tf.saved_model.save(served.module, str(folder), signatures=served.functions)
    extra = Path(folder) / EXTRA
    extra.mkdir()
    text = json.dumps(record, indent=2, ensure_ascii=False)
    (extra / RECORD).write_text(text + "\n", encoding="utf-8")


def facts(network, labels):
    """Hashes and versions: which weights, which labels, written with what (ours).

    Args:
        network: the keras.Model. labels: names of the classes.
    """
    weights, size = hashlib.sha256(), 0
    for variable in network.variables:
        value = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
        weights.update(value.tobytes())
        size += value.nbytes
    now = datetime.datetime.now(datetime.UTC)
    return {
        "compute_dtypes": sorted(compute_dtypes(network)),
        "weights": {"bytes": size, "sha256": weights.hexdigest()},
        "labels_sha256": hashlib.sha256("\n".join(labels).encode()).hexdigest(),
        "created": now.isoformat(timespec="seconds"),
        "versions": {
            "zoo": zoo.__version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
    }


def local(out_dir):
    """`out_dir` as a path, unless it is remote (TensorFlow Serving's layout).

    Raises:
        ValueError: an address such as gs://...
    """
    text = os.fspath(out_dir)
    if "://" in text:
        raise ValueError(
            f"export writes to a local folder, got {text!r}: remote stores cannot "
            "rename a folder in one step. Export here, then copy the version folder."
        )
    return Path(text)


def check_model(model):
    """Makes sure that a model can be exported here (Keras on TensorFlow).

    Raises:
        TypeError: no keras.Model.
        RuntimeError: inside strategy.scope(), or on another backend.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"export takes a keras.Model, got {type(model).__name__}; "
            "zoo.load(name, weights=...) returns one."
        )
    if tf.distribute.has_strategy():
        raise RuntimeError(
            "export was called inside strategy.scope(); call it outside. The model "
            "may have been built inside."
        )
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"export needs Keras on TensorFlow, got {keras.backend.backend()}; set "
            "KERAS_BACKEND=tensorflow."
        )


def checked_name(name):
    """The name under which a model is served (part of TensorFlow Serving's address).

    Raises:
        ValueError: other characters than letters, digits and _ . -
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", str(name)):
        raise ValueError(
            f"name becomes a folder and part of an address; letters, digits and _ . - "
            f"are accepted, got {name!r}."
        )
    return name


def _with_labels(contract, classes, name):
    """The contract with one label per class."""
    labels = contract.labels
    if len(labels) == classes:
        return contract
    if labels:
        raise ValueError(
            f"The model has {classes} classes, got {len(labels)} labels "
            f"({', '.join(map(repr, labels[:3]))}, ...). Pass one per class, in order."
        )
    logging.warning(
        "%s is exported without labels: its %d classes are called class_0 to class_%d. "
        "Pass labels=[...] to name them.",
        name,
        classes,
        classes - 1,
    )
    labels = tuple(f"class_{i}" for i in range(classes))
    return dataclasses.replace(contract, labels=labels)
