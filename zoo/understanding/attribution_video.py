"""What speaks for a class drawn on what a network saw, frame by frame.

Above what each stream saw, frames and flow; below the same in grey, red where it speaks
for the class and blue where it speaks against it.

Source: overlays as in Selvaraju et al. (2017), Fig. 1; streams side by side as in
thesis Fig. 6.1.
"""

import cv2
import numpy as np

from zoo.layers.flow_stack import FIELDS
from zoo.understanding.flow_pictures import picture

SHOWN = 256
"""Pixels of the shorter side at least: networks may see thumbnails."""
STRIP = 24
"""Height of the caption, in pixels."""
FOR, AGAINST = (255, 45, 20), (30, 90, 255)
OPACITY = 0.85
STRONGEST = 99.5
"""Per cent of a clip's pixels that are weaker than the full colour."""
FINE = 1 / 64
"""Pixels of a map of slopes are noisy; its picture is blurred by this of a side."""


def drawn(seen, attribution, caption):
    """Pictures of a clip and of what in it speaks for a class.

    Args:
        seen: {"rgb": [T, H, W, 3], 0-255, "flow": [T, H, W, 20], in pixels} or one.
        attribution: the `zoo.understanding.attribution.Attribution` of this clip. Each
            input has a scale of its own, the same in all frames.
        caption: a line above.

    Yields:
        uint8 RGB [H', W', 3], T of them, for `zoo.datasets.video_writing.write_video`.

    Source: Selvaraju et al. (2017), Fig. 1.
    """
    columns = []
    for kind, x in seen.items():
        size = _size(x.shape[1:3])
        above, grey = (_frames if kind == "rgb" else _motion)(x)
        blur = 0 if attribution.method == "gradcam" else min(size) * FINE
        strength = _strength(attribution.maps[kind], size, blur)
        columns.append((above, grey, strength, size))
    for number in range(len(next(iter(seen.values())))):
        yield _page([[part[number] for part in c[:3]] for c in columns], size, caption)


def heat(grey, strength):
    """A grey picture in the colours of what speaks for a class and against it.

    Args:
        grey: uint8 [H, W]. strength: -1...1 [H, W].

    Returns:
        uint8 RGB [H, W, 3].

    Source: Selvaraju et al. (2017), Fig. 1.
    """
    share = OPACITY * np.abs(strength)[..., None]
    colour = np.where(strength[..., None] > 0, FOR, AGAINST)
    return np.rint((1 - share) * grey[..., None] + share * colour).astype(np.uint8)


def _size(shape):
    """(width, height) of a picture, enlarged to `SHOWN` if smaller."""
    height, width = shape
    scale = max(1, SHOWN / min(height, width))
    return round(width * scale), round(height * scale)


def _frames(rgb):
    """RGB frames uint8 [T, H, W, 3], and in grey [T, H, W]."""
    frames = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    return frames, [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in frames]


def _motion(stacks):
    """Pictures of the field at each frame, [T, H, W, 3], and its speed in grey."""
    middle = FIELDS // 2 * 2  # the field from this frame to the next
    field = np.ascontiguousarray(stacks[..., middle : middle + 2], np.float32)
    bound = max(float(np.percentile(np.hypot(*np.moveaxis(field, -1, 0)), 99)), 0.5)
    return picture(field, "wheel", bound), picture(field, "magnitude", bound)[..., 0]


def _strength(values, size, blur):
    """Maps in the size of the picture, -1...1, the same scale in all of them."""
    found = []
    for value in values.astype(np.float32):
        value = cv2.resize(value, size, interpolation=cv2.INTER_LINEAR)
        found.append(cv2.GaussianBlur(value, (0, 0), blur) if blur else value)
    found = np.stack(found)
    active = np.abs(found[found != 0])
    scale = np.percentile(active, STRONGEST) if active.size else 1.0
    return np.clip(found / scale, -1, 1)


def _page(columns, size, caption):
    sides = []
    for above, grey, strength in columns:
        top = cv2.resize(above, size, interpolation=cv2.INTER_LINEAR)
        below = heat(cv2.resize(grey, size, interpolation=cv2.INTER_LINEAR), strength)
        sides.append(np.concatenate([top, below]))
    page = np.concatenate(sides, axis=1)
    strip = np.zeros((STRIP, page.shape[1], 3), np.uint8)
    place, white = (4, STRIP - 8), (255, 255, 255)
    cv2.putText(
        strip, caption, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, white, 1, cv2.LINE_AA
    )
    return np.concatenate([strip, page])
