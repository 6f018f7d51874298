"""Accuracy of a model on whole videos, by the protocol of thesis 7.3.3.

16 equally spaced frames of a video, the whole frame and its mirror, raw scores averaged
over all positions and views: one answer per video.
"""

import contextlib

import numpy as np
import tensorflow as tf
from absl import logging

from zoo.datasets import Reader, VideoError, test_videos
from zoo.evaluation.results import Results, Skip
from zoo.models.inputs import CHANNELS
from zoo.models.plain_rgb import flow_stack_of
from zoo.models.testing import (
    FRAMES_PER_VIEW,
    MAX_VIEW_PIXELS,
    VIDEO_INPUTS,
    alone_or_all,
    inputs_of,
    video_classifier,
)

# Neighbouring videos of equal size share a batch whose view has at most this many
# pixels, which keeps small clips fast and large ones within memory.
BATCH_PIXELS = 16 * 6 * 64 * 64


class NetworkError(ValueError):
    """TensorFlow could not compute a network, mostly for lack of memory (ours)."""


@contextlib.contextmanager
def network_errors(remedy):
    """Turns an error of TensorFlow into a `NetworkError` of one line.

    Args:
        remedy: what to do about it.

    Raises:
        NetworkError: with the first line of what TensorFlow said.

    Source: tf.errors.
    """
    try:
        yield
    except tf.errors.OpError as error:
        first = (str(error.message).strip() or type(error).__name__).splitlines()[0]
        raise NetworkError(
            f"TensorFlow could not compute the network: {first}; {remedy}."
        ) from error


def view_pixels(shape, frames, shorter_side):
    """Pixels that the network sees of one clip, frames x H' x W'.

    Args:
        shape: of the clip, [T, H, W, 3].
        frames, shorter_side: the test view.

    Returns:
        The number of pixels; memory and time go with it.

    Raises:
        VideoError: more than `MAX_VIEW_PIXELS`.

    Source: thesis 7.3.3, whose view keeps the aspect; the limit is ours.
    """
    height, width = shape[1:3]
    shorter, longer = sorted((height, width))
    pixels = frames * shorter_side * (shorter_side * longer // shorter)
    if pixels > MAX_VIEW_PIXELS:
        raise VideoError(
            f"{width} x {height} pixels are too thin: {frames} frames resized to a "
            f"shorter side of {shorter_side} have {pixels} pixels, accepted are "
            f"{MAX_VIEW_PIXELS}; crop the video or test at a lower shorter_side"
        )
    return pixels


class Scorer:
    """A function from clips to raw scores, for a test view.

    It is traced once, for clips of any size and length, and follows the model's
    weights as they change.

    Attributes:
        inputs: what is read of a video, some of "rgb" and "flow".
        frames, shorter_side: the test view.
        takes: how many frames it is given of a video, those of the view; None for all,
            to a model that computes flow itself.

    Source: thesis 7.3.3.
    """

    def __init__(self, model, frames=16, shorter_side=256, flip=True):
        """Builds the network of a view.

        Args:
            model: a classifier of the zoo.
            frames, shorter_side, flip: see `zoo.models.testing.video_classifier`.
        """
        computes_flow = flow_stack_of(model) is not None
        self.inputs = ("rgb",) if computes_flow else inputs_of(model)
        self.takes = None if computes_flow else frames
        self.frames = frames
        self.shorter_side = shorter_side
        network = video_classifier(model, frames, shorter_side, flip)

        @tf.function(input_signature=[alone_or_all(_signature(self.inputs))])
        def run(clips):
            return network(clips, training=False)

        self._run = run

    def __call__(self, clips):
        """Raw scores of a batch of clips, float32 [B, K].

        Args:
            clips: uint8 [B, T, H, W, 3] for a model that sees "rgb", float32 [B, T, H,
                W, 20] in pixels for "flow", {"rgb", "flow"} for both; T frames as
                `takes` says.

        Raises:
            NetworkError: TensorFlow could not compute it.
        """
        return self.outputs(clips)["logits"]

    def outputs(self, clips):
        """{"logits", "predictions"} of a batch, float32 [B, K]; see `__call__`."""
        if isinstance(clips, dict):
            clips = {VIDEO_INPUTS[name]: value for name, value in clips.items()}
        with network_errors("use smaller clips or a lower shorter_side"):
            return {name: y.numpy() for name, y in self._run(clips).items()}

    def pixels(self, shape):
        """Pixels that a video costs, see `view_pixels`.

        Args:
            shape: of what was read of it, [T, H, W, C].

        Raises:
            VideoError: too many of them; a single frame for a model that computes flow.
        """
        frames = self.frames
        if self.takes is None:
            if shape[0] < 2:
                raise VideoError(
                    "optical flow needs at least 2 frames, the video has 1"
                )
            frames = max(frames, shape[0] // FRAMES_PER_VIEW)
        return view_pixels(shape, frames, self.shorter_side)


def _signature(inputs):
    types = {"rgb": tf.uint8, "flow": tf.float32}
    return {
        VIDEO_INPUTS[kind]: tf.TensorSpec((None,) * 4 + (CHANNELS[kind],), types[kind])
        for kind in inputs
    }


def evaluate(
    model,
    videos,
    frames=16,
    shorter_side=256,
    flip=True,
    cache=None,
    labels=(),
    flow=None,
):
    """Runs a model on every video of a list.

    A video that cannot be read is neither dropped in silence nor replaced: it appears
    in `Results.skipped` with its reason, and a warning gives the count.

    Args:
        model: a classifier of the zoo with one score per class of `videos`.
        videos: a `zoo.datasets.VideoList`.
        frames, shorter_side, flip: the test view, see
            `zoo.models.testing.video_classifier`.
        cache: a `zoo.datasets.FrameCache`, or None.
        labels: class names of the model in the order of its scores, such as
            `ModelRecord.labels`; classes are then matched by name, and the videos may
            lack some. Without, by their positions.
        flow: a source of optical flow for a model that sees it, see
            `zoo.datasets.flow_source`.

    Returns:
        The `Results`.

    Raises:
        ValueError: the model has not the classes of the list, no video at all could be
            read, or there is no flow for a model that sees it.

    Source: thesis 7.3.3 and 7.5.
    """
    if labels:
        videos = videos.with_classes(labels)
    score = Scorer(model, frames, shorter_side, flip)
    return evaluate_with(score, videos, cache, flow)


def evaluate_with(score, videos, cache=None, flow=None):
    """Like `evaluate`, with a ready `Scorer`.

    Args:
        score: the `Scorer`, whose number of equally spaced frames is read, or all.
        videos: a `zoo.datasets.VideoList`.
        cache: a `zoo.datasets.FrameCache`, or None.
        flow: a source of optical flow, see `zoo.datasets.flow_source`, or None.

    Source: thesis 7.3.3 and 7.5.
    """
    rows, scores, skipped = [], [], []
    pending = []
    reader = reader_for(score, flow, cache)
    for row, item in enumerate(test_videos(videos, score.takes, reader=reader)):
        if item.failure is not None:
            skipped.append(Skip(item.path, item.failure))
            continue
        try:
            pixels = score.pixels(_shape(item.clip))
        except VideoError as error:
            skipped.append(Skip(item.path, f"{item.path}: {error}"))
            continue
        if pending and not _fits(pending, item.clip, pixels):
            scores.append(score(_batch(pending)))
            pending = []
        pending.append(item.clip)
        rows.append(row)
    if pending:
        scores.append(score(_batch(pending)))
    _check(videos, scores, skipped)
    return Results(
        classes=tuple(videos.class_names),
        paths=tuple(videos.paths[row] for row in rows),
        labels=np.array([videos.labels[row] for row in rows]),
        scores=np.concatenate(scores),
        groups=tuple(videos.groups[row] for row in rows),
        skipped=tuple(skipped),
    )


def reader_for(score, flow=None, cache=None):
    """The `zoo.datasets.Reader` of what a `Scorer` sees.

    Frames come at their own size and are resized by the network, but for flow, whose
    displacements are those of frames of the view's size: it is computed from such, also
    by a network that does so itself.

    Args:
        score: the `Scorer`. flow: source of optical flow, or None. cache: or None.

    Raises:
        ValueError: the model sees flow and there is no source of it.

    Source: thesis 3.3.5.
    """
    has_flow = "flow" in score.inputs or score.takes is None
    side = score.shorter_side if has_flow else None
    return Reader(score.inputs, flow, shorter_side=side, cache=cache)


def _shape(clip):
    """[T, H, W, C] of a clip, or of one of its inputs, which are of equal size."""
    return next(iter(clip.values())).shape if isinstance(clip, dict) else clip.shape


def _batch(clips):
    if isinstance(clips[0], dict):
        return {name: np.stack([clip[name] for clip in clips]) for name in clips[0]}
    return np.stack(clips)


def _fits(pending, clip, pixels):
    same = _shape(pending[0]) == _shape(clip)
    return same and (len(pending) + 1) * pixels <= BATCH_PIXELS


def _check(videos, scores, skipped):
    if not scores:
        reasons = "; ".join(skip.reason for skip in skipped[:3])
        raise ValueError(
            f"None of the {len(videos)} videos could be evaluated: {reasons or 'none'}."
        )
    if scores[0].shape[1] != len(videos.class_names):
        raise ValueError(
            f"The model has {scores[0].shape[1]} classes, the videos have "
            f"{len(videos.class_names)} ({', '.join(videos.class_names[:4])}, ...); "
            "evaluate on the classes that it was trained on."
        )
    if skipped:
        logging.warning(
            "%d of %d videos skipped, the first: %s",
            len(skipped),
            len(videos),
            skipped[0].reason,
        )
