"""Video files to frames: forward decoding with PyAV, exact and bounded.

Frames are decoded from the start, one after the other, and numbered as the decoder
presents them. Nothing seeks: seeking by index returns wrong frames on MPEG-4 AVIs
with B-frames (the UCF101 and HMDB51 kind) in some readers. The number of frames is
what was decoded; the header's number is kept beside it as a claim to check.

Source: the sampling of thesis 7.3.3 needs exact frame numbers; large frames can be
shrunk to a shorter side of 256 while decoding (thesis 3.3.5, bicubic as in the author's
frames). The pixel aspect ratio of anamorphic video isn't applied.

Decoding runs on one thread per file and releases the GIL: many files decode in
parallel from a thread pool. FFmpeg's own frame threads are off on purpose: beside a
Python log callback (``av.logging.set_level``) they deadlock when a file is closed.
"""

import contextlib
import dataclasses
import os

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

MAX_FRAMES = 100_000
"""Frames decoded from one file by default: about an hour at 28 frames per second."""
MAX_BYTES = 4 * 2**30
"""Bytes of RGB frames kept from one file by default: 4 GiB."""
MAX_PIXELS = 2**26
"""Pixels of one decoded frame: 8192 x 8192."""

_IDENTITY = (1, 0, 0, 1)


class VideoError(ValueError):
    """A video that can't be read, or not as asked; the message starts with its path."""


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a file's header and its first frame say.

    Attributes:
        width: Width of the upright frame in pixels.
        height: Height of the upright frame in pixels.
        fps: Average frames per second, None if the header doesn't say.
        declared: Frames according to the header, None if it doesn't say. A claim.
        rotation: Degrees counterclockwise by which stored frames turn upright.
        codec: FFmpeg's name of the codec, such as ``h264``.
    """

    width: int
    height: int
    fps: float | None
    declared: int | None
    rotation: int
    codec: str


@dataclasses.dataclass(frozen=True, eq=False)
class Video:
    """Decoded frames and how they were come by.

    Attributes:
        frames: uint8 [T, H, W, 3], upright RGB, 0-255.
        indices: int64 [T], the frame number of each, from 0 in presentation order.
        fps: Average frames per second, None if the header doesn't say.
        declared: Frames according to the header, None if it doesn't say.
        decoded: Frames decoded. It's the true length where ``complete`` is True.
        complete: Whether decoding went on to the end of the file or to its damage.
        rotation: Degrees counterclockwise by which the frames were turned upright.
        damage: What is wrong with the file, None where nothing was noticed.
        passes: 2 if the header's count was wrong and the file was decoded again.
    """

    frames: np.ndarray
    indices: np.ndarray
    fps: float | None
    declared: int | None
    decoded: int
    complete: bool
    rotation: int
    damage: str | None
    passes: int


@dataclasses.dataclass(frozen=True)
class _Limits:
    frames: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class _Source:
    """An opened file: its container, its video stream and the header's claims."""

    path: str
    container: av.container.InputContainer
    stream: av.VideoStream
    fps: float | None
    declared: int | None
    expected: float  # no fewer frames than this in a sound file


@dataclasses.dataclass
class _Pass:
    """What one forward pass over a file gave."""

    frames: np.ndarray | None
    decoded: int
    complete: bool
    rotation: int
    damage: str | None


def read_video(
    path,
    indices=None,
    *,
    verify_count=True,
    shorter_side=None,
    strict=False,
    max_frames=MAX_FRAMES,
    max_bytes=MAX_BYTES,
):
    """Reads all or some frames of a video file.

    Only the frames asked for are converted to RGB and kept, and decoding stops after
    the last of them. If ``indices`` is a function it's called with the number of
    frames in the header while the file is decoded once; if the decoded number then
    differs, it's called again with that number and the file is decoded a second time
    (``passes`` is 2), so that the choice always rests on the truth. With
    ``verify_count=False``, meant for training, decoding stops after the last chosen
    frame and only a file that ends before that frame is decoded twice.

    A damaged file gives the frames before its damage and a text in ``damage``. Damage
    is a decoder's error, a frame the decoder marks corrupt, or an end clearly before
    the header's (more than one frame and 2 %; 10 % where only the file's duration,
    sound included, is known).

    Args:
        path: A file on disk.
        indices: Frame numbers from 0, in any order and with repeats; or a function
            from the number of frames to such numbers; or None for all frames.
        verify_count: Whether a function's choice must rest on the decoded count.
        shorter_side: Shrinks larger frames, aspect kept, so that their shorter side
            has this many pixels (bicubic). None keeps all sizes.
        strict: Raises VideoError on damage instead of returning the frames before it.
        max_frames: Bound on decoded frames.
        max_bytes: Bound on the bytes of the returned frames, checked before they're
            allocated. Frames of more than MAX_PIXELS are never decoded.

    Returns:
        A Video with frames uint8 [T, H, W, 3], T the number of indices.

    Raises:
        VideoError: If the file is missing, empty, no video or beyond a bound, if no
            frame can be decoded, if an index lies outside the video, or on damage
            where ``strict``.
    """
    limits = _Limits(max_frames, max_bytes)
    choose = indices if callable(indices) else None
    chosen = None if choose else _as_indices(path, indices)
    with _open(path) as source:
        if choose:
            _check_declared(source, limits)
            chosen = _choose(path, choose, source.declared)
            whole = verify_count or source.declared is None
        else:
            whole = False
        first = _scan(source, chosen, whole, limits, shorter_side)
    last, passes = first, 1
    if choose and first.complete and first.decoded != source.declared:
        chosen = _choose(path, choose, first.decoded)
        with _open(path) as again:
            last, passes = _scan(again, chosen, False, limits, shorter_side), 2
    if strict and first.damage:
        raise VideoError(
            f"{source.path}: damaged: {first.damage}. {first.decoded} frame(s) decode "
            "before it; read it with strict=False to get those."
        )
    chosen = np.arange(last.decoded) if chosen is None else chosen
    return Video(
        frames=_gather(source.path, last, chosen),
        indices=chosen,
        fps=source.fps,
        declared=source.declared,
        decoded=first.decoded,
        complete=first.complete,
        rotation=first.rotation,
        damage=first.damage,
        passes=passes,
    )


def probe(path):
    """Reads a file's header and its first frame.

    Args:
        path: A file on disk.

    Returns:
        A VideoInfo. Its frame count is the header's claim; read_video counts.

    Raises:
        VideoError: If the file can't be opened or its first frame can't be decoded.
    """
    with _open(path) as source:
        first = _scan(source, np.array([0]), False, _Limits(1, MAX_BYTES), None)
        _, height, width, _ = first.frames.shape
        return VideoInfo(
            width=width,
            height=height,
            fps=source.fps,
            declared=source.declared,
            rotation=first.rotation,
            codec=source.stream.codec_context.name,
        )


def stream_frames(path, size=None, max_frames=MAX_FRAMES):
    """Decodes all frames of a sound video one by one, in the memory of one.

    Args:
        path: A file on disk.
        size: Function from (width, height) of the stored frames to those wanted
            (bicubic); None keeps their size.
        max_frames: Bound on decoded frames.

    Yields:
        uint8 [H, W, 3], upright RGB, 0-255.

    Raises:
        VideoError: As ``read_video(strict=True)`` does, after the frames before the
            damage; and if a frame has another size than the first.
    """
    with _open(path) as source:
        _check_declared(source, _Limits(max_frames, MAX_BYTES))
        count, corrupt, error, first = 0, None, None, None
        reformatter = VideoReformatter()
        try:
            for frame in source.container.decode(source.stream):
                if first is None:
                    first = frame.width, frame.height
                    matrix = _display_matrix(frame)
                    target = size(*first) if size else first
                    _check_pixels(source.path, *first)
                    _check_pixels(source.path, *target)
                _check_streamed(source, count, frame, first, max_frames)
                if frame.is_corrupt:
                    corrupt = count
                    break
                yield _upright(reformatter, frame, target, matrix)
                count += 1
        except av.error.FFmpegError as failure:
            error = failure
        damage = _damage(source, count, corrupt, error, corrupt is None)
        if damage or not count:
            raise VideoError(
                f"{source.path}: damaged: {damage or 'no frame can be decoded'}. "
                f"{count} frame(s) decode before it; repair or re-encode the video."
            )


def _check_streamed(source, count, frame, first, max_frames):
    if count >= max_frames:
        raise VideoError(
            f"{source.path}: holds more than max_frames={max_frames} frames; cut it."
        )
    if (frame.width, frame.height) != first:
        raise VideoError(
            f"{source.path}: frame {count} is {frame.width}x{frame.height}, those "
            f"before it {first[0]}x{first[1]}; motion between frames of several sizes "
            "isn't defined: re-encode the video at one size."
        )


def _as_indices(path, indices):
    """Checks frame numbers; returns them as int64 [T], None for None."""
    if indices is None:
        return None
    array = np.asarray(indices)
    if array.ndim != 1 or not array.size or array.dtype.kind not in "iu":
        raise VideoError(
            f"{os.fspath(path)}: frame indices must be a non-empty list of integers, "
            f"got shape {array.shape} of {array.dtype}."
        )
    if array.min() < 0:
        raise VideoError(
            f"{os.fspath(path)}: frame index {array.min()} is negative; frames count "
            "from 0."
        )
    return array.astype(np.int64)


def _choose(path, choose, count):
    """Calls the caller's choice; nothing is chosen while the count is unknown."""
    if not count:
        return np.zeros(0, np.int64)
    return _as_indices(path, choose(count))


@contextlib.contextmanager
def _open(path):
    """Opens a video file as a _Source and closes it again."""
    path = os.fspath(path)
    _check_file(path)
    try:
        # "file:" keeps FFmpeg from reading "a:b.mp4" as a protocol.
        container = av.open(f"file:{path}", metadata_errors="ignore")
    except av.error.FFmpegError as error:
        raise VideoError(
            f"{path}: not a video file FFmpeg can open ({error.strerror}); it may be "
            "truncated or another kind of file."
        ) from error
    with container:
        yield _source(path, container)


def _check_file(path):
    if not os.path.exists(path):
        raise VideoError(f"{path}: no such file.")
    if os.path.isdir(path):
        raise VideoError(f"{path}: is a folder; give a video file in it.")
    if not os.path.getsize(path):
        raise VideoError(f"{path}: is empty (0 bytes); copy or download it again.")


def _source(path, container):
    """Finds the video stream and reads the header's claims."""
    stream = next(
        (
            s
            for s in container.streams.video
            if not s.disposition & av.stream.Disposition.attached_pic
        ),
        None,
    )
    if stream is None:
        kinds = ", ".join(s.type for s in container.streams) or "none"
        raise VideoError(f"{path}: holds no video stream (streams: {kinds}).")
    if stream.codec_context is None:
        raise VideoError(f"{path}: FFmpeg has no decoder for its video stream.")
    _check_pixels(path, stream.codec_context.width, stream.codec_context.height)
    stream.codec_context.thread_count = 1
    rate = stream.average_rate or stream.guessed_rate
    declared, expected = _declared(container, stream, rate)
    fps = float(rate) if rate else None
    return _Source(path, container, stream, fps, declared, expected)


def _declared(container, stream, rate):
    """Returns the header's frame count and the least that a sound file decodes to."""
    counts = [stream.frames] if stream.frames else []
    if stream.duration and rate:
        # An edit list shortens the duration but not the count: the least is right.
        counts.append(round(stream.duration * stream.time_base * rate))
    if counts:
        least = min(counts)
        return counts[0], least - max(1, 0.02 * least)
    if container.duration and rate:
        # Matroska and WebM state only how long the file is, sound included.
        count = round(container.duration / av.time_base * rate)
        return count or None, count - max(1, 0.1 * count)
    return None, 0


def _check_declared(source, limits):
    if source.declared and source.declared > limits.frames:
        raise VideoError(
            f"{source.path}: declares {source.declared} frames, accepted are up to "
            f"max_frames={limits.frames}; raise max_frames or cut the video."
        )


def _check_pixels(path, width, height):
    if width * height > MAX_PIXELS:
        raise VideoError(
            f"{path}: frames of {width}x{height} pixels, accepted are up to "
            f"{MAX_PIXELS} pixels; scale the video down."
        )


def _scan(source, chosen, whole, limits, shorter_side):
    """Decodes forward once.

    Args:
        source: The opened file.
        chosen: int64 frame numbers to keep, each once and ascending in the result;
            None keeps all, none counts only.
        whole: Whether to go on after the last chosen frame.
        limits: Bounds.
        shorter_side: As in read_video.

    Returns:
        A _Pass.
    """
    if chosen is None:
        _check_declared(source, limits)
    wanted = None if chosen is None else np.unique(chosen).tolist()
    if wanted and wanted[-1] >= limits.frames:
        raise VideoError(
            f"{source.path}: frame index {wanted[-1]} is beyond "
            f"max_frames={limits.frames}; raise max_frames."
        )
    store = _Store(source.path, wanted, source.declared, limits.bytes, shorter_side)
    count, corrupt, error, complete = 0, None, None, True
    try:
        for frame in source.container.decode(source.stream):
            if count >= limits.frames:
                raise VideoError(
                    f"{source.path}: holds more than max_frames={limits.frames} "
                    "frames; raise max_frames or cut the video."
                )
            if frame.is_corrupt and corrupt is None:
                corrupt = count
            store.offer(count, frame)
            count += 1
            if not whole and wanted and count > wanted[-1]:
                complete = False
                break
    except av.error.FFmpegError as failure:
        error = failure
    damage = _damage(source, count, corrupt, error, complete)
    if not count:
        raise VideoError(
            f"{source.path}: no frame can be decoded ({damage or 'the stream is empty'}"
            ")."
        )
    return _Pass(store.frames(), count, complete, store.rotation, damage)


def _damage(source, count, corrupt, error, complete):
    """Describes what went wrong in a pass; None if nothing was noticed."""
    of = f" of {source.declared} declared" if source.declared else ""
    found = []
    if corrupt is not None:
        found.append(f"the decoder marks frame {corrupt} corrupt")
    if error is not None:
        found.append(f"decoding fails after {count}{of} frame(s): {error.strerror}")
    elif complete and count < source.expected:
        found.append(f"ends after {count}{of} frame(s)")
    return "; ".join(found) or None


class _Store:
    """Keeps the wanted frames of one pass as upright RGB, inside a byte limit."""

    def __init__(self, path, wanted, declared, max_bytes, shorter_side):
        self._path = path
        self._wanted = None if wanted is None else set(wanted)
        self._room = len(wanted) if wanted is not None else declared or 1
        self._max_bytes = max_bytes
        self._shorter_side = shorter_side
        self._kept = []
        self._buffer = None
        self._size = None
        self._matrix = None
        # One reformatter for all frames: its scaling tables are built once, which
        # makes the conversion of a 340x256 frame three times as fast.
        self._reformatter = VideoReformatter()
        self.rotation = 0

    def offer(self, index, frame):
        """Looks at a decoded frame and keeps it if it's wanted."""
        if self._matrix is None:
            self._begin(frame)
        if self._wanted is None or index in self._wanted:
            self._keep(frame)

    def frames(self):
        """Returns the kept frames, uint8 [N, H, W, 3], in ascending order."""
        if self._buffer is not None:
            return self._buffer[: len(self._kept)]
        return np.stack(self._kept) if self._kept else None

    def _begin(self, frame):
        """Fixes size and orientation by the first frame, and the memory needed."""
        _check_pixels(self._path, frame.width, frame.height)
        self._matrix = _display_matrix(frame)
        self.rotation = int(frame.rotation)
        self._size = _scaled(frame.width, frame.height, self._shorter_side)
        self._check_bytes(self._room)
        if self._wanted:
            width, height = self._size
            shape = turn_upright(np.empty((height, width, 0)), self._matrix).shape
            self._buffer = np.empty((len(self._wanted), *shape[:2], 3), np.uint8)

    def _keep(self, frame):
        # Frames of another size, which some streams change to, get the first's.
        image = _upright(self._reformatter, frame, self._size, self._matrix)
        if self._buffer is None:
            self._check_bytes(len(self._kept) + 1)
            self._kept.append(image)
        else:
            self._buffer[len(self._kept)] = image
            self._kept.append(None)

    def _check_bytes(self, count):
        width, height = self._size
        need = count * width * height * 3
        if need > self._max_bytes:
            raise VideoError(
                f"{self._path}: {count} frames of {width}x{height} take {need} bytes, "
                f"accepted are up to max_bytes={self._max_bytes}; ask for fewer "
                "frames, set shorter_side or raise max_bytes."
            )


def _upright(reformatter, frame, size, matrix):
    """A decoded frame as upright RGB, uint8 [H, W, 3], after it got a size."""
    image = reformatter.reformat(
        frame,
        width=size[0],
        height=size[1],
        format="rgb24",
        interpolation=Interpolation.BICUBIC,
    ).to_ndarray()
    return turn_upright(image, matrix)


def _scaled(width, height, shorter_side):
    """Size with at most the given shorter side, aspect kept."""
    if shorter_side is None:
        return width, height
    if shorter_side < 1:
        raise ValueError(f"shorter_side must be at least 1 pixel, got {shorter_side}.")
    scale = min(1, shorter_side / min(width, height))
    return round(width * scale), round(height * scale)


def _display_matrix(frame):
    """The upper left 2x2 (a, b, c, d) of the frame's display matrix."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            values = np.frombuffer(bytes(data), np.int32)
            return tuple(int(values[i]) for i in (0, 1, 3, 4))
    return _IDENTITY


def turn_upright(image, matrix):
    """Applies the turn or mirroring of a display matrix (ISO/IEC 14496-12, 8.3.2).

    Args:
        image: [H, W, C].
        matrix: (a, b, c, d) with x' = ax + cy and y' = bx + dy; a turn by other than
            right angles counts as the nearest right angle.

    Returns:
        A view [H, W, C], or [W, H, C] for quarter turns.
    """
    a, b, c, d = matrix
    rows, columns = d, a
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, rows, columns = image.swapaxes(0, 1), b, c
    return image[:: -1 if rows < 0 else 1, :: -1 if columns < 0 else 1]


def _gather(path, result, chosen):
    """Puts the kept frames into the order asked for, repeats included."""
    if chosen.max() >= result.decoded:
        raise VideoError(
            f"{path}: frame index {chosen.max()} is outside the video, which decodes "
            f"to {result.decoded} frame(s)"
            + (f" ({result.damage})." if result.damage else ".")
        )
    if np.all(np.diff(chosen) > 0):
        return result.frames
    return result.frames[np.searchsorted(np.unique(chosen), chosen)]
