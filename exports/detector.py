"""Export of a detector as a SavedModel directory for TensorFlow Serving.

Source: thesis 8.3; the directory layout of tensorflow.org/tfx/serving/serving_config.
"""

import json

import numpy as np
import tensorflow as tf
from absl import logging

from zoo.exports import warmup
from zoo.exports.folder import publishing, require_free
from zoo.exports.saved_model import (
    EXTRA,
    check_model,
    checked_name,
    facts,
    local,
    write,
)
from zoo.exports.signature import as_fed, copies
from zoo.exports.verification import VerificationError, run_in_fresh_process
from zoo.models.object_detector import object_detector

MAX_PIXELS = 2**25  # of a request, B x T x H x W: 16 frames of 1920 x 1080
# Scores, and pixels of boxes, by which an export may differ from its model; and the
# share of detections that may have no counterpart: suppression turns on the last bit.
SCORES, PIXELS, LOST = 1e-4, 0.05, 0.1


def export_detector(
    model,
    out_dir,
    name=None,
    labels=(),
    version=None,
    *,
    tracks="proposals",
    view=(600, 1000),
    verify=True,
):
    """Writes `<out_dir>/<name>/<version>/`, which TensorFlow Serving can serve.

    The signature `serving_default` takes `frames`, uint8 [B, T, H, W, 3], RGB, of any
    size; T = 2 frames, tau apart, for tracking. It returns per frame the 100 best
    objects, the best first: `boxes` float32 [B, T, 100, 4], x1, y1, x2, y2 in pixels of
    the frames, `scores` float32 and `classes` int32 [B, T, 100], `labels` string
    likewise; and from networks that track `tracked_boxes` float32 [B, T - 1, 100, 4],
    where the objects of a frame are in the next one. Where there are fewer objects,
    boxes and scores are 0, classes -1 and labels empty.

    Args:
        model: a `zoo.models.detector.Detector` with a proposal network.
        out_dir: local folder of all served models.
        name: under which it is served; None takes the model's.
        labels: names of the classes in order; without, "class_0", "class_1", ...
        version: integer >= 1; None takes the one after the highest.
        tracks: what is followed, see `zoo.models.object_detector.TRACKS`.
        view: shorter side of the frames it sees in pixels, and limit of the longer.
        verify: run the export in a fresh process without the zoo and compare, before
            it is published.

    Returns:
        The path of the directory, a pathlib.Path.

    Raises:
        ValueError: labels, name, version or numbers that do not fit.
        FileExistsError: the version exists.
        VerificationError: the export does not find what the model does.
        OSError: no space left, or no permission; nothing is left behind.

    Source: thesis 8.3 and 8.5.2.
    """
    check_model(model)
    name = checked_name(model.name if name is None else name)
    folder = local(out_dir) / name
    require_free(folder, version)
    network = object_detector(model, *view, tracks)
    labels = _labels(labels, model.num_classes)
    module, function = signature(network, labels)
    record = {
        "name": name,
        "model": model.name,
        "task": "detection",
        "inputs": ["frames"],
        "labels": labels,
        "shorter_side": view[0],
        "longer_side": view[1],
        "tracks": tracks if "tracked_boxes" in network.output else None,
        "max_pixels": MAX_PIXELS,
        **facts(network, labels),
    }
    with publishing(folder, version) as publication:
        temporary = publication.temporary
        text = json.dumps(record, indent=2, ensure_ascii=False)
        write(temporary, module, function, text)
        shapes = {"frames": (1, 2, view[0], view[1], 3)}
        warmup.write(temporary / EXTRA / warmup.FILE, name, shapes)
        if verify:
            lost = _verify(temporary, network, labels)
            logging.info("%.1f %% of the export's objects differ.", 100 * lost)
    return publication.path


def _labels(labels, classes):
    if isinstance(labels, str) or not all(isinstance(x, str) and x for x in labels):
        raise ValueError(f"labels must be a sequence of names, got {labels!r}.")
    if not labels:
        return tuple(f"class_{i}" for i in range(classes))
    if len(labels) != classes:
        raise ValueError(
            f"The model has {classes} classes, got {len(labels)} labels "
            f"({', '.join(map(repr, labels[:3]))}, ...). Pass one per class, in order."
        )
    return tuple(labels)


def signature(network, labels):
    """Traces the served function of a detector, as `zoo.exports.signature` does.

    Args:
        network: of `zoo.models.object_detector.object_detector`.
        labels: one name per class.

    Returns:
        The tf.Module that owns the weights, and the concrete function.

    Source: thesis 8.3.
    """
    module = tf.Module()
    module.trained = copies(network.trainable_variables)
    module.fixed = copies(network.non_trainable_variables)
    names = tf.constant(["", *labels])

    def serve(frames):
        outputs, _ = network.stateless_call(
            module.trained, module.fixed, _checked(frames), training=False
        )
        return {**outputs, "labels": tf.gather(names, outputs["classes"] + 1)}

    spec = tf.TensorSpec((None, None, None, None, 3), tf.uint8, name="frames")
    function = tf.function(serve, autograph=False)
    return module, function.get_concrete_function(frames=spec)


def _checked(frames):
    """The frames, after assertions that run in the server."""
    fed = as_fed(frames)
    shape = tf.shape(fed, out_type=tf.int64)
    # The graph's optimiser would put the declared rank for tf.rank.
    axes = tf.math.count_nonzero(shape > 0)
    facts = [[tf.equal(axes, 5)], shape > 0, tf.equal(shape[-1:], 3)]
    wrong = (
        "`frames` must be uint8 [batch, frames, height, width, 3], RGB, with no axis "
        "of length 0, e.g. two frames of shape [1, 2, 480, 640, 3]; got shape:"
    )
    large = (
        f"The request is too large: at most {MAX_PIXELS} pixels may be sent; send "
        "fewer or smaller frames. Got shape:"
    )
    right = tf.reduce_all(tf.concat(facts, 0))
    checks = [
        tf.debugging.Assert(right, [wrong, shape], summarize=8),
        tf.debugging.Assert(
            tf.reduce_prod(shape[:-1]) <= MAX_PIXELS, [large, shape], summarize=8
        ),
    ]
    with tf.control_dependencies(checks):
        return tf.ensure_shape(tf.identity(fed), frames.shape)


def _verify(folder, network, labels):
    """The share of objects that an export finds differently, or an error."""
    # Boxes that are not finite would simply be missing among the detections.
    if not all(np.isfinite(v.numpy()).all() for v in network.variables):
        raise VerificationError(
            "The model holds weights that are not finite, and cannot be served. "
            "Its training may have diverged; take an earlier checkpoint."
        )
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (1, 2, 96, 128, 3), np.uint8)
    with tf.device("/CPU:0"):
        expected = {k: v.numpy() for k, v in network(frames, training=False).items()}
    got = run_in_fresh_process(folder, {"frames": frames}, scratch=folder)
    names = np.asarray(["", *labels])[got["classes"] + 1]
    if not (names == got["labels"]).all():
        raise VerificationError("The export's classes and labels differ.")
    lost = unmatched(expected, got)
    if lost > LOST:
        raise VerificationError(
            f"{100 * lost:.0f} % of the objects that the model finds are not among "
            f"those of the export, accepted are {100 * LOST:.0f} %. It was not "
            "published."
        )
    return lost


def unmatched(expected, got):
    """The share of detections without a counterpart of class, score, box and track.

    Args:
        expected, got: outputs of the signature, arrays [B, T, D, ...].

    Source: none; how far suppression can turn on rounding was measured.
    """
    lost = total = 0
    for b, t in np.ndindex(expected["scores"].shape[:2]):
        a, c = (
            {k: v[b, t] for k, v in x.items() if t < v.shape[1]}
            for x in (expected, got)
        )
        same = a["classes"][:, None] == c["classes"]
        same &= np.abs(a["scores"][:, None] - c["scores"]) <= SCORES
        for key in {"boxes", "tracked_boxes"} & set(a):
            same &= np.abs(a[key][:, None] - c[key]).max(-1) <= PIXELS
        found = same.any(1) | (a["classes"] < 0)
        lost, total = lost + (~found).sum(), total + len(found)
    return float(lost / max(total, 1))
