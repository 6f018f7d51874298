"""From lists of videos to batches of clips: decoding, sampling, augmentation.

The training pipeline follows thesis 7.3.3: a clip is sampled at a random start and
stride, cropped and flipped at random, the same for all its frames, and the videos are
shuffled every epoch.

Everything random comes from ``np.random.default_rng([seed, epoch, slot])``, slot being
the clip's place in the epoch, so that batches depend on nothing but these numbers: not
on threads, nor on what ran before. Videos decode in a pool of threads, since PyAV and
OpenCV release the interpreter lock; tf.data takes whole batches from it.

A bad video is skipped, counted and reported. Its slot goes to the next good video in
the order of the epoch, so that the number of batches never changes.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import os
import threading
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from zoo.datasets.augment import apply_crop, draw_crop
from zoo.datasets.sampling import STRIDE_RANGE, test_indices, train_indices
from zoo.datasets.video import VideoError, read_video


@dataclasses.dataclass(frozen=True)
class ClipSpec:
    """How a training clip is cut from a video (defaults of thesis 7.3.3).

    Attributes:
        frames: Frames T of a clip.
        size: Side S of the square crop after resizing, in pixels.
        stride_range: Smallest and largest temporal stride in frames.
        shorter_side: Shorter side in pixels that videos have when the crop is taken
            (256 for 224 in thesis 3.3.5). None takes them at their own size.
        jitter: Relative range of the crop's sides.
        border: Largest distance of the crop from the frame's nearer border.
        flip: Whether half of the clips are mirrored; off where classes differ by
            direction.
    """

    frames: int = 16
    size: int = 224
    stride_range: tuple[int, int] = STRIDE_RANGE
    shorter_side: int | None = 256
    jitter: float = 0.25
    border: float = 0.25
    flip: bool = True

    def __post_init__(self):
        # A trial draw, so that a wrong number is named here and not by a thread.
        rng = np.random.default_rng(0)
        train_indices(self.frames, self.frames, self.stride_range, rng)
        draw_crop(*[self.size] * 3, rng, jitter=self.jitter, border=self.border)
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


class CacheFull(ValueError):
    """The videos don't fit into the memory that a FrameCache was given."""


class FrameCache:
    """Whole decoded videos in memory, for sets of small or short videos.

    Several datasets may share one, training and test alike: a video decodes once for
    every shorter side asked for. Cached videos are decoded to their end, so damage
    anywhere makes them bad, and the count of frames is always the true one.
    """

    def __init__(self, max_bytes=2**30):
        """Makes an empty cache.

        Args:
            max_bytes: Bound on the frames held, in bytes.
        """
        self._max_bytes = max_bytes
        self._frames = {}
        self._bytes = 0
        self._lock = threading.Lock()
        self._gates = {}

    @property
    def bytes(self):
        """Bytes of the frames held."""
        return self._bytes

    def frames(self, path, shorter_side=None):
        """Returns all frames of a video, uint8 [T, H, W, 3], not to be written to.

        Raises:
            VideoError: If the video is bad.
            CacheFull: If the video doesn't fit into the bound.
        """
        key = path, shorter_side
        with self._lock:
            gate = self._gates.setdefault(key, threading.Lock())
        with gate:  # a second thread waits instead of decoding the same video
            if key not in self._frames:
                video = read_video(path, shorter_side=shorter_side, strict=True)
                self._claim(path, video.frames.nbytes)
                video.frames.flags.writeable = False
                self._frames[key] = video.frames
            return self._frames[key]

    def _claim(self, path, count):
        """Books memory for a video, or raises CacheFull."""
        with self._lock:
            if self._bytes + count > self._max_bytes:
                raise CacheFull(
                    f"{path}: {count} bytes of frames don't fit into the cache, which "
                    f"holds {self._bytes} of max_bytes={self._max_bytes} in "
                    f"{len(self._frames)} video(s). Raise max_bytes "
                    "(zoo train --cache_mib), lower shorter_side or do without the "
                    "cache."
                )
            self._bytes += count


class TestClip(NamedTuple):
    """One video of a test set; (clip, label, path, failure) in this order.

    Attributes:
        clip: uint8 [T, H, W, 3]; None if the video is bad.
        label: Position of its class.
        path: Its file.
        failure: Why the video is bad, None if it's good.
    """

    clip: np.ndarray | None
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
        A tf.data.Dataset of (uint8 [B, T, S, S, 3], int32 [B]).

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
    source = _Source(videos, spec, seed, repeats, cache)

    def batches():
        account = _Account(skipped, len(videos), max_bad_fraction)
        slots = source.slots(initial_epoch, steps * batch_size)
        try:
            with _thread_pool(workers) as pool:
                ahead = batch_size + pool.workers
                samples = pool.map_in_order(source.sample, slots, ahead)
                yield from _batched(account.good(samples), batch_size)
        except (VideoError, CacheFull) as error:
            skipped.error = error
            raise

    shape = (batch_size, spec.frames, spec.size, spec.size, 3)
    dataset = tf.data.Dataset.from_generator(
        batches,
        output_signature=(
            tf.TensorSpec(shape, tf.uint8),
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


def test_videos(videos, clip_frames=16, *, shorter_side=None, cache=None, workers=None):
    """Iterates over a test set: equally spaced frames of every video (thesis 7.3.3).

    Frames are chosen by the decoded count. Nothing is left out or substituted: a bad
    or damaged video comes as a TestClip without a clip and with its failure.

    Args:
        videos: A VideoList.
        clip_frames: Frames T per video.
        shorter_side: Shrinks larger frames to this shorter side in pixels; None
            keeps all sizes.
        cache: A FrameCache, or None.
        workers: Threads that decode, by default one per core.

    Yields:
        A TestClip per video, in order.
    """

    def read(i):
        path, label = videos.paths[i], videos.labels[i]
        try:
            clip = _read_clip(
                path,
                lambda count: test_indices(count, clip_frames),
                shorter_side,
                cache,
                verify_count=True,
            )
        except VideoError as error:
            return TestClip(None, label, path, str(error))
        return TestClip(clip, label, path, None)

    with _thread_pool(workers) as pool:
        yield from pool.map_in_order(read, range(len(videos)), 2 * pool.workers)


test_videos.__test__ = False  # for pytest, which collects functions called test_*


class _Sample(NamedTuple):
    """One filled slot of an epoch and the bad videos passed over for it."""

    epoch: int
    clip: np.ndarray | None
    label: int
    bad: list  # (path, reason)


@dataclasses.dataclass(frozen=True)
class _Source:
    """Makes any sample of any epoch: a pure function of its arguments."""

    videos: object
    spec: ClipSpec
    seed: int
    repeats: int
    cache: FrameCache | None

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
        """Draws a clip of one video, uint8 [T, S, S, 3]."""
        spec = self.spec
        frames = _read_clip(
            path,
            lambda count: train_indices(count, spec.frames, spec.stride_range, rng),
            spec.shorter_side,
            self.cache,
            verify_count=False,
        )
        crop = draw_crop(
            *frames.shape[1:3],
            self._crop_side(frames),
            rng,
            jitter=spec.jitter,
            border=spec.border,
            flip=spec.flip,
        )
        return apply_crop(frames, crop, spec.size)

    def _crop_side(self, frames):
        """The crop's mean side in pixels of these frames.

        Frames smaller than ``shorter_side`` aren't enlarged before the crop: a crop
        smaller by the same factor shows the same, at half the work.
        """
        if self.spec.shorter_side is None:
            return self.spec.size
        scale = min(frames.shape[1:3]) / self.spec.shorter_side
        return max(1, self.spec.size * scale)


def _read_clip(path, choose, shorter_side, cache, verify_count):
    """Frames uint8 [T, H, W, 3] that ``choose`` picks by the number of frames."""
    if cache is not None:
        frames = cache.frames(path, shorter_side)
        return frames[choose(len(frames))]
    video = read_video(
        path,
        choose,
        verify_count=verify_count,
        shorter_side=shorter_side,
        strict=True,
    )
    return video.frames


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
    """Yields (uint8 [B, T, S, S, 3], int32 [B]) of every B samples."""
    while True:
        batch = [next(samples) for _ in range(batch_size)]
        clips = np.stack([sample.clip for sample in batch])
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
