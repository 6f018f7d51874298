"""Spatial augmentation of clips: one random crop and flip for all frames and flow.

Thesis 3.3.5 and 7.3.3: width and height of the S x S crop are jittered independently
by up to 25 %, patches are cropped "at a maximum of 25 % distance from the image
borders (relative to the width and height)", and the patch is resized to S x S, which
may change its aspect ratio. Half of the clips are mirrored (spec of the author's code
``borders25``). No colour jitter.

Two differences to the author's code, which the thesis' words don't share: a crop may
lie near any of the four corners (the code uses two), and the distance to the border
is measured by the frame's size (the code: by the room that the crop leaves).
"""

import dataclasses

import cv2
import numpy as np

CORNER_SCALES = np.array([256, 224, 192, 168]) / 224
"""Sides of the motion streams' crops, relative to the network's input."""
CORNERS = np.array([(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)])
"""Places of these crops (row, column): shares of the room left, in halves."""


@dataclasses.dataclass(frozen=True)
class CropParams:
    """One draw of the augmentation, in pixels of the source frame.

    Attributes:
        top: First row.
        left: First column.
        height: Rows, at least 1.
        width: Columns, at least 1.
        flip: Whether the crop is mirrored left to right.
    """

    top: int
    left: int
    height: int
    width: int
    flip: bool


def draw_crop(height, width, size, rng, *, jitter=0.25, border=0.25, flip=True):
    """Draws the crop of one clip (thesis 3.3.5, 7.3.3).

    Crop height and width are each round(size * U[1 - jitter, 1 + jitter]), capped by
    the frame. Along each axis the crop's position is uniform over all those whose
    distance from the nearer of the two borders is at most ``border`` times the
    frame's length. Four or five numbers are drawn, in this order: height, width, top,
    left, flip.

    Args:
        height: Rows of the frame.
        width: Columns of the frame.
        size: Mean side of the crop in pixels, whole or not: the side S of the
            network's input where the frame isn't rescaled.
        rng: A numpy.random.Generator.
        jitter: Relative range of the crop's sides, in [0, 1).
        border: Largest distance from the nearer border, relative to the frame, in
            [0, 1].
        flip: Whether half of the draws are mirrored. Mirroring changes the class
            where classes differ by direction: switch it off there.

    Returns:
        CropParams inside the frame.

    Raises:
        ValueError: If a side is below 1, or jitter or border is out of range.
    """
    if min(height, width, size) < 1:
        raise ValueError(
            f"Frame and crop need sides of at least 1 pixel, got a {width}x{height} "
            f"frame and size {size}."
        )
    if not (0 <= jitter < 1 and 0 <= border <= 1):
        raise ValueError(
            "jitter must be in [0, 1) and border in [0, 1], got "
            f"jitter={jitter}, border={border}."
        )
    crop_height = _jittered(size, jitter, height, rng)
    crop_width = _jittered(size, jitter, width, rng)
    return CropParams(
        top=_position(height, crop_height, border, rng),
        left=_position(width, crop_width, border, rng),
        height=crop_height,
        width=crop_width,
        flip=bool(flip and rng.random() < 0.5),
    )


def draw_corner_crop(height, width, size, rng, *, flip=True):
    """Draws a crop at a corner or in the centre (thesis 4.3.5 and 5.4.1).

    The augmentation of the motion streams: crop height and width are each drawn from
    256, 224, 192 and 168 pixels where ``size`` is 224, and in proportion otherwise,
    capped by the frame; the crop lies at one of the four corners or in the middle. Four
    numbers are drawn, in this order: height, width, place, flip.

    Args:
        height: Rows of the frame.
        width: Columns of the frame.
        size: Side of the network's input in pixels of this frame, whole or not.
        rng: A numpy.random.Generator.
        flip: Whether half of the draws are mirrored.

    Returns:
        CropParams inside the frame.

    Raises:
        ValueError: If a side is below 1.
    """
    if min(height, width, size) < 1:
        raise ValueError(
            f"Frame and crop need sides of at least 1 pixel, got a {width}x{height} "
            f"frame and size {size}."
        )
    crop_height, crop_width = (
        max(1, min(round(size * rng.choice(CORNER_SCALES)), limit))
        for limit in (height, width)
    )
    room = np.array([height - crop_height, width - crop_width])
    top, left = room * CORNERS[rng.integers(len(CORNERS))] // 2
    return CropParams(
        top=int(top),
        left=int(left),
        height=crop_height,
        width=crop_width,
        flip=bool(flip and rng.random() < 0.5),
    )


def apply_crop(frames, crop, size):
    """Crops, resizes and mirrors all frames of a clip alike.

    Resizing is bilinear: crops of the pipeline are at most 1.25 times the output, too
    little for aliasing to matter.

    Args:
        frames: uint8 or float32 [T, H, W, C].
        crop: CropParams inside H x W.
        size: Side S of the result in pixels.

    Returns:
        [T, S, S, C] of the same type, newly allocated.
    """
    bottom, right = crop.top + crop.height, crop.left + crop.width
    clip = np.empty((len(frames), size, size, frames.shape[-1]), frames.dtype)
    for frame, out in zip(frames, clip, strict=True):
        patch = frame[crop.top : bottom, crop.left : right]
        cv2.resize(patch, (size, size), dst=out, interpolation=cv2.INTER_LINEAR)
        if crop.flip:
            cv2.flip(out, 1, dst=out)
    return clip


def apply_crop_to_flow(flow, crop, size):
    """Crops, resizes and mirrors stacks of flow; a mirror turns u around.

    Displacements keep their length when the patch is resized, as in the author's code.

    Args:
        flow: float32 [T, H, W, 2L], u and v in turn.
        crop: CropParams inside H x W.
        size: Side S of the result in pixels.

    Returns:
        float32 [T, S, S, 2L], newly allocated.
    """
    clip = apply_crop(flow, crop, size)
    if crop.flip:
        np.negative(clip[..., ::2], out=clip[..., ::2])
    return clip


def _jittered(size, jitter, limit, rng):
    """Crop side round(size * U[1 - jitter, 1 + jitter]) within 1...limit."""
    side = round(size * rng.uniform(1 - jitter, 1 + jitter))
    return max(1, min(side, limit))


def _position(length, side, border, rng):
    """Uniform over 0...b and room - b...room, b the largest distance in pixels."""
    room = length - side
    reach = min(room, int(border * length))
    if 2 * reach + 1 >= room:
        return int(rng.integers(room + 1))
    place = int(rng.integers(2 * reach + 2))
    return place if place <= reach else room - (2 * reach + 1 - place)
