"""Export of a detector as a SavedModel directory for TensorFlow Serving.

Source: thesis 8.3; the directory layout of tensorflow.org/tfx/serving/serving_config.
"""

import dataclasses

import numpy as np
import tensorflow as tf
from absl import logging

from zoo.exports import jpeg, warmup
from zoo.exports.checks import checked, fits_frames, fits_pixels
from zoo.exports.folder import publishing, require_free
from zoo.exports.saved_model import (
    EXTRA,
    check_model,
    checked_name,
    facts,
    local,
    tensors_of,
    write,
)
from zoo.exports.signature import Served, copies
from zoo.exports.verification import (
    VerificationError,
    encoded,
    run_in_fresh_process,
    waves,
)
from zoo.models.object_detector import object_detector


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much a request may ask of a served detector.

    Attributes:
        max_pixels: B x T x H x W; the default holds 16 frames of 1920 x 1080.
        max_frames: B x T.

    Raises:
        ValueError: a number that is no positive integer.

    Source: arithmetic.
    """

    max_pixels: int = 2**25
    max_frames: int = 2**8

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"{name} must be an integer of at least 1, got {value!r}."
                )


LIMITS = Limits()
MAX_PIXELS = LIMITS.max_pixels
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
    limits=LIMITS,
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
        limits: `Limits`, how much a request may ask of the server.
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
    served = signatures(network, labels, limits)
    record = {
        "name": name,
        "model": model.name,
        "task": "detection",
        "inputs": ["frames"],
        "labels": labels,
        "shorter_side": view[0],
        "longer_side": view[1],
        "tracks": tracks if "tracked_boxes" in network.output else None,
        **dataclasses.asdict(limits),
        "signatures": tensors_of(served),
        **facts(network, labels),
    }
    with publishing(folder, version) as publication:
        temporary = publication.temporary
        write(temporary, served, record)
        warmup.write(temporary / EXTRA / warmup.FILE, name, _requests(view))
        if verify:
            lost = _verify(temporary, network, labels)
            logging.info("%.1f %% of the export's objects differ.", 100 * lost)
    return publication.path


def _requests(view):
    """What the server warms up with: two frames of the view's size, or their files."""
    return {
        "serving_default": {"frames": warmup.constant("frames", (1, 2, *view, 3))},
        "jpeg": {"jpeg": warmup.files((1, 2), *view)},
    }


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


def signatures(network, labels, limits=LIMITS):
    """Traces the served functions of a detector, as `zoo.exports.signature` does.

    Args:
        network: of `zoo.models.object_detector.object_detector`.
        labels: one name per class.
        limits: `Limits`.

    Returns:
        A `zoo.exports.signature.Served` of `serving_default` and `jpeg`.

    Source: thesis 8.3.
    """
    module = tf.Module()
    module.trained = copies(network.trainable_variables)
    module.fixed = copies(network.non_trainable_variables)
    names = tf.constant(["", *labels])

    def run(frames):
        outputs, _ = network.stateless_call(
            module.trained, module.fixed, frames, training=False
        )
        return {**outputs, "labels": tf.gather(names, outputs["classes"] + 1)}

    frames = tf.TensorSpec((None, None, None, None, 3), tf.uint8, name="frames")
    files = tf.TensorSpec((None, None), tf.string, name="jpeg")
    traced = tf.function(run, autograph=False).get_concrete_function(frames)

    def fits(_, shape):
        return [fits_frames(shape, limits), fits_pixels(shape, limits)]

    def serve(**inputs):
        return traced(checked(inputs, fits)["frames"])

    def serve_files(**inputs):
        return traced(jpeg.read(inputs["jpeg"], limits, lambda _: []))

    functions = {}
    for name, maker, spec in (
        ("serving_default", serve, frames),
        ("jpeg", serve_files, files),
    ):
        function = tf.function(maker, autograph=False)
        functions[name] = function.get_concrete_function(**{spec.name: spec})
    return Served(module, functions)


def _verify(folder, network, labels):
    """The share of objects that an export finds differently, or an error."""
    # Boxes that are not finite would simply be missing among the detections.
    if not all(np.isfinite(v.numpy()).all() for v in network.variables):
        raise VerificationError(
            "The model holds weights that are not finite, and cannot be served. "
            "Its training may have diverged; take an earlier checkpoint."
        )
    files, frames = encoded(waves((1, 2, 96, 128)))
    requests = {"serving_default": {"frames": frames}, "jpeg": {"jpeg": files}}
    with tf.device("/CPU:0"):
        outputs = network(frames, training=False)
    expected = {key: value.numpy() for key, value in outputs.items()}
    lost = 0.0
    for name, got in run_in_fresh_process(folder, requests, scratch=folder).items():
        names = np.asarray(["", *labels])[got["classes"] + 1]
        if not (names == got["labels"]).all():
            raise VerificationError(f"The export's classes and labels differ ({name}).")
        lost = max(lost, unmatched(expected, got))
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
