"""Writes synthetic clips as video files: dynamic scenes, and moving pairs.

Dynamic scenes come in the folders of the YUP++ dynamic scenes (thesis section 7.4), so
a synthetic set is read back, split and evaluated as the real one:

    <root>/camera_stationary/<class>/<class>_stationary_c01.mp4
    <root>/camera_moving/<class>/<class>_moving_c01.mp4
    <root>/synthetic.json            parameters, and frames and SHA-256 per clip

`zoo.datasets.scenes` renders the clips and explains why no single frame tells the
class. The encoding keeps that true: every frame is coded by itself (H.264, key frames
only, constant quantiser), so a decoded frame is a function of the rendered frame alone
and carries no trace of the motion. The files play in browsers and players.

Moving pairs, rendered by `zoo.datasets.moving_pairs` for networks of two streams, come
as videos in the same encoding and their true optical flow, as the thesis stores flow
(section 3.3.5) and `zoo.datasets.flow.FlowFolder` reads it, file i + 1 holding field i:

    <root>/videos/<class>/<class>_c01.mp4
    <root>/flow/u/<class>/<class>_c01/frame000001.jpg      and flow/v/...
    <root>/synthetic.json

The flow is in 8 bits, ``zoo.datasets.flow.to_codes``, as grey JPEGs of quality 100.
Rounding to codes changes a displacement by at most 0.08 pixels, and JPEG the code by
one, 0.16 pixels, as tests/test_moving_pairs.py measures.
"""

import functools
import io
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from zoo.datasets import moving_pairs
from zoo.datasets.flow import BOUND, to_codes
from zoo.datasets.generated import Clip, seed_of, write_set
from zoo.datasets.moving_pairs import render_pair
from zoo.datasets.scenes import (
    CLASSES,
    check_class,
    check_shape,
    is_int,
    render_clip,
)

SUBSETS = ("stationary", "moving")
VERSION = 1  # of the appearance; raised whenever equal parameters give other clips
PAIRS_VERSION = 1  # of the moving pairs, likewise
QUANTISER = 8  # of H.264, 0-51; errors of about one grey level
JPEG_QUALITY = 100  # of flow, 0-100; at 95 the discs' edges are off by a pixel


def write_dynamic_scenes(
    root,
    videos_per_class: int = 30,
    size: tuple[int, int] = (64, 64),
    frames: int = 16,
    seed: int = 0,
    classes: Sequence[str] = CLASSES,
    fps: float = 25,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes a set of synthetic dynamic scenes, or completes one begun before.

    A clip depends on seed, class, camera and number only, not on the order of writing.
    Files appear under their names only when complete; a run that was interrupted goes
    on where it stopped, and a file changed since is written anew.

    Source: layout and the two camera conditions of thesis section 7.4.

    Args:
        root: folder to write; created if it is missing.
        videos_per_class: clips of each class for each of the two cameras; YUP++ has 30.
        size: frame height and width in pixels, even and at least 16.
        frames: frames per clip, at least 2.
        seed: whole number of at least 0.
        classes: names from ``scenes.CLASSES`` and ``scenes.EXTRA_CLASSES``.
        fps: frames per second written to the files, above 0.
        progress: called as ``progress(done, total)`` after every clip.

    Returns:
        The folder.

    Raises:
        ValueError: an argument is out of its range, the folder holds a set with other
            parameters, or clips that this generator did not write.
        OSError: a file could not be written; what was complete stays.
    """
    root = Path(root)
    classes = _checked_classes(classes)
    _check_numbers(videos_per_class, size, frames, seed, fps)
    parameters = {
        "version": VERSION,
        "videos_per_class": int(videos_per_class),
        "size": [int(s) for s in size],
        "frames": int(frames),
        "seed": int(seed),
        "classes": list(classes),
        "fps": float(fps),
    }
    clips = [
        Clip((name,), functools.partial(_scene_files, key, size, frames, fps, *what))
        for name, key, *what in _scenes(classes, int(videos_per_class), seed)
    ]
    write_set(root, "synthetic scenes", parameters, clips, progress)
    return root


def write_moving_pairs(
    root,
    videos_per_class: int = 100,
    size: tuple[int, int] = (64, 64),
    frames: int = 24,
    seed: int = 0,
    fps: float = 25,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes a set of moving pairs and their flow, or completes one begun before.

    A clip depends on seed, class and number only, not on the order of writing. Files
    appear under their names only when complete, a video after its flow; a run that
    was interrupted goes on where it stopped, and a clip of which a file is missing or
    was changed since is written anew.

    Source: the question of thesis chapters 3-5, flow as stored in section 3.3.5.

    Args:
        root: folder to write; created if it is missing.
        videos_per_class: clips of each of the two classes.
        size: frame height and width in pixels, even, at least 32, and the shorter
            side at most 426, where the fastest disc moves by 20 pixels per frame, the
            most that stored flow can say.
        frames: frames per clip, at least 2. Stacks of ten fields need 11.
        seed: whole number of at least 0.
        fps: frames per second written to the files, above 0.
        progress: called as ``progress(done, total)`` after every clip.

    Returns:
        The folder; its ``videos`` are for ``VideoList.from_folder`` and its ``flow``
        for ``FlowFolder``.

    Raises:
        ValueError: an argument is out of its range, the folder holds a set with other
            parameters, or files that this generator did not write.
        OSError: a file could not be written; what was complete stays.
    """
    root = Path(root)
    check_shape(size, frames, moving_pairs.SMALLEST)
    _check_flow_range(size)
    _check_numbers(videos_per_class, size, frames, seed, fps)
    parameters = {
        "set": "moving pairs",
        "version": PAIRS_VERSION,
        "videos_per_class": int(videos_per_class),
        "size": [int(s) for s in size],
        "frames": int(frames),
        "seed": int(seed),
        "fps": float(fps),
    }
    clips = [
        Clip(
            (*_flow_names(name, int(frames)), f"videos/{name}.mp4"),
            functools.partial(_pair_files, class_name, key, size, frames, fps),
        )
        for name, class_name, key in _pairs(int(videos_per_class), seed)
    ]
    write_set(root, "moving pairs", parameters, clips, progress)
    return root


def encode(clip: np.ndarray, fps: float = 25) -> bytes:
    """Encodes frames as H.264 in MP4, every frame by itself.

    Args:
        clip: RGB frames, uint8 [T, H, W, 3], H and W even.
        fps: frames per second.

    Returns:
        The contents of the file.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1  # clips are small, and bytes do not depend on cores
        stream.options = {"preset": "ultrafast", "qp": str(QUANTISER), "g": "1"}
        for frame in clip:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _scenes(classes, videos_per_class, seed):
    """(file name, seed, class, subset) of every clip, cameras and classes in turn."""
    for subset in SUBSETS:
        for class_name in classes:
            folder = f"camera_{subset}/{class_name}"
            for number, text in _numbers(videos_per_class):
                name = f"{folder}/{class_name}_{subset}_c{text}.mp4"
                key = seed_of(int(seed), class_name, subset, number)
                yield name, key, class_name, subset


def _pairs(videos_per_class, seed):
    """(name with class folder, class, seed) of every clip, classes in turn."""
    for class_name in moving_pairs.CLASSES:
        for number, text in _numbers(videos_per_class):
            name = f"{class_name}/{class_name}_c{text}"
            yield name, class_name, seed_of(int(seed), class_name, number)


def _numbers(count):
    """Numbers 1...count, and how they are written in file names."""
    digits = max(2, len(str(count)))
    return [(number, f"{number:0{digits}d}") for number in range(1, count + 1)]


def _scene_files(key, size, frames, fps, class_name, subset):
    """The contents of a dynamic scene's one file."""
    clip = render_clip(class_name, subset == "moving", key, size, frames)
    return [encode(clip, fps)]


def _pair_files(class_name, key, size, frames, fps):
    """The contents of a moving pair's files: all fields of u, those of v, the video."""
    clip, flow = render_pair(class_name, key, size, frames)
    codes = to_codes(flow)
    fields = [_jpeg(field[..., component]) for component in (0, 1) for field in codes]
    return [*fields, encode(clip, fps)]


def _flow_names(name, frames):
    return [
        f"flow/{component}/{name}/frame{number:06d}.jpg"
        for component in ("u", "v")
        for number in range(1, frames)
    ]


def _jpeg(codes):
    """Encodes one component of a field, uint8 [H, W]."""
    _, data = cv2.imencode(".jpg", codes, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return data.tobytes()


def _checked_classes(classes):
    if isinstance(classes, str) or not len(classes):
        raise ValueError(
            f"classes must be a sequence of class names, such as {CLASSES[:2]!r}; "
            f"got {classes!r}"
        )
    for class_name in classes:
        check_class(class_name)
    repeated = sorted({name for name in classes if list(classes).count(name) > 1})
    if repeated:
        raise ValueError(f"classes names {', '.join(repeated)} more than once")
    return tuple(classes)


def _check_numbers(videos_per_class, size, frames, seed, fps):
    check_shape(size, frames)
    if any(s % 2 for s in size):
        raise ValueError(f"size must be even for H.264 (4:2:0); got {tuple(size)!r}")
    if not is_int(videos_per_class) or videos_per_class < 1:
        raise ValueError(
            f"videos_per_class must be a whole number of at least 1; "
            f"got {videos_per_class!r}"
        )
    if not is_int(seed) or seed < 0:
        raise ValueError(f"seed must be a whole number of at least 0; got {seed!r}")
    number = isinstance(fps, int | float | Fraction) and not isinstance(fps, bool)
    if not number or not 0 < fps <= 1000:
        raise ValueError(f"fps must be a number above 0 and up to 1000; got {fps!r}")


def _check_flow_range(size):
    longest = BOUND / moving_pairs.SPEED[1]
    if min(size) > longest:
        raise ValueError(
            f"size must have a shorter side of at most {int(longest)} pixels, or the "
            f"discs move faster than the {BOUND:.0f} pixels that stored flow can say; "
            f"got {tuple(size)!r}"
        )
