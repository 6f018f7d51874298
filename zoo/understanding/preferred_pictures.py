"""Preferred inputs as pictures: units in rows, from slow to fast in columns.

Every cell shows the appearance and the flow that excite a unit most. RGB and flow are
stretched to the range of the whole sequence, as in the thesis.

Source: thesis 6.4, Figs. 6.3 to 6.10.
"""

import cv2
import numpy as np

from zoo.understanding import flow_pictures
from zoo.understanding.maximization import FIELDS

SIDE = 112  # pixels of a picture
MARGIN = 22  # of the writing at the top and at the left, in pixels
GAP = 4
STILLS = 3  # moments of the flow on a still sheet: first, middle, last


def stretched(rgb):
    """RGB of one unit, its least value black and its greatest white (thesis 6.4).

    Args:
        rgb: [T, H, W, 3].

    Returns:
        uint8 [T, H, W, 3].
    """
    rgb = np.asarray(rgb, "float32")
    low, high = rgb.min(), rgb.max()
    return np.uint8(np.round(255 * (rgb - low) / max(high - low, 1e-6)))


def moments(preferred, unit, encoding="mag"):
    """The pictures of one unit over time.

    Args:
        preferred: a `Preferred`. unit: its place among `preferred.channels`.
        encoding: of the flow, see `flow_pictures.picture`.

    Returns:
        List over the moments of lists of uint8 [H, W, 3]: the frame, the field of flow,
        or both. There are as many moments as fields, or as frames without flow; before
        the first and after the last frame, that one stays.

    Source: thesis 6.4.1.
    """
    rgb = flow = None
    if preferred.rgb is not None:
        rgb = stretched(preferred.rgb[unit])
    if preferred.flow is None:
        return [[frame] for frame in rgb]
    flow = flow_pictures.picture(preferred.flow[unit], encoding)
    if rgb is None:
        return [[field] for field in flow]
    frames = np.clip(np.arange(len(flow)) - FIELDS // 2, 0, len(rgb) - 1)
    return [[rgb[t], field] for t, field in zip(frames, flow, strict=True)]


def sheet(found, encoding="mag"):
    """A still: per unit a row, per setting the frame and its flow at three moments.

    Args:
        found: {label: `Preferred`} of one endpoint, e.g. {"chi = 10": ...}.
        encoding: of the flow.

    Returns:
        uint8 [H, W, 3].

    Source: thesis Figs. 6.5 to 6.8.
    """

    def still(pictures):
        middle = pictures[len(pictures) // 2]
        places = np.linspace(0, len(pictures) - 1, STILLS).round().astype(int)
        return [*middle[:-1], *(pictures[p][-1] for p in places)]

    cells = _cells(found, encoding)
    return _page({k: {u: still(m) for u, m in v.items()} for k, v in cells.items()})


def movie(found, encoding="mag"):
    """The same in motion, a picture per moment (thesis Figs. 6.5 to 6.8).

    Args:
        found: as of `sheet`. encoding: of the flow.

    Yields:
        uint8 [H, W, 3].
    """
    cells = _cells(found, encoding)
    for t in range(max(len(m) for v in cells.values() for m in v.values())):
        yield _page(
            {
                k: {u: m[min(t, len(m) - 1)] for u, m in v.items()}
                for k, v in cells.items()
            }
        )


def _cells(found, encoding):
    """{label: {unit: its moments}}."""
    return {
        label: {c: moments(p, i, encoding) for i, c in enumerate(p.channels)}
        for label, p in found.items()
    }


def _page(cells):
    """Units in rows, all that live under any setting; settings in columns.

    Args:
        cells: {label: {unit: pictures}}.
    """
    units = sorted({unit for column in cells.values() for unit in column})
    widths = {k: len(next(iter(v.values()), [None])) for k, v in cells.items()}
    blank = np.full((SIDE, SIDE, 3), 255, np.uint8)
    head = [_written("", MARGIN * 2, MARGIN)]
    head += [
        _written(label, width * SIDE + (width - 1) * GAP, MARGIN)
        for label, width in widths.items()
    ]
    rows = [_joined(head, axis=1)]
    for unit in units:
        row = [_written(str(unit), MARGIN * 2, SIDE)]
        for label, column in cells.items():  # blank where it is dead
            pictures = map(_fitted, column.get(unit, ()))
            row += list(pictures) or [blank] * widths[label]
        rows.append(_joined(row, axis=1))
    return _joined(rows, axis=0)


def _fitted(picture):
    """A picture in the size of all others, pixels kept square and sharp."""
    height, width = picture.shape[:2]
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST)
    down, right = SIDE - picture.shape[0], SIDE - picture.shape[1]
    sides = (down // 2, down - down // 2), (right // 2, right - right // 2), (0, 0)
    return np.pad(picture, sides, constant_values=255)


def _written(text, width, height):
    page = np.full((height, width, 3), 255, np.uint8)
    place = (3, height // 2 + 5)
    cv2.putText(page, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, 16)
    return page


def _joined(pictures, axis):
    gap = list(pictures[0].shape)
    gap[axis] = GAP
    white = np.full(gap, 255, np.uint8)
    parts = [part for picture in pictures for part in (picture, white)]
    return np.concatenate(parts[:-1], axis=axis)
