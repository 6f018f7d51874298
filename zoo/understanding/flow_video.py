"""Frames beside their optical flow, as a video or on a sheet.

    from zoo.datasets import flow_source
    from zoo.understanding.flow_video import frames_and_flow, show
    show(frames_and_flow("a.mp4", flow_source("dis")), "a_flow.mp4", "wheel", bound=10)

Source: thesis 6.4.1 and Fig. 6.4, last row: frames of a clip and their flow.
"""

from pathlib import Path

import cv2
import numpy as np

from zoo.datasets.flow import to_pixels
from zoo.datasets.video import read_video
from zoo.datasets.video_writing import write_video
from zoo.understanding.flow_pictures import legend, picture, save, tiles

TILES, COLUMNS = 24, 4
"""Most pairs on a sheet, and pairs in a row of it."""
BLOCK = 64
"""Stored fields read at once: each time, TFRecords are read from the video's start."""
KEY = 5
"""The key to the colours is a fifth of the picture's shorter side."""


def show(pairs, out, encoding="wheel", bound=10.0, fps=25.0):
    """Draws frames and their flow side by side into a file.

    Args:
        pairs: Iterable of (frame, flow): RGB uint8 [H, W, 3] and displacements in
            pixels, float [H, W, 2]; all frames of one size. See frames_and_flow.
        out: A file ending in ``.mp4``, for all pairs; or in ``.png``, for a sheet of
            at most 24 pairs, equally spaced, each with its number from 0.
        encoding: One of zoo.understanding.flow_pictures.ENCODINGS.
        bound: Displacement in pixels of the strongest colour, one for all frames, so
            that a colour means the same in all of them.
        fps: Frames per second of the video.

    Returns:
        (drawn, pairs): how many pairs are in the file, and how many there were.

    Raises:
        ValueError: If the ending, the encoding, the bound or a pair isn't as above,
            or there are no pairs. The file isn't written then, an earlier one stays.
    """
    out = Path(out)
    if bound is None:
        raise ValueError(
            "bound must be a displacement in pixels: a video is drawn frame by frame, "
            "before its largest displacement is known."
        )
    picture(np.zeros((1, 1, 2), np.float32), encoding, bound)  # refuses bad arguments
    drawn = (side_by_side(*pair, encoding, bound) for pair in pairs)
    if out.suffix.lower() == ".mp4":
        count = write_video(out, drawn, fps)
        return count, count
    if out.suffix.lower() == ".png":
        return _write_sheet(out, drawn)
    raise ValueError(
        f"{out}: flow is shown in a video, .mp4, or on a sheet, .png; change the "
        "ending."
    )


def frames_and_flow(video, source, on_damage=None):
    """The pairs that `show` draws: every frame of a video with the flow to the next.

    Args:
        video: Path of a video file.
        source: A zoo.datasets.FlowFolder or ComputedFlow, or a function of two RGB
            frames to their flow in pixels, such as
            zoo.datasets.camera_motion.CameraMotionRemoval.
        on_damage: Function of (path, Video) that is told of a damaged file, whose
            frames before the damage are taken; None refuses damaged files.

    Yields:
        (frame, flow): uint8 [H, W, 3] and float32 [H', W', 2] in pixels. One pair
        fewer than frames, or as many as fields are stored.

    Raises:
        VideoError: If the video or its flow can't be read.
    """
    read = read_video(video, strict=on_damage is None)
    if read.damage:
        on_damage(video, read)
    frames = read.frames
    if callable(source):
        for first, second in zip(frames[:-1], frames[1:], strict=True):
            yield first, source(first, second)
    elif source.needs_frames:
        for first, second in zip(frames[:-1], frames[1:], strict=True):
            yield first, to_pixels(source.between(first, second))
    else:
        count = min(len(frames), source.count(video))
        for start in range(0, count, BLOCK):
            numbers = range(start, min(start + BLOCK, count))
            codes = source.fields(video, numbers)
            for i, field in zip(numbers, codes, strict=True):
                yield frames[i], to_pixels(field)


def side_by_side(frame, flow, encoding="wheel", bound=10.0):
    """A frame and the picture of its flow, the key to the colours in its corner.

    Flow of another size, as stored flow may have, is drawn in its own pixels and the
    picture brought to the size of the frame.

    Args:
        frame: RGB, uint8 [H, W, 3].
        flow: In pixels, float [H', W', 2].
        encoding: One of zoo.understanding.flow_pictures.ENCODINGS.
        bound: Displacement in pixels of the strongest colour.

    Returns:
        uint8 [H, 2 W, 3].

    Raises:
        ValueError: If the frame isn't uint8 RGB; or as zoo.understanding.
            flow_pictures.picture.
    """
    shape, kind = np.shape(frame), getattr(frame, "dtype", type(frame).__name__)
    if len(shape) != 3 or shape[2] != 3 or 0 in shape or kind != np.uint8:
        raise ValueError(
            f"a frame to show must be RGB, uint8 [H, W, 3]; got {kind} {shape}."
        )
    if np.ndim(flow) != 3:
        raise ValueError(
            f"the flow of a frame must be one field, [H, W, 2]; got {np.shape(flow)}."
        )
    height, width = shape[:2]
    drawn = picture(flow, encoding, bound)
    if drawn.shape != shape:
        drawn = cv2.resize(drawn, (width, height), interpolation=cv2.INTER_NEAREST)
    size = min(height, width) // KEY
    if size >= 3:
        drawn[:size, width - size :] = legend(encoding, size)
    return np.concatenate([frame, drawn], axis=1)


def _write_sheet(out, pictures):
    chosen, count = _thinned(pictures)
    if not chosen:
        raise ValueError(f"{out}: there are no pairs of frame and flow to show.")
    sizes = {image.shape[:2] for _, image in chosen}
    if len(sizes) > 1:
        raise ValueError(f"{out}: frames of several sizes, {sorted(sizes)}.")
    page = tiles([_numbered(image, number) for number, image in chosen], COLUMNS)
    save(out, page)
    return len(chosen), count


def _thinned(pictures):
    """[(number, picture)] equally spaced, at most TILES, and how many there were.

    Pictures come one by one and only twice as many as wanted are ever kept: when there
    are too many, every second goes and from then on only each second comes.
    """
    kept, step, count = [], 1, 0
    for count, image in enumerate(pictures, 1):
        if (count - 1) % step == 0:
            kept.append((count - 1, image))
        if len(kept) > 2 * TILES:
            kept, step = kept[::2], 2 * step
    if len(kept) > TILES:
        kept = kept[::2]
    return kept, count


def _numbered(image, number):
    image = image.copy()
    for colour, thickness in ((0, 3), (255, 1)):
        cv2.putText(
            image,
            str(number),
            (4, image.shape[0] - 5),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.4,
            (colour,) * 3,
            thickness,
        )
    return image
