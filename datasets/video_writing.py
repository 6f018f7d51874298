"""Frames to a video file that every player opens, one frame in memory at a time.

Source: H.264 in MP4 with 4:2:0 colours (ITU-T H.264, annex A), which browsers play.
"""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from zoo.datasets.video import VideoError

CRF = "18"
"""x264's quality at which its makers call pictures visually without loss."""


def write_video(path, frames, fps=25.0):
    """Writes frames as H.264 in MP4; the file is complete or isn't there.

    Frames of an odd width or height get their last column or row twice, which 4:2:0
    colours ask for.

    Args:
        path: The file, ending in ``.mp4``; its folder is made if it's missing.
        frames: Any iterable of RGB frames of one size, uint8 [H, W, 3].
        fps: Frames per second, above 0 and up to 1000.

    Returns:
        The number of frames written.

    Raises:
        VideoError: If the ending isn't ``.mp4``, there are no frames, a frame isn't
            uint8 RGB or has another size than the first.
        ValueError: If fps is out of range.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise VideoError(f"{path}: videos are written as .mp4; change the ending.")
    number = isinstance(fps, int | float | Fraction) and not isinstance(fps, bool)
    if not number or not 0 < fps <= 1000:
        raise ValueError(f"fps must be a number above 0 and up to 1000; got {fps!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        count = _encode(partial, path, frames, fps)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return count


def _encode(file, path, frames, fps):
    """Encodes to `file`; errors name `path`."""
    rate = Fraction(fps).limit_denominator(1001)
    stream, shape, count = None, None, 0
    with av.open(f"file:{file}", "w", format="mp4") as container:
        for frame in frames:
            shape = shape or np.shape(frame)
            _check(path, count, frame, shape)
            if stream is None:
                stream = _stream(container, rate, shape)
            height, width = shape[:2]
            even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
            picture = av.VideoFrame.from_ndarray(even, format="rgb24")
            container.mux(stream.encode(picture))
            count += 1
        if stream is None:
            raise VideoError(f"{path}: there are no frames to write.")
        container.mux(stream.encode(None))
    return count


def _stream(container, rate, shape):
    stream = container.add_stream("libx264", rate=rate)
    stream.height, stream.width = (n + n % 2 for n in shape[:2])
    stream.pix_fmt = "yuv420p"
    stream.options = {"crf": CRF, "preset": "veryfast"}
    return stream


def _check(path, number, frame, shape):
    kind = getattr(frame, "dtype", type(frame).__name__)
    if len(shape) != 3 or shape[2] != 3 or 0 in shape or kind != np.uint8:
        raise VideoError(
            f"{path}: frames must be RGB, uint8 [H, W, 3]; frame {number} is {kind} "
            f"{np.shape(frame)}."
        )
    if np.shape(frame) != shape:
        raise VideoError(
            f"{path}: frame {number} is {np.shape(frame)[:2]}, the first {shape[:2]}; "
            "resize them to one size."
        )
