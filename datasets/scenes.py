"""Synthetic dynamic scenes: clips whose class lies in their motion alone.

Textured discs move over a textured background. Eight classes (and six more on
request) differ only in how the discs move, so the classes can be told apart by a
network that sees time and by no network that sees one frame. This is the question of
thesis chapter 7 (section 7.4, dynamic scenes with a static and a moving camera), asked
with data that can be made anywhere.

Why a single frame says nothing about the class. The disc centres, each with its own
random look, are a homogeneous Poisson process of density ``d`` at *every* frame, for
every class. From one frame to the next a disc

1. survives with probability ``q * sqrt(J)``, where ``J`` is the factor by which the
   class' map stretches areas (1 for drift and rotation, ``exp(+-2k)`` for expansion
   and contraction) and ``q = exp(-k)`` is the same for all classes;
2. moves by the map. Thinning and moving a Poisson process gives a Poisson process
   (thinning and mapping theorems), here of density ``d * q / sqrt(J)``;
3. is joined by new discs, an independent Poisson process of the missing density
   ``d * (1 - q / sqrt(J))``, or of the full ``d`` where the map brings nothing in
   because the place it comes from lies outside the simulated region.

The sum (superposition theorem) has density ``d`` again everywhere in the region, so by
induction the law of the discs is the same at all frames of all classes. Sizes, colours
and the order of painting are drawn independently of position and motion and never
change; background and camera path are independent of the class; hence the frame, a
function of these, has one law. The region holds every view of the clip and a margin of
one disc, so that no border is ever seen. Total turnover (births plus deaths) is equal
for all classes to first order in ``k``.

What a mirror does: ``drift_left`` becomes ``drift_right`` and the rotations change
places, so these clips must not be flipped in training or testing.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

CLASSES = (
    "contraction",
    "drift_down",
    "drift_left",
    "drift_right",
    "drift_up",
    "expansion",
    "rotation_clockwise",
    "rotation_counterclockwise",
)
"""The default classes, in the order of sorted folder names."""

EXTRA_CLASSES = (
    "flicker",
    "jostling",
    "oscillation_horizontal",
    "oscillation_vertical",
    "stretch_horizontal",
    "stretch_vertical",
)
"""Further classes with the same single-frame law, to be asked for by name."""

# Per clip, uniform between the two values. Lengths are shares of the frame's shorter
# side, so that clips of any size look alike.
SPEED = (0.04, 0.08)  # way of a drifting disc from frame to frame
SPIN = 0.5  # mean way in an expansion or rotation, as a share of a drift's
DISCS = (7.0, 14.0)  # expected number of discs in a square view
RADIUS = (0.05, 0.12)  # per disc
PAN = 0.25  # largest way of the camera within a clip
PAN_STEP = 0.03  # and from frame to frame
ZOOM = 0.2  # largest change of log(zoom) within a clip
ZOOM_STEP = 0.03
JITTER = 0.012  # largest standard deviation of the camera's shake
CENTRE = 0.1  # largest offset of the centre of expansion or rotation
OSCILLATION_PERIOD = 8  # frames

# Generators G of the maps x -> c + exp(k G) (x - c), in image axes (y points down).
_LINEAR = {
    "expansion": ((1.0, 0.0), (0.0, 1.0)),
    "contraction": ((-1.0, 0.0), (0.0, -1.0)),
    "rotation_clockwise": ((0.0, -1.0), (1.0, 0.0)),
    "rotation_counterclockwise": ((0.0, 1.0), (-1.0, 0.0)),
    "stretch_horizontal": ((1.0, 0.0), (0.0, -1.0)),
    "stretch_vertical": ((-1.0, 0.0), (0.0, 1.0)),
}
_SHIFT = {
    "drift_left": (-1.0, 0.0),
    "drift_right": (1.0, 0.0),
    "drift_up": (0.0, -1.0),
    "drift_down": (0.0, 1.0),
    "oscillation_horizontal": (1.0, 0.0),
    "oscillation_vertical": (0.0, 1.0),
}


@dataclass(frozen=True)
class Motion:
    """One clip's motion: x -> centre + matrix (x - centre) + shift + scatter * noise.

    Lengths are in pixels; the module docstring says what it is for.

    Attributes:
        matrix: [2, 2] linear part of the map from one frame to the next.
        shift: [2] translation per frame (x, y).
        centre: [2] fixed point of the linear part (x, y).
        scatter: standard deviation of each disc's own random step.
        turnover: ``k``; a disc survives a step with probability exp(-k) sqrt(J).
        period: frames after which an oscillating shift repeats, 0 for a steady one.
    """

    matrix: np.ndarray
    shift: np.ndarray
    centre: np.ndarray
    scatter: float
    turnover: float
    period: int

    @property
    def area_factor(self) -> float:
        """``J``, the factor by which one step stretches areas (module docstring)."""
        return float(np.linalg.det(self.matrix))

    def steps(self, time: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draws translations [count, 2] of discs from frame ``time`` to the next."""
        shift = self.shift
        if self.period:
            # A triangle wave, so that the speed is that of the drifts.
            phase = (time + self.period // 4) % self.period
            shift = shift if phase < self.period // 2 else -shift
        return shift + self.scatter * rng.standard_normal((count, 2))


def make_motion(class_name: str, size: tuple[int, int], rng) -> Motion:
    """Draws the motion of one clip: its speed and its centre.

    Args:
        class_name: one of ``CLASSES`` or ``EXTRA_CLASSES``.
        size: frame height and width in pixels.
        rng: numpy random generator; the same draws are made for every class.

    Returns:
        The motion; the turnover is the same for all classes, and so is the mean speed
        but for the factor ``SPIN`` of the maps that have a centre.

    Raises:
        ValueError: the class is unknown.
    """
    check_class(class_name)
    height, width = size
    side = min(size)
    speed = rng.uniform(*SPEED) * side
    offset = rng.uniform(-CENTRE, CENTRE, 2) * side
    centre = np.array([(width - 1) / 2, (height - 1) / 2]) + offset
    # The mean distance to the centre of a square of side a is 0.383 a. Slower than the
    # drifts, since the rate is also the turnover: at full speed few discs live long.
    rate = SPIN * speed / (0.383 * math.sqrt(height * width))
    oscillates = class_name.startswith("oscillation")
    return Motion(
        matrix=_exponential(rate, _LINEAR.get(class_name)),
        shift=speed * np.array(_SHIFT.get(class_name, (0.0, 0.0))),
        centre=centre,
        # The mean length of a two-dimensional Gaussian step is sqrt(pi / 2) sigma.
        scatter=speed / math.sqrt(math.pi / 2) if class_name == "jostling" else 0.0,
        turnover=rate,
        period=OSCILLATION_PERIOD if oscillates else 0,
    )


def _exponential(rate, generator):
    """exp(rate * generator) for the generators above: diagonal or skew."""
    if generator is None:
        return np.eye(2)
    (a, b), (_, d) = generator
    if b == 0.0:
        return np.diag([math.exp(rate * a), math.exp(rate * d)])
    cos, sin = math.cos(rate), math.sin(rate) * b
    return np.array([[cos, sin], [-sin, cos]])


def check_class(class_name: str) -> None:
    """Raises a ValueError that lists the classes if ``class_name`` is none of them."""
    if class_name not in CLASSES + EXTRA_CLASSES:
        raise ValueError(
            f"unknown class {class_name!r}; the classes are {', '.join(CLASSES)} "
            f"and, on request, {', '.join(EXTRA_CLASSES)}"
        )


def disc_positions(
    motion: Motion,
    frames: int,
    region: tuple[float, float, float, float],
    density: float,
    rng: np.random.Generator,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Simulates the birth, motion and death of discs in a rectangle.

    The law of the positions is the same in every frame and for every motion; the
    argument is in the module docstring.

    Args:
        motion: how discs move from frame to frame.
        frames: number of frames T, at least 1.
        region: left, top, right, bottom of the simulated rectangle in pixels.
        density: expected number of discs per square pixel.
        rng: numpy random generator.

    Returns:
        For each frame the positions, float [N, 2] as (x, y), and the discs' numbers,
        int [N]: a disc keeps its number for life and no number is used twice.
    """
    survival = math.exp(-motion.turnover) * math.sqrt(motion.area_factor)
    carried = survival / motion.area_factor  # share of the density that moves in
    inverse = np.linalg.inv(motion.matrix)
    points = _poisson(region, density, rng)
    numbers = np.arange(len(points))
    result, used = [(points, numbers)], len(points)
    for time in range(frames - 1):
        alive = rng.random(len(points)) < survival
        points, numbers = points[alive], numbers[alive]
        moved = (points - motion.centre) @ motion.matrix.T + motion.centre
        moved += motion.steps(time, len(points), rng)
        stay = _inside(moved, region)

        new = _poisson(region, density, rng)
        origin = new - motion.steps(time, len(new), rng) - motion.centre
        origin = origin @ inverse.T + motion.centre
        fills = ~_inside(origin, region) | (rng.random(len(new)) >= carried)
        new = new[fills]

        points = np.concatenate([moved[stay], new])
        fresh = np.arange(used, used + len(new))
        numbers = np.concatenate([numbers[stay], fresh])
        used += len(new)
        result.append((points, numbers))
    return result


def _poisson(region, density, rng):
    left, top, right, bottom = region
    count = rng.poisson(density * (right - left) * (bottom - top))
    return rng.uniform((left, top), (right, bottom), (count, 2))


def _inside(points, region):
    left, top, right, bottom = region
    x, y = points.T
    return (x >= left) & (x < right) & (y >= top) & (y < bottom)


def camera_path(
    moving: bool, frames: int, size: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws pan, tilt, zoom and jitter of the camera, the moving half of section 7.4.1.

    The middle of the path is centred on the scene, so that it stays in view.

    Args:
        moving: False keeps the camera still.
        frames: number of frames T.
        size: frame height and width in pixels.
        rng: numpy random generator.

    Returns:
        (looks, zooms): the scene point in the middle of each frame, float [T, 2] as
        (x, y) in pixels, and the magnification of each frame, float [T].
    """
    height, width = size
    side = min(size)
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    if not moving:
        return np.tile(middle, (frames, 1)), np.ones(frames)
    clock = np.linspace(-0.5, 0.5, frames)[:, None]
    steps = max(frames - 1, 1)
    pan = rng.uniform(-1, 1, 2) * min(PAN, PAN_STEP * steps)
    zoom = rng.uniform(-1, 1) * min(ZOOM, ZOOM_STEP * steps)
    shake = rng.standard_normal((frames, 2)) * rng.uniform(0, JITTER)
    looks = middle + side * (clock * pan + shake)
    return looks, np.exp(clock[:, 0] * zoom)


def render_clip(
    class_name: str,
    moving: bool = False,
    seed=0,
    size: tuple[int, int] = (64, 64),
    frames: int = 16,
) -> np.ndarray:
    """Renders one clip of a synthetic dynamic scene.

    The two camera conditions are those of thesis section 7.4.

    Args:
        class_name: one of ``CLASSES`` or ``EXTRA_CLASSES``.
        moving: whether the camera pans, tilts, zooms and shakes.
        seed: int, sequence of ints or numpy random generator; equal seeds give equal
            clips.
        size: frame height and width in pixels, each at least 16.
        frames: number of frames T, at least 2.

    Returns:
        RGB frames, uint8 [T, H, W, 3].

    Raises:
        ValueError: an argument is out of its range.
    """
    check_class(class_name)
    check_shape(size, frames)
    rng = np.random.default_rng(seed)
    height, width = size
    motion = make_motion(class_name, size, rng)
    looks, zooms = camera_path(moving, frames, size, rng)
    texture, base = background(size, rng)
    density = rng.uniform(*DISCS) / min(size) ** 2
    # The reach of a view is half a frame and one disc, in scene units.
    reach = (np.array([width, height]) / 2 + 1) / zooms[:, None]
    reach = reach + RADIUS[1] * min(size)
    region = (*(looks - reach).min(axis=0), *(looks + reach).max(axis=0))
    discs = disc_positions(motion, frames, region, density, rng)
    used = 1 + max((numbers.max(initial=-1) for _, numbers in discs))
    marks = _marks(used, base, min(size), rng)
    clip = np.empty((frames, height, width, 3), np.uint8)
    for frame, look, zoom, (points, numbers) in zip(
        clip, looks, zooms, discs, strict=True
    ):
        view = _view(texture, look, zoom, size)
        places = (points - look) * zoom + ((width - 1) / 2, (height - 1) / 2)
        _paint(view, places, zoom, numbers, marks)
        frame[...] = np.rint(view)
    return clip


def check_shape(size: tuple[int, int], frames: int, smallest: int = 16) -> None:
    """Raises a ValueError unless clips of this size and length can be rendered."""
    pair = isinstance(size, tuple | list) and len(size) == 2
    if not pair or not all(is_int(s) and s >= smallest for s in size):
        raise ValueError(
            f"size must be (height, width), two whole numbers of at least "
            f"{smallest} pixels; got {size!r}"
        )
    if not is_int(frames) or frames < 2:
        raise ValueError(
            f"frames must be a whole number of at least 2 (one frame has no motion); "
            f"got {frames!r}"
        )


def is_int(value) -> bool:
    """Whether ``value`` is a whole number (a bool is not)."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def background(
    size: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a tile of smooth random texture.

    Opposite edges of the tile match, so that a view may lie anywhere.

    Args:
        size: height H and width W of a frame in pixels.
        rng: numpy random generator.

    Returns:
        The tile, float32 [2H, 2W, 3], and its mean colour, float [3]; 0-255.
    """
    height, width = 2 * size[0], 2 * size[1]
    base = rng.uniform(50, 205, 3)
    tile = np.tile(base.astype(np.float32), (height, width, 1))
    for cells in rng.integers((4, 10), (9, 25)):
        grid = rng.standard_normal((cells, cells, 1)).astype(np.float32)
        tint = rng.uniform(-1, 1, 3) + rng.choice((-1.5, 1.5))
        tile += _stretch(grid, height, width) * (tint * rng.uniform(4, 10))
    return np.clip(tile, 0, 255), base


def _stretch(grid, height, width):
    """Enlarges a grid smoothly to [height, width, 1] with matching opposite edges."""
    pad = 3
    cells = len(grid)
    wrapped = np.pad(grid[..., 0], pad, mode="wrap")
    x = (np.arange(width) + 0.5) * cells / width - 0.5 + pad
    y = (np.arange(height) + 0.5) * cells / height - 0.5 + pad
    xs, ys = np.meshgrid(x.astype(np.float32), y.astype(np.float32))
    return cv2.remap(wrapped, xs, ys, cv2.INTER_CUBIC)[..., None]


def _view(texture, look, zoom, size):
    """The part of the background that the camera sees, float32 [H, W, 3]."""
    height, width = size
    corner = np.asarray(look) - np.array([width - 1, height - 1]) / (2 * zoom)
    matrix = np.array([[1 / zoom, 0, corner[0]], [0, 1 / zoom, corner[1]]])
    return cv2.warpAffine(
        texture,
        matrix,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_WRAP,
    )


def _marks(count, base, side, rng):
    """The looks of ``count`` discs: radius, painting order, colours, size of the core.

    Every disc is clearly lighter or darker than the background's mean, and about half
    of them have a core of another colour.
    """
    radius = rng.uniform(*RADIUS, count) * side
    order = rng.random(count)
    luma = base.mean()
    chance = 0.0 if luma > 160 else 1.0 if luma < 95 else 0.5
    light = (rng.random(count) < chance)[:, None]
    shade = rng.random((count, 3))
    lighter = 255 - (255 - luma) * 0.6 * shade
    outer = np.where(light, lighter, luma * 0.6 * shade)
    inner = rng.uniform(0, 255, (count, 3))
    core = rng.uniform(-0.6, 0.7, count).clip(0)
    return radius, order, outer, inner, core


def _paint(frame, places, zoom, numbers, marks):
    """Draws the discs on ``frame`` (float32) in their painting order."""
    radius, order, outer, inner, core = marks
    for i in np.argsort(order[numbers]):
        n = numbers[i]
        _disc(frame, places[i], radius[n] * zoom, core[n], outer[n], inner[n])


def _disc(frame, place, radius, core, outer, inner):
    """Draws one disc with exact subpixel edges: pixels are covered in part."""
    x, y = place
    # The pixels whose centres lie within half a pixel of the disc.
    left, top = max(math.ceil(x - radius - 0.5), 0), max(math.ceil(y - radius - 0.5), 0)
    right, bottom = math.floor(x + radius + 0.5) + 1, math.floor(y + radius + 0.5) + 1
    patch = frame[top : max(bottom, 0), left : max(right, 0)]
    if not patch.size:
        return
    dx = np.arange(left, left + patch.shape[1], dtype=np.float32) - np.float32(x)
    dy = np.arange(top, top + patch.shape[0], dtype=np.float32) - np.float32(y)
    distance = np.sqrt(dx * dx + (dy * dy)[:, None])[..., None]
    patch += np.clip(radius + 0.5 - distance, 0, 1) * (outer - patch)
    if core:
        patch += np.clip(radius * core + 0.5 - distance, 0, 1) * (inner - patch)
