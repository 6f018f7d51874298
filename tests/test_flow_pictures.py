"""Flow as pictures: known colours, monotone, invertible, and what is refused."""

import colorsys
import math

import numpy as np
import pytest

from zoo.datasets.flow import to_codes
from zoo.understanding.flow_pictures import ENCODINGS, legend, picture, sheet

RIGHT, DOWN, LEFT, UP = (1, 0), (0, 1), (-1, 0), (0, -1)
each_encoding = pytest.mark.parametrize("encoding", ENCODINGS)


def pixel(u, v, encoding, bound=1.0):
    return tuple(picture(np.float32([[[u, v]]]), encoding, bound)[0, 0].tolist())


def random_flow(shape=(13, 17, 2), scale=6.0, seed=0):
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)


# --- the wheel -----------------------------------------------------------------------


def colour_wheel():
    """The 55 colours of Baker et al. 2011, one by one."""
    colours = []
    for count, colour in [
        (15, lambda i: (255, 255 * i // 15, 0)),
        (6, lambda i: (255 - 255 * i // 6, 255, 0)),
        (4, lambda i: (0, 255, 255 * i // 4)),
        (11, lambda i: (0, 255 - 255 * i // 11, 255)),
        (13, lambda i: (255 * i // 13, 0, 255)),
        (6, lambda i: (255, 0, 255 - 255 * i // 6)),
    ]:
        colours += [colour(i) for i in range(count)]
    return colours


def middlebury(u, v):
    """One pixel as their program computes it, in units of the bound."""
    colours, radius = colour_wheel(), math.hypot(u, v)
    angle = math.atan2(-v, -u) / math.pi
    place = (angle + 1) / 2 * 54
    low = int(place)
    part = place - low
    result = []
    for channel in range(3):
        first = colours[low][channel] / 255
        second = colours[(low + 1) % 55][channel] / 255
        value = (1 - part) * first + part * second
        value = 1 - radius * (1 - value) if radius <= 1 else 0.75 * value
        result.append(int(255 * value))
    return result


@pytest.mark.parametrize(
    ("direction", "colour"),
    [(RIGHT, (255, 0, 0)), (LEFT, (0, 209, 255)), (UP, (88, 0, 255))],
)
def test_directions_have_middleburys_colours(direction, colour):
    shown = pixel(*direction, "wheel")
    assert np.abs(np.subtract(shown, colour)).max() <= 1
    assert pixel(0, 0, "wheel") == (255, 255, 255)


def test_down_is_yellow():
    red, green, blue = pixel(*DOWN, "wheel")
    assert red == 255 and 220 < green < 240 and blue == 0


def test_wheel_is_their_program():
    flow = random_flow((40, 50, 2), 0.6)
    expected = [[middlebury(*map(float, p)) for p in row] for row in flow]
    assert np.abs(picture(flow, "wheel", 1.0).astype(int) - expected).max() <= 1


def test_negative_zero_is_right_too():
    assert pixel(1.0, -0.0, "wheel") == pixel(1.0, 0.0, "wheel")


@pytest.mark.parametrize("angle", np.linspace(0, 2 * np.pi, 17)[:-1])
def test_faster_is_more_saturated_and_beyond_is_darker(angle):
    radii = np.linspace(0, 1, 30)
    flow = np.stack([radii * np.cos(angle), radii * np.sin(angle)], -1)[None]
    darkest = picture(flow, "wheel", 1.0001).min(axis=-1)[0]
    assert (np.diff(darkest.astype(int)) <= 0).all() and darkest[-1] <= 1
    inside = pixel(0.99 * np.cos(angle), 0.99 * np.sin(angle), "wheel")
    beyond = pixel(3 * np.cos(angle), 3 * np.sin(angle), "wheel")
    assert sum(beyond) < sum(inside) and max(beyond) <= 192


# --- hsv -----------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["hsv", "hsv_white"])
def test_hsv_can_be_inverted(encoding):
    """Direction within 2 degrees and length within 1 % of the bound."""
    flow = random_flow(scale=3.0)
    bound = 15.0
    for (u, v), colour in zip(
        flow.reshape(-1, 2), picture(flow, encoding, bound).reshape(-1, 3), strict=True
    ):
        hue, saturation, value = colorsys.rgb_to_hsv(*(colour / 255))
        length = (value if encoding == "hsv" else saturation) * bound
        assert abs(length - math.hypot(u, v)) < 0.01 * bound
        back = np.array([math.cos(2 * math.pi * hue), math.sin(2 * math.pi * hue)])
        assert np.hypot(*(length * back - (u, v))) < 0.02 * bound


def test_hsv_of_known_directions():
    assert pixel(*RIGHT, "hsv") == pixel(*RIGHT, "hsv_white") == (255, 0, 0)
    assert pixel(*LEFT, "hsv") == (0, 255, 255)
    for direction, colour in [(DOWN, (127.5, 255, 0)), (UP, (127.5, 0, 255))]:
        assert np.abs(np.subtract(pixel(*direction, "hsv"), colour)).max() <= 0.5
    assert pixel(0, 0, "hsv") == (0, 0, 0)
    assert pixel(0, 0, "hsv_white") == (255, 255, 255)


# --- grey and the thesis' own --------------------------------------------------------


def test_grey_is_the_stored_codes():
    flow = random_flow(scale=12.0)
    codes = to_codes(flow)
    for channel, encoding in enumerate(("u", "v")):
        shown = picture(flow, encoding, 20)
        for k in range(3):
            np.testing.assert_array_equal(shown[..., k], codes[..., channel])
    assert pixel(0, 0, "u") == pixel(0, 0, "v") == (128,) * 3
    assert pixel(*RIGHT, "u") == pixel(*DOWN, "v") == (255,) * 3
    assert pixel(*LEFT, "u") == pixel(*UP, "v") == (0,) * 3


def test_magnitude_is_the_length():
    flow = random_flow(scale=4.0)
    shown = picture(flow, "magnitude", 10)
    expected = 255 * np.minimum(np.linalg.norm(flow, axis=-1) / 10, 1)
    assert np.abs(shown - expected[..., None]).max() <= 0.51
    assert pixel(0, 0, "magnitude") == (0, 0, 0)
    assert pixel(0.6, 0.8, "magnitude") == pixel(9, 9, "magnitude") == (255,) * 3


def test_mag_is_horizontal_vertical_and_magnitude():
    """Thesis Fig. 6.4 (b)."""
    flow = random_flow()
    shown = picture(flow, "mag", 20)
    for channel, encoding in enumerate(("u", "v", "magnitude")):
        np.testing.assert_array_equal(
            shown[..., channel], picture(flow, encoding, 20)[..., 0]
        )


# --- all of them ---------------------------------------------------------------------


@each_encoding
def test_any_axes_before_height(encoding):
    flow = random_flow((2, 3, 5, 7, 2))
    shown = picture(flow, encoding, 9)
    assert shown.shape == (2, 3, 5, 7, 3) and shown.dtype == np.uint8
    for i in np.ndindex(2, 3):
        np.testing.assert_array_equal(shown[i], picture(flow[i], encoding, 9))
    np.testing.assert_array_equal(
        picture(flow.astype("float64"), encoding, np.float32(9)), shown
    )


@each_encoding
def test_without_a_bound_the_largest_is_it(encoding):
    flow = random_flow((4, 5, 7, 2))
    largest = float(np.linalg.norm(flow, axis=-1).max())
    np.testing.assert_allclose(
        picture(flow, encoding).astype(int),
        picture(flow, encoding, largest).astype(int),
        atol=1,
    )
    still = np.zeros((3, 4, 2), np.float32)
    np.testing.assert_array_equal(picture(still, encoding), picture(still, encoding, 1))


@each_encoding
@pytest.mark.parametrize("size", [3, 32, 101])
def test_legend_is_the_vector_from_its_cross(encoding, size):
    key = legend(encoding, size)
    assert key.shape == (size, size, 3)
    middle = (size - 1) / 2
    for row, column in [(0, 0), (0, size - 1), (size - 1, size // 4), (size // 4, 0)]:
        expected = pixel(column - middle, row - middle, encoding, middle)
        assert tuple(key[row, column].tolist()) == expected
    assert (key[size // 2, size // 2] == 0).all()


def test_sheet_shows_the_fields_in_time():
    stack = random_flow((6, 8, 20))
    page = sheet(stack, "u", 20, columns=5)
    assert page.shape == (2 * 6 + 2, 5 * 8 + 4 * 2, 3)
    for i in range(10):
        row, column = divmod(i, 5)
        tile = page[row * 8 : row * 8 + 6, column * 10 : column * 10 + 8]
        np.testing.assert_array_equal(tile[..., 0], to_codes(stack[..., 2 * i]))
    assert (page[6:8] == 255).all()
    assert sheet(stack, columns=4).shape == (3 * 6 + 4, 4 * 8 + 6, 3)
    assert sheet(stack[..., :2], columns=5).shape == (6, 8, 3)


# --- errors --------------------------------------------------------------------------

FLOW = np.zeros((4, 5, 2), np.float32)
BROKEN = np.float32([[[0, np.nan], [np.inf, 0], [1, 1]]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: picture(FLOW, "rainbow"), "'rainbow'; accepted are wheel, hsv"),
        (lambda: picture(FLOW, bound=0), "above 0 pixels, .* got 0"),
        (lambda: picture(FLOW, bound=-2.0), "above 0 pixels, .* got -2.0"),
        (lambda: picture(FLOW, bound=float("nan")), "above 0 pixels, .* got nan"),
        (lambda: picture(FLOW, bound=float("inf")), "above 0 pixels, .* got inf"),
        (lambda: picture(FLOW, bound="20"), "above 0 pixels, .* got '20'"),
        (lambda: picture(FLOW, bound=True), "above 0 pixels, .* got True"),
        (lambda: picture(FLOW[0]), r"must be \[..., H, W, 2\].* \(5, 2\)"),
        (lambda: picture(FLOW[..., :1]), r"\(4, 5, 1\). For a stack .* `sheet`"),
        (lambda: picture(FLOW[:0]), r"got shape \(0, 5, 2\)"),
        (lambda: picture(FLOW.astype("uint8")), "got uint8. Decode 8-bit codes"),
        (lambda: picture(BROKEN), "NaN or infinite values at 2 of 3 pixels"),
        (lambda: legend("rainbow"), "'rainbow'; accepted are"),
        (lambda: legend(size=2), "at least 3, got 2"),
        (lambda: legend(size=10.0), "at least 3, got 10.0"),
        (lambda: sheet(np.zeros((4, 5, 3))), r"20 channels; got shape \(4, 5, 3\)"),
        (lambda: sheet(np.zeros((1, 4, 5, 20))), "Take one frame of one clip"),
        (lambda: sheet(np.zeros((4, 5, 4)), columns=0), "at least 1, got 0"),
    ],
)
def test_errors_say_what_to_do(make, message):
    with pytest.raises(ValueError, match=message):
        make()
