"""Optical flow as pictures: colour wheels, the thesis' colours, grey.

    from zoo.understanding import flow_pictures
    image = flow_pictures.picture(flow, "wheel", bound=10)   # uint8 [H, W, 3]
    key = flow_pictures.legend("wheel")                      # what its colours mean

Flow is in pixels, u to the right and v down.

Source: thesis 6.4.1 and Figs. 6.2-6.4: (b) rgb of horizontal, vertical and magnitude
("mag"), (c) the direction in hsv, (d, e) both components in grey; Baker et al. 2011,
"A database and evaluation methodology for optical flow", for the colour wheel.
"""

import cv2
import numpy as np

from zoo.files import replacing

_SEGMENTS = (
    ("red", "yellow", 15),
    ("yellow", "green", 6),
    ("green", "cyan", 4),
    ("cyan", "blue", 11),
    ("blue", "magenta", 13),
    ("magenta", "red", 6),
)
"""Colours between each pair: as many as there are shades that the eye tells apart."""
_CORNERS = {
    "red": (255, 0, 0),
    "yellow": (255, 255, 0),
    "green": (0, 255, 0),
    "cyan": (0, 255, 255),
    "blue": (0, 0, 255),
    "magenta": (255, 0, 255),
}
_BEYOND = 0.75
"""Brightness of displacements larger than the bound (Baker et al. 2011)."""
_GAP = 2
"""Pixels between the tiles of a sheet."""


def picture(flow, encoding="wheel", bound=None):
    """Flow as an RGB picture.

    Args:
        flow: Displacements in pixels, float [..., H, W, 2], any number of axes before
            height; all fields share one scale.
        encoding: One of ENCODINGS.
        bound: Displacement in pixels that has the strongest colour; None takes the
            largest of the whole array (thesis 6.4: over the whole sequence), which
            makes pictures of different arrays incomparable.

    Returns:
        uint8 [..., H, W, 3].

    Raises:
        ValueError: If the encoding is unknown, the bound isn't a positive number, the
            last axis isn't u and v, or a value isn't finite.
    """
    if encoding not in ENCODINGS:
        raise ValueError(
            f"Unknown encoding of flow {encoding!r}; accepted are "
            f"{', '.join(ENCODINGS)}."
        )
    flow = _checked(flow)
    bound = _scale(flow, bound)
    return ENCODINGS[encoding](flow, bound)


def wheel(flow, bound):
    """Middlebury's colours: direction is hue, white is rest, saturation is speed.

    Right is red, down yellow, left cyan, up blue. Displacements beyond the bound are
    darkened.

    Args:
        flow: float32 [..., H, W, 2] in pixels, finite.
        bound: Displacement of full saturation, in pixels.

    Source: Baker et al. 2011, section 4.1; 55 colours around the circle.
    """
    u, v = flow[..., 0] / bound, flow[..., 1] / bound
    radius = np.hypot(u, v)[..., None]
    # 54 steps for 55 colours leave a seam just above the right; the authors' pictures
    # and those of all tools have it, and colours should mean the same as theirs.
    turn = np.mod(np.arctan2(v, u) / (2 * np.pi), 1)
    place = turn * (len(_WHEEL) - 1)
    low = place.astype(int)
    high = (low + 1) % len(_WHEEL)
    part = (place - low)[..., None]
    colour = ((1 - part) * _WHEEL[low] + part * _WHEEL[high]) / 255
    inside = 1 - radius * (1 - colour)
    shown = np.where(radius <= 1, inside, _BEYOND * colour)
    return np.floor(255 * shown).astype(np.uint8)


def hsv(flow, bound):
    """Direction is hue, speed is value: rest is black. It can be inverted.

    Right is red, and hue grows clockwise: down is yellow-green (90 degrees), left cyan.

    Args:
        flow: float32 [..., H, W, 2] in pixels, finite.
        bound: Displacement of full value, in pixels; larger ones look the same.

    Source: thesis 6.4.1, "encodes flow in the HSV color space".
    """
    hue, speed = _polar(flow, bound)
    return _rgb(hue, np.ones_like(hue), speed)


def hsv_white(flow, bound):
    """Direction is hue, speed is saturation: rest is white, for print.

    Args:
        flow: float32 [..., H, W, 2] in pixels, finite.
        bound: Displacement of full saturation, in pixels; larger ones look the same.

    Source: thesis Fig. 6.2.
    """
    hue, speed = _polar(flow, bound)
    return _rgb(hue, speed, np.ones_like(hue))


def mag(flow, bound):
    """The thesis' own: red is horizontal, green vertical, blue the magnitude.

    Rest is (128, 128, 0).

    Args:
        flow: float32 [..., H, W, 2] in pixels, finite.
        bound: Displacement in pixels at which a channel ends.

    Source: thesis 6.4.1 and Fig. 6.4 (b); the style of Figs. 6.5-6.10.
    """
    codes = _codes(flow, bound)
    return np.concatenate([codes, _speed(flow, bound)[..., None]], axis=-1)


def grey_u(flow, bound):
    """The horizontal component in grey: rest is 128, right brighter, left darker.

    Args:
        flow: float32 [..., H, W, 2] in pixels, finite.
        bound: Displacement of black and white; with 20 pixels these are the codes
            that flow is stored in (`zoo.datasets.flow.to_codes`).

    Source: thesis Fig. 6.4 (d).
    """
    return _grey(_codes(flow, bound)[..., 0])


def grey_v(flow, bound):
    """The vertical component in grey: rest is 128, down brighter, up darker.

    Args:
        flow: float32 [..., H, W, 2] in pixels, finite.
        bound: Displacement of black and white, as for grey_u.

    Source: thesis Fig. 6.4 (e).
    """
    return _grey(_codes(flow, bound)[..., 1])


def magnitude(flow, bound):
    """Speed in grey: rest is black, the bound and beyond are white.

    Args:
        flow: float32 [..., H, W, 2] in pixels, finite.
        bound: Displacement of white, in pixels.

    Source: the blue channel of thesis Fig. 6.4 (b).
    """
    return _grey(_speed(flow, bound))


ENCODINGS = {
    "wheel": wheel,
    "hsv": hsv,
    "hsv_white": hsv_white,
    "mag": mag,
    "u": grey_u,
    "v": grey_v,
    "magnitude": magnitude,
}
"""{name: function of (flow, bound)}: the ways to draw flow."""


def legend(encoding="wheel", size=101):
    """The key to an encoding: each pixel shows its displacement from the cross.

    Args:
        encoding: One of ENCODINGS.
        size: Width and height in pixels, at least 3; the edge midway is the bound.

    Returns:
        uint8 [size, size, 3].

    Raises:
        ValueError: If the encoding is unknown or the size too small.

    Source: thesis Fig. 6.2.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 3:
        raise ValueError(f"size must be a whole number of at least 3, got {size!r}.")
    middle = (size - 1) / 2
    v, u = np.mgrid[:size, :size] - middle
    key = picture(np.stack([u, v], axis=-1), encoding, bound=middle)
    arm = max(1, size // 20)
    low, high = size // 2 - arm, size // 2 + arm + 1
    key[size // 2, low:high] = 0
    key[low:high, size // 2] = 0
    return key


def sheet(stack, encoding="wheel", bound=None, columns=5):
    """All fields of a stack side by side, in the order of time, row by row.

    Args:
        stack: Interleaved u and v in pixels, [H, W, 2L], as motion networks see it.
        encoding: One of ENCODINGS.
        bound: As for picture; None takes the largest displacement of the stack.
        columns: Fields in a row, at least 1.

    Returns:
        uint8 RGB picture, 2 pixels of white between the fields.

    Raises:
        ValueError: As picture; or if the stack hasn't three axes and an even number
            of channels.
    """
    shape = np.shape(stack)
    if len(shape) != 3 or not shape[2] or shape[2] % 2:
        raise ValueError(
            "a stack is [H, W, 2L] with u and v in turn, such as 20 channels; got "
            f"shape {shape}. Take one frame of one clip, e.g. clip[0, t]."
        )
    height, width, channels = shape
    fields = np.reshape(stack, (height, width, channels // 2, 2))
    return tiles(picture(np.moveaxis(fields, 2, 0), encoding, bound), columns)


def tiles(pictures, columns):
    """Pictures of one size as a sheet, row by row.

    Args:
        pictures: uint8 [N, H, W, 3], N at least 1.
        columns: Pictures in a row, at least 1.

    Returns:
        uint8 RGB picture, 2 pixels of white between the pictures and in empty places.

    Raises:
        ValueError: If columns is no whole number of at least 1, or there's no picture.
    """
    if isinstance(columns, bool) or not isinstance(columns, int) or columns < 1:
        raise ValueError(
            f"columns must be a whole number of at least 1, got {columns!r}."
        )
    if not len(pictures):
        raise ValueError("there are no pictures to put on a sheet.")
    count, height, width = len(pictures), *pictures[0].shape[:2]
    columns = min(columns, count)
    rows = -(-count // columns)
    down, right = height + _GAP, width + _GAP
    page = np.full((rows * down - _GAP, columns * right - _GAP, 3), 255, np.uint8)
    for i, image in enumerate(pictures):
        top, left = i // columns * down, i % columns * right
        page[top : top + height, left : left + width] = image
    return page


def save(path, picture):
    """Writes a picture as PNG; the file is whole or not there.

    Args:
        path: Of the file; its folder is made if it's missing.
        picture: uint8 RGB [H, W, 3].

    Raises:
        WriteError: If the file cannot be written.
    """
    _, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    with replacing(path) as temporary:
        temporary.write_bytes(data.tobytes())


def _checked(flow):
    flow = np.asarray(flow)
    if flow.ndim < 3 or flow.shape[-1] != 2 or 0 in flow.shape:
        raise ValueError(
            f"flow must be [..., H, W, 2], u and v in the last axis; got shape "
            f"{flow.shape}. For a stack of 20 channels there is `sheet`."
        )
    if flow.dtype.kind != "f":
        raise ValueError(
            f"flow must be in pixels, floats; got {flow.dtype}. Decode 8-bit codes "
            "with zoo.datasets.flow.to_pixels."
        )
    unknown = np.count_nonzero(~np.isfinite(flow).all(axis=-1))
    if unknown:
        raise ValueError(
            f"flow holds NaN or infinite values at {unknown} of {flow.size // 2} "
            "pixels; compute it again, or set them to 0."
        )
    return flow.astype(np.float32)


def _scale(flow, bound):
    if bound is None:
        # Without any motion every bound draws the same picture.
        return np.float32(np.hypot(flow[..., 0], flow[..., 1]).max() or 1)
    number = isinstance(bound, int | float | np.number) and not isinstance(bound, bool)
    if not number or not 0 < bound < np.inf:
        raise ValueError(
            f"bound must be a displacement above 0 pixels, or None for the largest; "
            f"got {bound!r}."
        )
    return np.float32(bound)


def _colours():
    """The wheel's colours [55, 3], 0-255, linear between its corners."""
    parts = []
    for first, last, count in _SEGMENTS:
        steps = (255 * np.arange(count) // count)[:, None]
        first, last = np.array(_CORNERS[first]), np.array(_CORNERS[last])
        parts.append(first + steps * np.sign(last - first))
    return np.concatenate(parts)


_WHEEL = _colours()


def _codes(flow, bound):
    """Components as 8 bits; the formula of zoo.datasets.flow.to_codes, any bound."""
    scaled = (np.clip(flow, -bound, bound) + bound) * (255 / (2 * bound))
    return np.rint(scaled).astype(np.uint8)


def _speed(flow, bound):
    length = np.hypot(flow[..., 0], flow[..., 1])
    return np.rint(np.minimum(length / bound, 1) * 255).astype(np.uint8)


def _grey(codes):
    return np.repeat(codes[..., None], 3, axis=-1)


def _polar(flow, bound):
    """Direction in degrees, clockwise from the right, and speed 0-1."""
    u, v = flow[..., 0], flow[..., 1]
    hue = np.mod(np.degrees(np.arctan2(v, u)), 360)
    return hue, np.minimum(np.hypot(u, v) / bound, 1)


def _rgb(hue, saturation, value):
    """HSV of any shape, hue in degrees, -> uint8 RGB."""
    planes = [np.float32(p).reshape(1, -1) for p in (hue, saturation, value)]
    colours = cv2.cvtColor(cv2.merge(planes), cv2.COLOR_HSV2RGB)
    return np.rint(255 * colours).astype(np.uint8).reshape(*hue.shape, 3)
