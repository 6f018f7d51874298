"""Clips of two moving discs whose class lies in which of them moves which way.

Two textured discs, A and B, move over a still background, one to the left and one to
the right. They differ in their texture alone: B's is A's, turned by 45 degrees. What
an appearance network sees and what a motion network sees have the same law for both
classes, so the class shows only to a network that brings the two into register: what
moves where. This is the question of two-stream fusion (thesis chapters 3-5;
Feichtenhofer, Pinz and Zisserman, CVPR 2016), asked with data made anywhere.

How a clip is drawn. The frame is a torus: what leaves on one side comes in on the
other. A's place, B's horizontal place, and the vertical way from A to B, between
``OFFSET`` of the height so that they never meet, are uniform. Speeds, radii, colours
and the textures' phases are drawn for each disc from one law, and the background
for the clip; the class then gives A's and B's velocities their opposite signs.

Why frames say nothing. A shift by ``t`` velocities takes the uniform places to
uniform places, so frame ``t`` has one law for all ``t`` and both classes. More: a clip
run backwards starts at uniform places and has the velocities' signs changed, which is
the law of the other class. Whatever does not depend on the frames' order, as an
average over them or the set of all their pixels, has therefore one law as well.

Why flow says nothing. ``OFFSET`` is symmetric about one half, so the places are
exchangeable, and so are speeds and radii. Flow shows places, radii and velocities, and
no textures: with the names A and B exchanged, it is the flow of the other class.

Hence the best score of either stream is the same for every clip, and so is any
combination of two streams trained apart: chance. Two streams whose sum is trained
jointly do better in theory. Of the four equally likely cases - the first disc of a
geometry is A or B, and it moves left or right - the class is the exclusive or, and a
sum of a function of the texture and one of the direction, compared with a threshold,
gets three right: at most 75 %. Joint features get all.

What the argument does not cover. Flow *computed* from the frames depends on the
textures, too, and so does the class. This is why they are lattices, of equal contrast
in all directions, and not stripes, whose motion along themselves cannot be seen
(aperture problem): then little shows (tests/test_moving_pairs.py), but equality in law
holds for the true flow alone. A network of several frames *in order* sees motion and
texture, and may tell the classes. A mirror exchanges them, so these clips must not be
flipped in training or testing.
"""

import math
from dataclasses import dataclass

import numpy as np

from zoo.datasets.scenes import background, check_shape

CLASSES = ("a_left_b_right", "a_right_b_left")
"""The classes, in the order of sorted folder names."""
SIGNS = {"a_left_b_right": (-1, 1), "a_right_b_left": (1, -1)}
"""Directions of A and B, to the right positive."""
TURNS = (0.0, math.pi / 4)
"""How far the textures of A and B are turned."""

# Per disc, uniform between the two values. Lengths are shares of the frame's shorter
# side, so that clips of any size look alike.
SPEED = (1 / 64, 3 / 64)  # way from frame to frame
RADIUS = (0.12, 0.16)
PERIOD = 0.1  # of the texture
DARK, LIGHT = (0, 80), (175, 255)  # each channel of the texture's two colours
# Vertical way from A to B, as a share of the height. Two discs' edges, each blurred
# by half a pixel, never touch: (0.39 - 2 * 0.16) * 32 > 1.
OFFSET = (0.39, 0.61)
GAIN = 1.2  # of the texture's waves; what exceeds the two colours is cut off
SMALLEST = 32  # pixels; below, a texture has less than three pixels per period


@dataclass(frozen=True)
class Disc:
    """One disc on the torus of the frame; lengths are in pixels.

    Attributes:
        place: [2] its centre (x, y) in frame 0.
        velocity: way to the right per frame.
        radius: of the disc.
        turn: angle of its texture in radians.
        phase: [2] phases of the texture's two waves at the centre.
        colours: [2, 3] the dark and the light colour, 0-255.
    """

    place: np.ndarray
    velocity: float
    radius: float
    turn: float
    phase: np.ndarray
    colours: np.ndarray


@dataclass(frozen=True)
class Pair:
    """Everything that is drawn for one clip.

    Attributes:
        discs: A and B.
        background: float32 [H, W, 3], 0-255.
    """

    discs: tuple[Disc, Disc]
    background: np.ndarray


def render_pair(
    class_name: str,
    seed=0,
    size: tuple[int, int] = (64, 64),
    frames: int = 24,
) -> tuple[np.ndarray, np.ndarray]:
    """Renders one clip and its true optical flow.

    Field i is the motion from frame i to frame i + 1 in pixels, u to the right and v
    down, at the pixels of frame i: a disc's velocity where it covers at least half of
    a pixel, and zero elsewhere. v is zero everywhere.

    Source: the question of thesis chapters 3-5, what moves where.

    Args:
        class_name: one of ``CLASSES``.
        seed: int, sequence of ints or numpy random generator; equal seeds give equal
            clips.
        size: frame height and width in pixels, each at least 32.
        frames: number of frames T, at least 2.

    Returns:
        RGB frames, uint8 [T, H, W, 3], and flow, float32 [T - 1, H, W, 2].

    Raises:
        ValueError: an argument is out of its range.
    """
    check_class(class_name)
    check_shape(size, frames, SMALLEST)
    pair = draw_pair(class_name, size, np.random.default_rng(seed))
    return paint_frames(pair, frames), true_flow(pair, frames)


def check_class(class_name: str) -> None:
    """Raises a ValueError that lists the classes if ``class_name`` is none of them."""
    if class_name not in CLASSES:
        raise ValueError(
            f"unknown class {class_name!r}; the classes are {' and '.join(CLASSES)}"
        )


def draw_pair(class_name: str, size: tuple[int, int], rng) -> Pair:
    """Draws one clip: two discs and the background (module docstring).

    Args:
        class_name: one of ``CLASSES``.
        size: frame height and width in pixels.
        rng: numpy random generator; the same draws are made for both classes.

    Returns:
        The pair; of two classes it differs in the signs of the velocities alone.
    """
    height, width = size
    side = min(size)
    x = rng.uniform(0, width, 2)
    y = rng.uniform(0, height) + np.array([0, rng.uniform(*OFFSET) * height])
    velocities = rng.uniform(*SPEED, 2) * side * SIGNS[class_name]
    radii = rng.uniform(*RADIUS, 2) * side
    phases = rng.uniform(0, 2 * math.pi, (2, 2))
    colours = rng.uniform(*np.transpose((DARK, LIGHT))[..., None], (2, 2, 3))
    discs = [
        Disc(np.array([x[i], y[i] % height]), velocities[i], radii[i], *look)
        for i, look in enumerate(zip(TURNS, phases, colours, strict=True))
    ]
    tile, _ = background(size, rng)
    return Pair(tuple(discs), tile[:height, :width])


def paint_frames(pair: Pair, frames: int) -> np.ndarray:
    """Paints the frames of a pair, exact to parts of a pixel.

    Args:
        pair: what to paint.
        frames: number of frames T.

    Returns:
        RGB frames, uint8 [T, H, W, 3].
    """
    clip = np.empty((frames, *pair.background.shape), np.uint8)
    for time, frame in enumerate(clip):
        view = pair.background.astype(np.float64)
        for disc in pair.discs:
            pixels, dx, dy = _around(disc, time, view.shape)
            # Pixels on the edge are covered in part.
            cover = np.clip(disc.radius + 0.5 - np.hypot(dx, dy), 0, 1)[..., None]
            texture = _texture(disc, dx, dy, min(view.shape[:2]))
            view[pixels] += cover * (texture - view[pixels])
        frame[...] = np.rint(view)
    return clip


def true_flow(pair: Pair, frames: int) -> np.ndarray:
    """The optical flow of a pair, see `render_pair`.

    Args:
        pair: what moves.
        frames: number of frames T.

    Returns:
        float32 [T - 1, H, W, 2] in pixels, u and v.
    """
    height, width = pair.background.shape[:2]
    flow = np.zeros((frames - 1, height, width, 2), np.float32)
    for time, field in enumerate(flow):
        for disc in pair.discs:
            pixels, dx, dy = _around(disc, time, (height, width))
            inside = np.hypot(dx, dy) <= disc.radius
            field[..., 0][pixels] += inside * disc.velocity
    return flow


def _around(disc, time, shape):
    """The pixels around a disc, and the ways from its centre to them.

    Returns:
        Index of [h, w] pixels of the frame, all different, and ways [1, w] and [h, 1].
    """
    height, width = shape[:2]
    x, y = disc.place[0] + time * disc.velocity, disc.place[1]
    reach = disc.radius + 0.5
    columns = np.arange(math.ceil(x - reach), math.floor(x + reach) + 1)
    rows = np.arange(math.ceil(y - reach), math.floor(y + reach) + 1)
    pixels = np.ix_(rows % height, columns % width)
    return pixels, (columns - x)[None, :], (rows - y)[:, None]


def _texture(disc, dx, dy, side):
    """Colours [h, w, 3]: two crossed waves, which give a lattice of dots."""
    k = 2 * math.pi / (PERIOD * side)
    cos, sin = k * math.cos(disc.turn), k * math.sin(disc.turn)
    first = np.cos(cos * dx + sin * dy + disc.phase[0])
    second = np.cos(cos * dy - sin * dx + disc.phase[1])
    light = np.clip(0.5 + GAIN / 4 * (first + second), 0, 1)[..., None]
    return disc.colours[0] + light * (disc.colours[1] - disc.colours[0])
