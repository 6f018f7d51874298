"""From lists of videos to batches of clips: decoding, sampling, augmentation.

The training pipeline follows thesis 7.3.3: a clip is sampled at a random start and
stride, cropped and flipped at random, the same for all its frames, and the videos are
shuffled every epoch.

Everything random comes from ``np.random.default_rng([seed, epoch, slot])``, slot being
the clip's place in the epoch, so that batches depend on nothing but these numbers: not
on threads, nor on what ran before. Videos decode in a pool of threads, since PyAV and
OpenCV release the interpreter lock; tf.data takes whole batches from it.

Networks see RGB frames, stacks of optical flow around them, or both, cropped and
mirrored alike (`zoo.datasets.chunks`).

A bad video is skipped, counted and reported. Its slot goes to the next good video in
the order of the epoch, so that the number of batches never changes.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import os
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from zoo.datasets.augment import (
    apply_crop,
    apply_crop_to_flow,
    draw_corner_crop,
    draw_crop,
)
from zoo.datasets.cache import CacheFull
from zoo.datasets.chunks import Reader
from zoo.datasets.flow import FIELDS
from zoo.datasets.sampling import STRIDE_RANGE, test_indices, train_indices
from zoo.datasets.video import VideoError

CROPS = ("jitter", "corners")
CHANNELS = {"rgb": (3, tf.uint8), "flow": (2 * FIELDS, tf.float32)}


@dataclasses.dataclass(frozen=True)
class ClipSpec:
    """How a training clip is cut from a video (defaults of thesis 7.3.3).

    Attributes:
        frames: Frames T of a clip.
        size: Side S of the square crop after resizing, in pixels.
        stride_range: Smallest and largest temporal stride in frames.
        shorter_side: Shorter side in pixels that videos have when the crop is taken
            (256 for 224 in thesis 3.3.5). None takes them at their own size. Flow
            counts its displacements in pixels of this size.
        crop: "jitter" (thesis 3.3.5), or "corners" for motion streams (4.3.5), see
            zoo.datasets.augment.
        jitter: Relative range of the crop's sides, for "jitter".
        flip: Whether half of the clips are mirrored; off where classes differ by
            direction.
        inputs: What the network sees, some of "rgb" and "flow".
        flow: A ``zoo.datasets.flow`` source where "flow" is among them.
    """

    frames: int = 16
    size: int = 224
    stride_range: tuple[int, int] = STRIDE_RANGE
    shorter_side: int | None = 256
    crop: str = "jitter"
    jitter: float = 0.25
    flip: bool = True
    inputs: tuple[str, ...] = ("rgb",)
    flow: object = None

    def __post_init__(self):
        # A trial draw, so that a wrong number is named here and not by a thread.
        rng = np.random.default_rng(0)
        train_indices(self.frames, self.frames, self.stride_range, rng)
        draw_crop(*[self.size] * 3, rng, jitter=self.jitter)
        Reader(self.inputs, self.flow)
        if self.crop not in CROPS:
            raise ValueError(
                f"Unknown crop {self.crop!r}; accepted are {', '.join(CROPS)}."
            )
        if self.shorter_side is not None and self.shorter_side < 1:
            raise ValueError(
                "shorter_side must be at least 1 pixel or None, got "
                f"{self.shorter_side}."
            )


class Skipped:
    """Account of the videos that a pipeline skipped.

    Attributes:
        reasons: Reason of each bad video by its path, in the order of first sight.
        counts: How often each bad video was skipped, by its path.
        error: The VideoError or CacheFull that ended the pipeline, or None.
    """

    def __init__(self):
        self.reasons = {}
        self.counts = collections.Counter()
        self.error = None

    def __len__(self):
        return len(self.reasons)

    def __str__(self):
        if not self.reasons:
            return "No video was skipped."
        lines = [f"{len(self)} video(s) skipped, {self.counts.total()} time(s):"]
        lines += [f"  {self.counts[p]}x {reason}" for p, reason in self.reasons.items()]
        return "\n".join(lines)

    def add(self, path, reason):
        """Counts one skip of a video."""
        self.reasons.setdefault(path, reason)
        self.counts[path] += 1

    @contextlib.contextmanager
    def reraising(self):
        """Turns tf.data's error back into `error`, which caused it.

        An exception inside a tf.data pipeline reaches ``model.fit`` as a
        tf.errors.OpError. Around ``fit``, this raises the original instead.
        """
        try:
            yield self
        except tf.errors.OpError:
            if self.error is None:
                raise
            raise self.error from None


class TestClip(NamedTuple):
    """One video of a test set; (clip, label, path, failure) in this order.

    Attributes:
        clip: uint8 [T, H, W, 3] for a network that sees "rgb"; float32 [T, H, W, 20]
            for "flow"; a dict of both for both. None if the video is bad.
        label: Position of its class.
        path: Its file.
        failure: Why the video is bad, None if it's good.
    """

    clip: np.ndarray | dict | None
    label: int
    path: str
    failure: str | None


TestClip.__test__ = False  # for pytest, which collects classes called Test*


def steps_per_epoch(videos, batch_size, repeats=1):
    """Number of full batches in an epoch of training_dataset.

    Args:
        videos: A VideoList.
        batch_size: Clips B per batch, over all replicas.
        repeats: How often every video appears in an epoch.

    Returns:
        floor(len(videos) * repeats / batch_size), at least 1.

    Raises:
        ValueError: If a batch is larger than the epoch.
    """
    clips = len(videos) * repeats
    if not 1 <= batch_size <= clips:
        raise ValueError(
            f"batch_size must be in 1...{clips}, the clips of an epoch ({len(videos)} "
            f"videos x {repeats} repeats), got {batch_size}; raise repeats or lower "
            "batch_size."
        )
    return clips // batch_size


def training_dataset(
    videos,
    batch_size,
    spec=None,
    *,
    seed=0,
    initial_epoch=0,
    repeats=1,
    cache=None,
    workers=None,
    max_bad_fraction=0.05,
    skipped=None,
):
    """Makes an endless dataset of augmented training batches (thesis 7.3.3).

    Each iterator starts at ``initial_epoch`` and goes through one epoch after the
    other; give ``model.fit`` the same ``initial_epoch``, ``shuffle=False`` and
    ``steps_per_epoch=steps_per_epoch(videos, batch_size, repeats)``, without which
    Keras' first epoch never ends. A training resumed after epoch e with
    ``initial_epoch=e`` sees exactly the batches it would have seen. Incomplete
    batches are dropped. Under a tf.distribute strategy ``batch_size`` is the global
    one; several hosts share every batch (AutoShardPolicy.DATA).

    The frames of a clip are chosen by the header's frame count and decoding stops at
    the last of them; if the file ends before, the clip is drawn anew by the decoded
    count. Damage before the clip's last frame makes a video bad. The slot of a bad
    video goes to the next good one in the order of the epoch.

    Args:
        videos: A VideoList.
        batch_size: Clips B per batch, over all replicas.
        spec: A ClipSpec, by default ClipSpec().
        seed: Seed of the order and of every clip, at least 0.
        initial_epoch: Epoch that the first batch belongs to.
        repeats: How often every video appears in an epoch, each time in a new order;
            the ``epochFactor`` of the author's code.
        cache: A FrameCache, or None to decode for every clip.
        workers: Threads that decode, by default one per core.
        max_bad_fraction: Largest share of bad videos among those of an epoch.
        skipped: A Skipped to count bad videos in.

    Returns:
        A tf.data.Dataset of (uint8 [B, T, S, S, 3], int32 [B]); of flow the first is
        float32 [B, T, S, S, 20] in pixels, and of both a dict {"rgb", "flow"}.

    Raises:
        ValueError: If a batch is larger than an epoch, or a number is out of range.
        VideoError, CacheFull: While iterating, if more videos are bad than accepted,
            or the cache is too small. tf.data wraps them in an OpError; see
            Skipped.reraising.
    """
    spec = ClipSpec() if spec is None else spec
    skipped = Skipped() if skipped is None else skipped
    steps = steps_per_epoch(videos, batch_size, repeats)
    if min(seed, initial_epoch) < 0 or not 0 <= max_bad_fraction <= 1:
        raise ValueError(
            "seed and initial_epoch must be at least 0 and max_bad_fraction in "
            f"[0, 1], got {seed}, {initial_epoch} and {max_bad_fraction}."
        )
    reader = Reader(
        spec.inputs, spec.flow, spec.shorter_side, cache, verify_count=False
    )
    source = _Source(videos, spec, seed, repeats, reader)

    def batches():
        account = _Account(skipped, len(videos), max_bad_fraction)
        slots = source.slots(initial_epoch, steps * batch_size)
        try:
            with _thread_pool(workers) as pool:
                ahead = batch_size + pool.workers
                samples = pool.map_in_order(source.sample, slots, ahead)
                for clips, labels in _batched(account.good(samples), batch_size):
                    yield alone_or_all(clips), labels
        except (VideoError, CacheFull) as error:
            skipped.error = error
            raise

    shape = (batch_size, spec.frames, spec.size, spec.size)
    signature = {
        name: tf.TensorSpec((*shape, channels), dtype)
        for name, (channels, dtype) in CHANNELS.items()
        if name in spec.inputs
    }
    dataset = tf.data.Dataset.from_generator(
        batches,
        output_signature=(
            alone_or_all(signature),
            tf.TensorSpec((batch_size,), tf.int32),
        ),
    )
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    dataset = dataset.prefetch(1).with_options(options)
    return dataset.apply(
        tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    )


def alone_or_all(named):
    """The value of a dict of one; else the dict, as Keras models take their inputs."""
    return next(iter(named.values())) if len(named) == 1 else named


def test_videos(videos, clip_frames=16, *, reader=None, workers=None):
    """Iterates over a test set: equally spaced frames of every video (thesis 7.3.3).

    Frames are chosen by the decoded count. Nothing is left out or substituted: a bad
    or damaged video comes as a TestClip without a clip and with its failure.

    Args:
        videos: A VideoList.
        clip_frames: Frames T per video; None takes all.
        reader: A ``zoo.datasets.chunks.Reader``; by default one of RGB frames at
            their own size.
        workers: Threads that decode, by default one per core.

    Yields:
        A TestClip per video, in order.
    """
    reader = Reader() if reader is None else reader

    def read(i):
        path, label = videos.paths[i], videos.labels[i]
        try:
            clip = reader.read(path, lambda n: test_indices(n, clip_frames or n))
        except VideoError as error:
            return TestClip(None, label, path, str(error))
        return TestClip(alone_or_all(clip), label, path, None)

    with _thread_pool(workers) as pool:
        yield from pool.map_in_order(read, range(len(videos)), 2 * pool.workers)


test_videos.__test__ = False  # for pytest, which collects functions called test_*


class _Sample(NamedTuple):
    """One filled slot of an epoch and the bad videos passed over for it."""

    epoch: int
    clip: dict | None  # of the inputs
    label: int
    bad: list  # (path, reason)


@dataclasses.dataclass(frozen=True)
class _Source:
    """Makes any sample of any epoch: a pure function of its arguments."""

    videos: object
    spec: ClipSpec
    seed: int
    repeats: int
    reader: Reader

    def order(self, epoch):
        """Videos in the order of an epoch, int64 [videos * repeats]."""
        count = len(self.videos)
        # One past the last slot: a stream of numbers that no sample uses.
        rng = np.random.default_rng([self.seed, epoch, count * self.repeats])
        return np.concatenate([rng.permutation(count) for _ in range(self.repeats)])

    def slots(self, epoch, count):
        """Yields (epoch, slot, order) of the first ``count`` slots of every epoch."""
        while True:
            order = self.order(epoch)
            for slot in range(count):
                yield epoch, slot, order
            epoch += 1

    def sample(self, place):
        """Fills a slot with its video or the next good one in the order."""
        epoch, slot, order = place
        bad = {}
        for video in itertools.chain(order[slot:], order[:slot]):
            path = self.videos.paths[video]
            if path in bad:
                continue
            rng = np.random.default_rng([self.seed, epoch, slot])
            try:
                clip = self._clip(path, rng)
            except VideoError as error:
                bad[path] = str(error)
                continue
            return _Sample(epoch, clip, self.videos.labels[video], list(bad.items()))
        return _Sample(epoch, None, -1, list(bad.items()))

    def _clip(self, path, rng):
        """Draws a clip of one video: {"rgb": uint8 [T, S, S, 3], "flow": ...}."""
        spec = self.spec
        clip = self.reader.read(
            path,
            lambda count: train_indices(count, spec.frames, spec.stride_range, rng),
        )
        height, width = next(iter(clip.values())).shape[1:3]
        scale = self._scale(height, width)
        side = max(1, spec.size * scale)
        if spec.crop == "corners":
            crop = draw_corner_crop(height, width, side, rng, flip=spec.flip)
        else:
            crop = draw_crop(
                height, width, side, rng, jitter=spec.jitter, flip=spec.flip
            )
        cropped = {}
        if "rgb" in clip:
            cropped["rgb"] = apply_crop(clip["rgb"], crop, spec.size)
        if "flow" in clip:
            flow = apply_crop_to_flow(clip["flow"], crop, spec.size)
            # In pixels of frames of the shorter side, whatever size they have here.
            cropped["flow"] = flow if scale == 1 else flow * np.float32(1 / scale)
        return cropped

    def _scale(self, height, width):
        """Size of these frames, relative to what their shorter side should be.

        Frames smaller than ``shorter_side`` aren't enlarged before the crop: a crop
        smaller by the same factor shows the same, at half the work.
        """
        if self.spec.shorter_side is None:
            return 1
        return min(height, width) / self.spec.shorter_side


class _Account:
    """Books the bad videos of each epoch and stops when there are too many."""

    def __init__(self, skipped, num_videos, max_bad_fraction):
        self._skipped = skipped
        self._num_videos = num_videos
        self._accepted = max_bad_fraction * num_videos
        self._epoch = None
        self._bad = {}

    def good(self, samples):
        """Yields the samples on, in order, or raises VideoError."""
        for sample in samples:
            if sample.epoch != self._epoch:
                self._epoch, self._bad = sample.epoch, {}
            for path, reason in sample.bad:
                self._skipped.add(path, reason)
                self._bad[path] = reason
            if len(self._bad) > self._accepted or sample.clip is None:
                raise VideoError(self._message())
            yield sample

    def _message(self):
        lines = list(self._bad.values())
        more = [f"and {len(lines) - 10} more"] if len(lines) > 10 else []
        return (
            f"{len(lines)} of {self._num_videos} videos are bad in epoch {self._epoch},"
            f" accepted are up to {self._accepted:g}; repair them, take them out of "
            "the list or raise max_bad_fraction:\n  " + "\n  ".join(lines[:10] + more)
        )


def _batched(samples, batch_size):
    """Yields ({input: [B, T, S, S, C]}, int32 [B]) of every B samples."""
    while True:
        batch = [next(samples) for _ in range(batch_size)]
        clips = {
            name: np.stack([sample.clip[name] for sample in batch])
            for name in batch[0].clip
        }
        yield clips, np.array([sample.label for sample in batch], np.int32)


class _Pool:
    """Threads that work ahead, and hand over their results in order."""

    def __init__(self, workers):
        self.workers = workers
        self._executor = concurrent.futures.ThreadPoolExecutor(
            workers, thread_name_prefix="zoo-decode"
        )

    def map_in_order(self, function, items, ahead):
        """Yields function(item) of every item, ``ahead`` items being in the works."""
        items, pending = iter(items), collections.deque()
        while True:
            for item in items:
                pending.append(self._executor.submit(function, item))
                if len(pending) > ahead:
                    break
            if not pending:
                return
            yield pending.popleft().result()

    def close(self):
        """Gives up what hasn't started."""
        self._executor.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _thread_pool(workers):
    workers = workers or os.cpu_count() or 1
    pool = _Pool(workers)
    try:
        yield pool
    finally:
        pool.close()
