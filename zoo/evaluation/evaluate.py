"""Accuracy of a model on whole videos, by the protocol of thesis 7.3.3.

16 equally spaced frames of a video, the whole frame and its mirror, raw scores averaged
over all positions and views: one answer per video.
"""

import contextlib

import numpy as np
import tensorflow as tf
from absl import logging

from zoo.datasets import VideoError, test_videos
from zoo.evaluation.results import Results, Skip
from zoo.models.testing import MAX_VIEW_PIXELS, video_classifier

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


def scorer(model, frames=16, shorter_side=256, flip=True):
    """A function from uint8 clips [B, T, H, W, 3] to raw scores, float32 [B, K].

    It is traced once, for clips of any size and length, and follows the model's
    weights as they change.

    Args:
        model: a classifier of the zoo.
        frames, shorter_side, flip: see `zoo.models.testing.video_classifier`.

    Source: thesis 7.3.3.
    """
    network = video_classifier(model, frames, shorter_side, flip)

    @tf.function(input_signature=[tf.TensorSpec((None,) * 4 + (3,), tf.uint8)])
    def run(clips):
        return network(clips, training=False)["logits"]

    def score(clips):
        with network_errors("use smaller clips or a lower shorter_side"):
            return run(clips).numpy()

    return score


def evaluate(
    model,
    videos,
    frames=16,
    shorter_side=256,
    flip=True,
    cache=None,
    labels=(),
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

    Returns:
        The `Results`.

    Raises:
        ValueError: the model has not the classes of the list, or no video at all could
            be read.

    Source: thesis 7.3.3 and 7.5.
    """
    if labels:
        videos = videos.with_classes(labels)
    score = scorer(model, frames, shorter_side, flip)
    return evaluate_with(score, videos, frames, shorter_side, cache)


def evaluate_with(score, videos, frames, shorter_side, cache=None):
    """Like `evaluate`, with a ready function from clips to raw scores.

    Args:
        score: from uint8 [B, T, H, W, 3] to float32 [B, K], such as a `scorer`.
        videos: a `zoo.datasets.VideoList`.
        frames, shorter_side: the test view; `frames` equally spaced ones are read.
        cache: a `zoo.datasets.FrameCache`, or None.

    Source: thesis 7.3.3 and 7.5.
    """
    rows, scores, skipped = [], [], []
    pending = []
    for row, item in enumerate(test_videos(videos, frames, cache=cache)):
        if item.failure is not None:
            skipped.append(Skip(item.path, item.failure))
            continue
        try:
            pixels = view_pixels(item.clip.shape, frames, shorter_side)
        except VideoError as error:
            skipped.append(Skip(item.path, f"{item.path}: {error}"))
            continue
        if pending and not _fits(pending, item.clip, pixels):
            scores.append(score(np.stack(pending)))
            pending = []
        pending.append(item.clip)
        rows.append(row)
    if pending:
        scores.append(score(np.stack(pending)))
    _check(videos, scores, skipped)
    return Results(
        classes=tuple(videos.class_names),
        paths=tuple(videos.paths[row] for row in rows),
        labels=np.array([videos.labels[row] for row in rows]),
        scores=np.concatenate(scores),
        groups=tuple(videos.groups[row] for row in rows),
        skipped=tuple(skipped),
    )


def _fits(pending, clip, pixels):
    same = pending[0].shape == clip.shape
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
