"""From ImageNet VID and DET to batches of frames with boxes, for detectors.

An example is T frames, tau apart, of one video: two for Detect & Track, one for the
single-frame detector. Where stills are given, videos and stills take turns, example by
example, a still standing for T equal frames (thesis section 8.5.2, D & T). Each still
comes once before any comes again, each video likewise, in a random order.

Example ``i`` is a pure function of the seed and of ``i``: batches don't depend on
threads, on what ran before, nor on where a resumed training begins.

Frames are resized as in the author's code: shorter side 600 pixels, but the longer one
at most 1000, bilinear without antialiasing. They stay 8 bits, so the resized values
are rounded, which the author's code doesn't do. Boxes are stretched by the exact
ratios of the sizes in whole pixels.

A bad file is skipped, counted and reported. Its example goes to the next good video or
still of the order, so that the number of batches never changes.

Source: thesis sections 8.5.1 and 8.5.2.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from zoo.datasets.imagenet_annotations import AnnotationError, Frame
from zoo.datasets.imagenet_det import spaced
from zoo.datasets.pipeline import Skipped

PADDING_COLOUR = (123, 116, 103)
"""Mean colour of ImageNet, RGB; fills a batch's smaller frames up, bottom and right."""


@dataclass(frozen=True)
class PairSpec:
    """How an example is cut from a video.

    The defaults are those of Detect & Track in thesis section 8.5.2; the single-frame
    detector of that section takes ``PairSpec(frames=1, frames_per_video=10)``.

    Attributes:
        frames: frames T of an example, at least 1.
        stride: frames tau from one to the next, at least 1.
        frames_per_video: starts are taken from so many equally spaced frames of each
            video, and each (video, start) counts as an example of its own: 10 in
            section 8.5.1, 30 in the author's code. None draws a random start and
            counts each video once.
        shorter_side: of resized frames, in pixels.
        longer_side: most pixels of the longer side, which wins.
        flip: whether half of the examples are mirrored, all their frames and boxes.
        padded_size: height and width of all batches, so that a compiled step sees one
            shape; None pads each batch to its largest frame.
        max_objects: G of all batches; None takes each batch's largest number, at
            least 1. Of a frame with more objects the largest are kept, and the rest is
            counted in the findings of the videos.
    """

    frames: int = 2
    stride: int = 1
    frames_per_video: int | None = None
    shorter_side: int = 600
    longer_side: int = 1000
    flip: bool = True
    padded_size: tuple[int, int] | None = None
    max_objects: int | None = None

    def __post_init__(self):
        for name in ("frames", "stride", "shorter_side", "longer_side"):
            _check_count(name, getattr(self, name))
        for name in ("frames_per_video", "max_objects"):
            if getattr(self, name) is not None:
                _check_count(name, getattr(self, name), ", or None")
        if self.longer_side < self.shorter_side:
            raise ValueError(
                f"longer_side must be at least shorter_side, {self.shorter_side}; got "
                f"{self.longer_side}"
            )
        if self.padded_size is not None:
            if len(self.padded_size) != 2:
                raise ValueError(
                    f"padded_size must be (height, width), got {self.padded_size!r}"
                )
            for side in self.padded_size:
                _check_count("padded_size", side)

    @property
    def reach(self) -> int:
        """Frames from the first to the last of an example."""
        return (self.frames - 1) * self.stride


def _check_count(name, value, more=""):
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < 1:
        raise ValueError(
            f"{name} must be a whole number of at least 1{more}; got {value!r}"
        )


def resized_size(
    height: int, width: int, shorter_side: int = 600, longer_side: int = 1000
) -> tuple[int, int]:
    """Size of a frame after resizing, for training and testing alike.

    Args:
        height: of the frame in pixels.
        width: likewise.
        shorter_side: wanted.
        longer_side: most pixels of the longer side, which wins.

    Returns:
        (height, width), rounded to whole pixels (halves up), at least 1.

    Source: thesis section 8.5.2; the limit of the longer side is the author's code's.
    """
    scale = shorter_side / min(height, width)
    scale = min(scale, longer_side / max(height, width))
    return tuple(max(1, int(side * scale + 0.5)) for side in (height, width))


def resize_frames(frames, height: int, width: int):
    """Resizes frames bilinearly without antialiasing.

    Args:
        frames: uint8 [..., H, W, 3], one frame or a stack of them.
        height: wanted, in pixels.
        width: likewise.

    Returns:
        tf uint8 [..., height, width, 3], rounded.
    """
    resized = tf.image.resize(frames, (height, width), "bilinear", antialias=False)
    return tf.cast(tf.round(resized), tf.uint8)


def decode_frames(paths, height: int, width: int):
    """Reads JPEG files and resizes them, in training and testing alike.

    Args:
        paths: of T files, a sequence of known length or a string tensor [T].
        height: of the resized frames, see `resized_size`.
        width: likewise.

    Returns:
        tf uint8 [T, height, width, 3], RGB; grey files have three equal channels.
    """
    # The accurate method is that of other decoders; the default is a coarser one.
    pictures = [
        tf.io.decode_jpeg(
            tf.io.read_file(path), channels=3, dct_method="INTEGER_ACCURATE"
        )
        for path in (tf.unstack(paths) if tf.is_tensor(paths) else paths)
    ]
    return tf.stack([resize_frames(picture, height, width) for picture in pictures])


def detection_dataset(
    videos,
    stills=None,
    batch_size: int = 4,
    spec: PairSpec | None = None,
    *,
    seed: int = 0,
    initial_step: int = 0,
    max_bad_fraction: float = 0.05,
    skipped: Skipped | None = None,
) -> tf.data.Dataset:
    """Makes an endless dataset of training batches for detectors.

    Each iterator starts at batch ``initial_step``, counted from 0, so that a training
    resumed after step s sees the batches it would have seen. Give ``model.fit`` a
    number of ``steps_per_epoch``, without which Keras' first epoch never ends. All
    batches are full.
    Under a tf.distribute strategy ``batch_size`` is the global one, and every batch
    is shared out (AutoShardPolicy.DATA).

    Args:
        videos: an ImageNetVID; those shorter than an example are left out, and counted
            in its findings.
        stills: an ImageNetDET with the same classes, or None for videos alone.
        batch_size: examples B per batch. Even numbers of them are half stills.
        spec: a PairSpec, by default PairSpec().
        seed: of the order and of every example, at least 0.
        initial_step: the first batch.
        max_bad_fraction: largest share of examples skipped among those so far,
            counted once there are 20.
        skipped: a Skipped to count bad files in.

    Returns:
        A tf.data.Dataset of (frames, targets): frames uint8 [B, T, H, W, 3], RGB,
        filled up with PADDING_COLOUR; targets {"boxes": float32 [B, T, G, 4] in
        pixels of the resized frames, "labels": int32 [B, T, G], "tracks": int32
        [B, T, G]}. Labels and tracks of missing objects are -1, their boxes 0. The
        same track in two frames of an example is the same object.

    Raises:
        ValueError: a number is out of range, no video is long enough, or videos and
            stills differ in their classes.
        AnnotationError: while iterating, if too many files are bad; a ValueError if a
            frame is larger than ``padded_size``. tf.data wraps both in an OpError; see
            Skipped.reraising.
    """
    spec = PairSpec() if spec is None else spec
    skipped = Skipped() if skipped is None else skipped
    _check_count("batch_size", batch_size)
    if min(seed, initial_step) < 0 or not 0 <= max_bad_fraction <= 1:
        raise ValueError(
            "seed and initial_step must be at least 0 and max_bad_fraction in [0, 1], "
            f"got {seed}, {initial_step} and {max_bad_fraction}"
        )
    source = _Source(videos, stills, spec, seed)
    first = initial_step * batch_size

    def examples():
        try:
            yield from source.good(first, skipped, max_bad_fraction)
        except ValueError as error:
            skipped.error = error
            raise

    dataset = tf.data.Dataset.from_generator(
        examples, output_signature=_example_signature(spec.frames)
    )
    dataset = dataset.map(_decode, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.padded_batch(batch_size, *_padding(spec), drop_remainder=True)
    dataset = dataset.map(
        lambda frames, targets: (_dyed(frames), targets),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    dataset = dataset.prefetch(2).with_options(options)
    return dataset.apply(
        tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    )


def _example_signature(frames):
    """What `_Source` yields: paths, size, flip, boxes, labels, tracks."""
    return {
        "paths": tf.TensorSpec((frames,), tf.string),
        "size": tf.TensorSpec((2,), tf.int32),
        "flip": tf.TensorSpec((), tf.bool),
        "boxes": tf.TensorSpec((frames, None, 4), tf.float32),
        "labels": tf.TensorSpec((frames, None), tf.int32),
        "tracks": tf.TensorSpec((frames, None), tf.int32),
    }


def _decode(example):
    """Decodes, resizes and mirrors the frames; their boxes are done already."""
    frames = decode_frames(example["paths"], *tf.unstack(example["size"]))
    mirrored = example["flip"]
    frames = tf.cond(mirrored, lambda: tf.reverse(frames, [2]), lambda: frames)
    targets = {name: example[name] for name in ("boxes", "labels", "tracks")}
    return _dyed(frames), targets


def _padding(spec):
    """Shapes and values of padded_batch."""
    objects = spec.max_objects
    height, width = spec.padded_size or (None, None)
    shapes = (
        (spec.frames, height, width, 3),
        {
            "boxes": (spec.frames, objects, 4),
            "labels": (spec.frames, objects),
            "tracks": (spec.frames, objects),
        },
    )
    values = (
        tf.constant(0, tf.uint8),
        {"boxes": 0.0, "labels": tf.constant(-1), "tracks": tf.constant(-1)},
    )
    return shapes, values


def _dyed(frames):
    """Frames [..., W, 3] in exclusive or with the padding's colour.

    Done before and after padding with zeros, it leaves the frames as they were and
    gives the padding its colour, in a tenth of the time that choosing pixel by pixel
    takes. Rows are taken whole because short inner axes are slow.
    """
    shape = tf.shape(frames)
    rows = tf.reshape(frames, (-1, 3 * shape[-2]))
    colour = tf.tile(tf.constant(PADDING_COLOUR, tf.uint8), shape[-2:-1])
    result = tf.reshape(tf.bitwise.bitwise_xor(rows, colour), shape)
    return tf.ensure_shape(result, frames.shape)


def scaled_boxes(frame: Frame, size: tuple[int, int], flip: bool = False) -> np.ndarray:
    """Boxes of a frame after resizing, and mirroring if asked for.

    Args:
        frame: a Frame.
        size: height and width of the resized frame.
        flip: whether left and right change places.

    Returns:
        float32 [n, 4], x1, y1, x2, y2 in pixels of the resized frame.
    """
    height, width = size
    ratios = [width / frame.width, height / frame.height] * 2
    boxes = frame.boxes * np.array(ratios, np.float32)
    if flip:
        boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    return boxes


def _starts(videos, spec):
    """(video, first frame) of the examples of a round; None for a random start."""
    for video in videos.videos:
        count = len(video) - spec.reach
        if count < 1:
            videos.findings.add(
                "video(s) shorter than an example left out", videos.path(video, 0)
            )
            continue
        if spec.frames_per_video is None:
            yield video, None
        else:
            for start in spaced(count, spec.frames_per_video):
                yield video, start


class _Source:
    """Makes any example: a pure function of its number."""

    def __init__(self, videos, stills, spec, seed):
        if stills is not None and stills.class_names != videos.class_names:
            raise ValueError(
                f"videos have the classes {videos.class_names}, stills "
                f"{stills.class_names}; give both the same"
            )
        self.videos, self.stills, self.spec, self.seed = videos, stills, spec, seed
        self._orders = {}
        self.starts = list(_starts(videos, spec))
        if not self.starts:
            raise ValueError(
                f"no video has the {spec.reach + 1} frames that {spec.frames} frames "
                f"{spec.stride} apart take; lower frames or stride"
            )

    def good(self, first, skipped, max_bad_fraction):
        """Yields examples from number ``first`` on, passing over bad ones."""
        bad = 0
        for count, number in enumerate(itertools.count(first), start=1):
            for attempt in itertools.count():
                try:
                    example = self.example(number, attempt)
                    break
                except AnnotationError as error:
                    skipped.add(str(error).split(": ")[0], str(error))
                    bad += 1
                    all_bad = attempt > len(self.starts) + self._still_count()
                    if all_bad or bad > max_bad_fraction * max(count, 20):
                        raise AnnotationError(
                            f"{bad} of {count} examples were bad, accepted is a share "
                            f"of {max_bad_fraction:g}; repair the files or raise "
                            f"max_bad_fraction. The last: {error}"
                        ) from error
            yield example

    def _still_count(self):
        return 0 if self.stills is None else len(self.stills)

    def example(self, number, attempt=0):
        """Example ``number`` as tf.data takes it, after ``attempt`` bad ones."""
        rng = np.random.default_rng([self.seed, number, attempt])
        if self.stills is not None and number % 2:
            still = self._turn(self.stills.stills, 1, number // 2 + attempt)
            frames = [still] * self.spec.frames
        else:
            turn = (number if self.stills is None else number // 2) + attempt
            video, start = self._turn(self.starts, 0, turn)
            if start is None:
                start = int(rng.integers(len(video) - self.spec.reach))
            times = range(start, start + self.spec.reach + 1, self.spec.stride)
            frames = [self.videos.read(video, time) for time in times]
        flip = self.spec.flip and rng.random() < 0.5
        return self._tensors(frames, flip)

    def _turn(self, things, kind, turn):
        """The thing whose turn it is: in every round each comes once."""
        round_, place = divmod(turn, len(things))
        return things[self._order(kind, round_, len(things))[place]]

    def _order(self, kind, round_, count):
        """Order of a round; the last one of either kind is remembered."""
        key, order = self._orders.get(kind, (None, None))
        if key != round_:
            order = np.random.default_rng([self.seed, kind, round_, 1]).permutation(
                count
            )
            self._orders[kind] = (round_, order)
        return order

    def _tensors(self, frames, flip):
        spec = self.spec
        sizes = {(frame.height, frame.width) for frame in frames}
        if len(sizes) > 1:
            raise AnnotationError(
                f"{frames[-1].path}: has another size than {frames[0].path}, "
                f"{sorted(sizes)}; the frames of a video must be equal in size"
            )
        size = resized_size(*sizes.pop(), spec.shorter_side, spec.longer_side)
        if spec.padded_size and any(np.greater(size, spec.padded_size)):
            raise ValueError(
                f"{frames[0].path}: is {size[0]} x {size[1]} pixels after resizing, "
                f"more than padded_size {tuple(spec.padded_size)}; raise padded_size "
                "or lower longer_side"
            )
        frames = [self._limited(frame) for frame in frames]
        # At least one, so that losses never see an axis of length 0.
        objects = max(1, *map(len, frames))
        result = {
            "paths": [frame.path for frame in frames],
            "size": np.array(size, np.int32),
            "flip": flip,
            "boxes": np.zeros((spec.frames, objects, 4), np.float32),
            "labels": np.full((spec.frames, objects), -1, np.int32),
            "tracks": np.full((spec.frames, objects), -1, np.int32),
        }
        for t, frame in enumerate(frames):
            count = len(frame)
            result["boxes"][t, :count] = scaled_boxes(frame, size, flip)
            result["labels"][t, :count] = frame.labels
            result["tracks"][t, :count] = frame.tracks
        return result

    def _limited(self, frame):
        """The frame with its ``max_objects`` largest objects."""
        most = self.spec.max_objects
        if most is None or len(frame) <= most:
            return frame
        self.videos.findings.add(
            "object(s) beyond max_objects left out", frame.path, len(frame) - most
        )
        sizes = frame.boxes[:, 2:] - frame.boxes[:, :2]
        kept = np.sort(np.argsort(-sizes.prod(1), kind="stable")[:most])
        return Frame(
            frame.path,
            frame.width,
            frame.height,
            *(
                values[kept]
                for values in (frame.boxes, frame.labels, frame.tracks, frame.occluded)
            ),
        )
