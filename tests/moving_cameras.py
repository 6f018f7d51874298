"""Ground truth for camera motion: homographies, their flow, textures seen through them.

All in double precision and from the definition: a point (x, y) of the first frame is
seen at H (x, y, 1) in the second.
"""

import cv2
import numpy as np


def homography(rng, size, shift=5.0):
    """A camera's motion between two frames: pans, turns, zooms, a little perspective.

    Args:
        rng: NumPy generator.
        size: height and width. shift: standard deviation of the pan in pixels.

    Returns:
        [3, 3], of columns and rows from 0.
    """
    matrix = np.eye(3)
    matrix[:2, :2] += rng.normal(0, 0.02, (2, 2))
    matrix[:2, 2] = rng.normal(0, shift, 2)
    matrix[2, :2] = rng.normal(0, 0.02 / max(size), 2)
    return matrix


def flow_of(matrix, size):
    """Displacements [H, W, 2] of every pixel under a homography, float64."""
    y, x = np.mgrid[: size[0], : size[1]].astype("float64")
    moved = np.stack([x, y, np.ones_like(x)], axis=-1) @ matrix.T
    return moved[..., :2] / moved[..., 2:] - np.stack([x, y], axis=-1)


def patch_of(rng, size, share):
    """A rectangle anywhere in the frame that covers a share of it, bool [H, W]."""
    height, width = (int(n * share**0.5) for n in size)
    top = rng.integers(0, size[0] - height + 1)
    left = rng.integers(0, size[1] - width + 1)
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def texture(rng, size):
    """Noise of six octaves of one strength, as in natural images, uint8 [H, W, 3].

    Source: amplitudes fall like 1/f in natural images (Field 1987).
    """
    picture = np.zeros((*size, 3))
    for octave in range(1, 7):
        cells = [max(2, -(-n // 2**octave)) for n in size]
        noise = rng.normal(size=(*cells, 3)).astype(np.float32)
        picture += cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC)
    picture = (picture - picture.mean()) / picture.std()
    return np.clip(128 + 50 * picture, 0, 255).astype(np.uint8)


def seen_through(picture, matrix):
    """The second frame of a picture under a homography; reflected beyond its border."""
    return cv2.warpPerspective(
        picture,
        matrix,
        picture.shape[1::-1],
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT_101,
    )
