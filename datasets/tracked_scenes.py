"""Clips of moving objects whose class one frame does not always show.

A video for detection over time (thesis chapter 8): one to three objects of four
classes move over a textured background, grow and shrink, come in and leave, and hide
one another. The camera pans and shakes. A class is a texture alone: shapes, sizes,
colours and motions have one law for all four, and every texture is half dark and half
light, so that its mean tells nothing either. Distractors look the same but for their
texture, a noise that belongs to no class.

What makes it hard. In stretches of three to six frames the picture is out of focus or
smeared by a shake of the camera, by so much that the textures' waves keep less than a
twentieth of their contrast, which the noise of the sensor and JPEG cover. An object
is then a spot that may be of any class, or a distractor; but in the frames before and
after, a little beside, it is sharp. Posts in front of the scene hide objects in part
or whole, and leave little to see of where their box ends. A method that follows
objects through time knows both.

A box is the object's full extent before anything hides it, within the frame, as in
ImageNet VID. An object of which less than ``SHOWN`` is in sight is not annotated.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from zoo.datasets.scenes import background, check_shape

CLASSES = ("bus", "turtle", "whale", "zebra")
"""Level stripes, a chequerboard, rings and upright stripes; in ImageNet VID's order."""
DISTRACTOR = "distractor"
SMALLEST = 64  # pixels; below, a texture has less than four pixels per period

# Uniform between the two values. Lengths are shares of the frame's shorter side.
OBJECTS = (1, 3)
DISTRACTORS = (0, 2)
POSTS = 2  # most; each is there with the difficulty as probability
RADIUS = (0.12, 0.22)  # half an object's longer side, at scale 1
ASPECT = (0.7, 1.0)
POWERS = (2.0, 4.0)  # of the outline |x / a|^n + |y / b|^n = 1: ellipses, pads
PERIOD = 1 / 16  # of the textures, at scale 1
PLACE = (0.15, 0.85)  # of its centre at that time, as a share of width and height
GRAIN = 3  # cells of a distractor's noise per period
SPEED = (0.008, 0.03)  # from frame to frame
SWAY = 0.05  # largest way to either side of the straight path
GROWTH = 0.2  # largest change of log(scale) to either side
PAN = 0.012  # largest, from frame to frame
SHAKE = 0.004  # largest standard deviation
POST = (0.12, 0.25)  # width
STRETCH = (3, 6)  # frames of a blurred stretch
DEFOCUS = (0.5, 0.65)  # standard deviation, as a share of the largest period
SMEAR = (1.5, 2.2)  # length of the smear, likewise
SMEAR_DEFOCUS = 0.4  # standard deviation, likewise; what runs along the smear goes, too
NOISE = 3.0  # standard deviation of the sensor's noise, of 255
CONTRAST = 45  # least difference of an object's mean colour from the background's
SHOWN = 0.2  # least share of an object in sight for it to be annotated
HIDDEN = 0.05  # least share behind other things for it to be called occluded


@dataclass(frozen=True, eq=False)
class Thing:
    """An object or distractor; lengths are in pixels.

    Attributes:
        class_name: one of ``CLASSES``, or ``DISTRACTOR``.
        centres: float [T, 2], (x, y) in the frames, in continuous coordinates.
        scales: float [T].
        radii: half its width and height at scale 1.
        power: of its outline.
        phase: [2] of its texture.
        colours: [2, 3] dark and light, 0-255.
        grain: float [g, g] of 0 and 1, a distractor's texture.
    """

    class_name: str
    centres: np.ndarray
    scales: np.ndarray
    radii: tuple[float, float]
    power: float
    phase: np.ndarray
    colours: np.ndarray
    grain: np.ndarray


@dataclass(frozen=True)
class Sighting:
    """One annotated object in one frame.

    Attributes:
        track: its number in the video, which is its depth: higher ones are nearer.
        class_name: one of ``CLASSES``, or ``DISTRACTOR``.
        box: x1, y1, x2, y2 in pixels, continuous, within the frame.
        occluded: whether something hides a part of it.
    """

    track: int
    class_name: str
    box: tuple[float, float, float, float]
    occluded: bool


@dataclass(frozen=True, eq=False)
class TrackedClip:
    """A rendered video.

    Attributes:
        frames: RGB, uint8 [T, H, W, 3].
        sightings: of each frame, those of the objects and then of the distractors,
            each in the order of their numbers.
        blurred: bool [T], which frames are out of focus or smeared.
    """

    frames: np.ndarray
    sightings: tuple[tuple[Sighting, ...], ...]
    blurred: np.ndarray


def render_tracked(
    seed=0,
    size: tuple[int, int] = (128, 160),
    frames: int = 24,
    difficulty: float = 0.5,
) -> TrackedClip:
    """Renders one video of moving objects.

    Source: the question of thesis sections 8.1 and 8.4.

    Args:
        seed: int, sequence of ints or numpy random generator; equal seeds give equal
            videos.
        size: frame height and width in pixels, each at least 64.
        frames: number of frames T, at least 2.
        difficulty: in [0, 1]: the share of the frames that are blurred, and the
            probability of each of two posts that objects pass behind.

    Returns:
        The TrackedClip.

    Raises:
        ValueError: an argument is out of its range.
    """
    check_shape(size, frames, SMALLEST)
    check_difficulty(difficulty)
    rng = np.random.default_rng(seed)
    blurred = _blurred(frames, difficulty, rng)  # first, for `blurred_frames`
    tile, base = background(size, rng)
    camera = _camera(frames, min(size), rng)
    things = _things(size, camera, base, rng)
    posts = _posts(size, camera, things, difficulty, rng)
    clip = np.empty((frames, *size, 3), np.uint8)
    sightings = []
    for time, frame in enumerate(clip):
        view = _view(tile, camera[time], size)
        covers = [_paint(view, thing, time) for thing in things]
        front = [_paint_post(view, post, time) for post in posts]
        sightings.append(_seen(things, covers, front, time, size))
        if blurred[time]:
            scale = max(thing.scales[time] for thing in things)
            view = _blur(view, PERIOD * min(size) * scale, rng)
        view = view + NOISE * rng.standard_normal(view.shape)
        frame[...] = np.rint(np.clip(view, 0, 255))
    return TrackedClip(clip, tuple(sightings), blurred)


def blurred_frames(seed, frames: int, difficulty: float) -> np.ndarray:
    """Which frames `render_tracked` blurs, without rendering them.

    Args:
        seed: as given to it, an int or a sequence of ints.
        frames: likewise.
        difficulty: likewise.

    Returns:
        bool [T].
    """
    return _blurred(frames, difficulty, np.random.default_rng(seed))


def check_difficulty(difficulty: float) -> None:
    """Raises a ValueError unless ``difficulty`` is a number in [0, 1]."""
    number = isinstance(difficulty, int | float) and not isinstance(difficulty, bool)
    if not number or not 0 <= difficulty <= 1:
        raise ValueError(f"difficulty must be a number in [0, 1], got {difficulty!r}")


def _camera(frames, side, rng):
    """Where the frames' corner is in the scene, float [T, 2]."""
    clock = np.arange(frames)[:, None]
    pan = rng.uniform(-1, 1, 2) * PAN * side
    shake = rng.standard_normal((frames, 2)) * rng.uniform(0, SHAKE) * side
    return pan * clock + shake


def _things(size, camera, base, rng):
    """Objects and distractors in random order of depth, the last one in front."""
    count = rng.integers(OBJECTS[0], OBJECTS[1] + 1)
    names = [CLASSES[i] for i in rng.integers(0, len(CLASSES), count)]
    names += [DISTRACTOR] * rng.integers(DISTRACTORS[0], DISTRACTORS[1] + 1)
    order = rng.permutation(len(names))
    return [_thing(names[i], size, camera, base, rng) for i in order]


def _thing(name, size, camera, base, rng):
    side, frames = min(size), len(camera)
    clock = np.arange(frames)
    # At some time of the middle half it is within the frame.
    time = rng.integers(frames // 4, max(frames * 3 // 4, 1))
    place = rng.uniform(*PLACE, 2) * (size[1], size[0]) + camera[time]
    angle = rng.uniform(0, 2 * math.pi)
    ahead = np.array([math.cos(angle), math.sin(angle)])
    way = rng.uniform(*SPEED) * side * (clock - time)
    sway = _wave(clock, rng) * rng.uniform(0, SWAY) * side
    centres = place + way[:, None] * ahead + sway[:, None] * ahead[::-1] * (1, -1)
    radius, aspect = rng.uniform(*RADIUS) * side, rng.uniform(*ASPECT)
    radii = (
        (radius, radius * aspect) if rng.random() < 0.5 else (radius * aspect, radius)
    )
    cells = math.ceil(RADIUS[1] / PERIOD * GRAIN)
    return Thing(
        name,
        centres - camera,
        np.exp(_wave(clock, rng) * rng.uniform(0, GROWTH)),
        radii,
        POWERS[rng.integers(len(POWERS))],
        rng.uniform(0, 2 * math.pi, 2),
        _colours(base, rng),
        _grain(cells, rng),
    )


def _grain(cells, rng):
    """Dark and light cells in [0, 1], of each block of 2 x 2 two light ones.

    Like the objects' textures, it has no waves longer than a period or so.
    """
    order = rng.random((cells, cells, 4)).argsort(-1) % 2
    blocks = order.reshape(cells, cells, 2, 2)
    return blocks.transpose(0, 2, 1, 3).reshape(2 * cells, 2 * cells).astype(float)


def _wave(clock, rng):
    """A slow wave in [-1, 1]: a period of 24 to 60 frames."""
    return np.sin(2 * math.pi * clock / rng.uniform(24, 60) + rng.uniform(0, 6.3))


def _colours(base, rng):
    """A dark and a light colour whose mean stands out from the background's."""
    while True:
        dark = rng.uniform(0, 110, 3)
        light = rng.uniform(dark + 90, 255)
        if np.abs((dark + light) / 2 - base).max() >= CONTRAST:
            return np.stack([dark, light])


def _posts(size, camera, things, difficulty, rng):
    """(left edges [T], picture [H, w, 3]) of posts, each in the way of some thing."""
    posts = []
    for _ in range(POSTS):
        width = round(rng.uniform(*POST) * min(size))
        time, thing = rng.integers(len(camera)), things[rng.integers(len(things))]
        left = thing.centres[time, 0] + camera[time, 0] - width / 2
        tile, _ = background(size, rng)
        if rng.random() < difficulty:
            posts.append((left - camera[:, 0], tile[: size[0], :width]))
    return posts


def _blurred(frames, difficulty, rng):
    """Which frames are blurred, bool [T], the share ``difficulty`` of them."""
    blurred = np.zeros(frames, bool)
    wanted = round(difficulty * frames)
    while (missing := wanted - blurred.sum()) > 0:
        length = min(rng.integers(STRETCH[0], STRETCH[1] + 1), missing)
        start = rng.integers(0, frames - length + 1)
        blurred[start : start + length] = True
    return blurred


def _view(tile, corner, size):
    """The part of the background that the camera sees, float32 [H, W, 3]."""
    matrix = np.array([[1, 0, corner[0]], [0, 1, corner[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    wrap = cv2.BORDER_WRAP
    return cv2.warpAffine(tile, matrix, size[::-1], flags=flags, borderMode=wrap)


def _paint(view, thing, time):
    """Draws a thing; returns its pixels and their coverage [h, w]."""
    height, width = view.shape[:2]
    (x, y), scale = thing.centres[time], thing.scales[time]
    a, b = (radius * scale for radius in thing.radii)
    columns, rows = _pixels(x, a, width), _pixels(y, b, height)
    dx = (np.arange(columns.start, columns.stop) + 0.5 - x)[None, :]
    dy = (np.arange(rows.start, rows.stop) + 0.5 - y)[:, None]
    n = thing.power
    # How far out a pixel is, 1 on the outline, and how far that is from the centre.
    out = (np.abs(dx / a) ** n + np.abs(dy / b) ** n) ** (1 / n) + 1e-9
    cover = np.clip(np.hypot(dx, dy) * (1 / out - 1) + 0.5, 0, 1)
    cover[out < 0.5] = 1  # near the centre, where the distance is 0 times infinity
    light = _texture(thing, dx / scale, dy / scale, min(height, width))[..., None]
    colour = thing.colours[0] + light * (thing.colours[1] - thing.colours[0])
    view[rows, columns] += cover[..., None] * (colour - view[rows, columns])
    return (rows, columns), cover


def _pixels(centre, radius, count):
    """Slice of the pixels of a row or column that a thing may touch."""
    first = min(max(math.floor(centre - radius - 1), 0), count)
    last = min(max(math.ceil(centre + radius + 1), first), count)
    return slice(first, last)


def _texture(thing, dx, dy, side):
    """Lightness [h, w] in [0, 1] at places relative to the centre, at scale 1."""
    k = 2 * math.pi / (PERIOD * side)
    first, second = thing.phase
    if thing.class_name == "bus":
        wave = np.cos(k * dy + first) + 0 * dx
    elif thing.class_name == "zebra":
        wave = np.cos(k * dx + first) + 0 * dy
    elif thing.class_name == "turtle":
        wave = 2 * np.cos(k * dx + first) * np.cos(k * dy + second)
    elif thing.class_name == "whale":
        wave = np.cos(k * np.hypot(dx, dy) + first)
    else:
        cells, cell = len(thing.grain), PERIOD * side / GRAIN
        i = (np.floor(dy / cell).astype(int) + cells // 2) % cells
        j = (np.floor(dx / cell).astype(int) + cells // 2) % cells
        wave = 2 * thing.grain[i, j] - 1
    return np.clip(0.5 + 0.75 * wave, 0, 1)


def _paint_post(view, post, time):
    """Draws a post; returns the columns it hides, bool [W]."""
    lefts, picture = post
    width, left = view.shape[1], round(lefts[time])
    first, last = max(left, 0), min(left + picture.shape[1], width)
    hidden = np.zeros(width, bool)
    if last > first:
        view[:, first:last] = picture[:, first - left : last - left]
        hidden[first:last] = True
    return hidden


def _seen(things, covers, posts, time, size):
    """The sightings of one frame."""
    free = np.ones(size)  # share of each pixel that nothing nearer covers
    for hidden in posts:
        free[:, hidden] = 0
    found = []
    for depth in reversed(range(len(things))):
        thing, (pixels, cover) = things[depth], covers[depth]
        visible, inside = (cover * free[pixels]).sum(), cover.sum()
        free[pixels] *= 1 - cover
        area = _area(thing) * thing.scales[time] ** 2
        if visible >= SHOWN * area:
            occluded = bool(visible < (1 - HIDDEN) * inside)
            box = _box(thing, time, size)
            found.append(Sighting(depth, thing.class_name, box, occluded))
    found.sort(key=lambda seen: (seen.class_name == DISTRACTOR, seen.track))
    return tuple(found)


def _area(thing):
    """Area within the outline at scale 1."""
    n, (a, b) = thing.power, thing.radii
    return 4 * a * b * math.gamma(1 + 1 / n) ** 2 / math.gamma(1 + 2 / n)


def _box(thing, time, size):
    (x, y), scale = thing.centres[time], thing.scales[time]
    a, b = (radius * scale for radius in thing.radii)
    height, width = size
    xs, ys = np.clip([x - a, x + a], 0, width), np.clip([y - b, y + b], 0, height)
    return float(xs[0]), float(ys[0]), float(xs[1]), float(ys[1])


def _blur(view, period, rng):
    """Puts a frame out of focus, or smears it along an oblique way."""
    if rng.random() < 0.5:
        return cv2.GaussianBlur(view, (0, 0), rng.uniform(*DEFOCUS) * period)
    # Oblique, so that neither level nor upright stripes outlast it.
    angle = rng.choice((1, 3)) * math.pi / 4 + rng.uniform(-0.2, 0.2)
    length = rng.uniform(*SMEAR) * period
    reach = math.ceil(length / 2)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    for step in np.linspace(-length / 2, length / 2, 8 * reach):
        x, y = reach + step * math.cos(angle), reach + step * math.sin(angle)
        kernel[round(y), round(x)] += 1
    smeared = cv2.filter2D(
        view, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT
    )
    return cv2.GaussianBlur(smeared, (0, 0), SMEAR_DEFOCUS * period)
