"""Spatial augmentation: inside the frame, distributed as stated, equal for a clip."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.datasets.augment import CropParams, apply_crop, draw_crop

sides = st.integers(1, 600)


def _distances(crop, height, width):
    """Distance of the crop from the nearer border along both axes."""
    return (
        min(crop.top, height - crop.top - crop.height),
        min(crop.left, width - crop.left - crop.width),
    )


@settings(max_examples=500, deadline=None, derandomize=True)
@given(sides, sides, st.integers(1, 300), st.integers(0, 2**31))
def test_crop_is_inside_and_near_a_border(height, width, size, seed):
    crop = draw_crop(height, width, size, np.random.default_rng(seed))
    assert crop.top >= 0 and crop.left >= 0
    assert 1 <= crop.height <= height - crop.top
    assert 1 <= crop.width <= width - crop.left
    vertical, horizontal = _distances(crop, height, width)
    assert vertical <= 0.25 * height and horizontal <= 0.25 * width
    for side, limit in ((crop.height, height), (crop.width, width)):
        assert round(0.75 * size) <= side <= round(1.25 * size) or side in (1, limit)


def _draws(count, height, width, size, **options):
    rng = np.random.default_rng(0)
    return [draw_crop(height, width, size, rng, **options) for _ in range(count)]


def test_sides_are_uniform_and_independent():
    crops = _draws(4000, 1000, 1000, 200)
    heights = np.array([c.height for c in crops])
    widths = np.array([c.width for c in crops])
    for values in (heights, widths):
        assert values.min() == 150 and values.max() == 250
        assert values.mean() == pytest.approx(200, abs=2)
        assert values.std() == pytest.approx(100 / 12**0.5, abs=1)
    assert abs(np.corrcoef(heights, widths)[0, 1]) < 0.05


def test_positions_are_uniform_over_both_borders():
    crops = _draws(12000, 20, 20, 4, jitter=0)
    for values in ([c.top for c in crops], [c.left for c in crops]):
        counts = np.bincount(values)
        # Room of 16 pixels, 5 of them near enough to each border.
        assert np.flatnonzero(counts).tolist() == [*range(6), *range(11, 17)]
        observed = counts[counts > 0]
        assert ((observed - 1000) ** 2 / 1000).sum() < 31.3  # 99.9 %, 11 d.o.f.


def test_all_corners_occur():
    crops = _draws(200, 1000, 1000, 200)
    corners = {(c.top < 400, c.left < 400) for c in crops}
    assert len(corners) == 4


def test_positions_of_large_crops_are_all_positions():
    counts = np.bincount([c.top for c in _draws(3000, 10, 10, 6, jitter=0)])
    assert len(counts) == 5
    assert ((counts - 600) ** 2 / 600).sum() < 18.5


def test_flip():
    flips = np.mean([c.flip for c in _draws(2000, 300, 300, 224)])
    assert flips == pytest.approx(0.5, abs=0.04)
    assert not any(c.flip for c in _draws(100, 300, 300, 224, flip=False))


def test_draw_depends_on_the_generator_only():
    assert _draws(20, 256, 340, 224) == _draws(20, 256, 340, 224)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    "box", [(3, 5, 20, 30), (0, 0, 64, 80), (63, 79, 1, 1), (10, 0, 24, 24)]
)
def test_crop_equals_reference(box, flip):
    frames = np.random.default_rng(0).integers(0, 256, (5, 64, 80, 3), np.uint8)
    top, left, height, width = box
    clip = apply_crop(frames, CropParams(*box, flip), 24)
    assert clip.shape == (5, 24, 24, 3) and clip.dtype == np.uint8
    for frame, result in zip(frames, clip, strict=True):
        patch = frame[top : top + height, left : left + width]
        expected = _bilinear(patch.astype(float), 24)
        expected = expected[:, ::-1] if flip else expected
        assert np.abs(result - expected).max() < 1


def _bilinear(image, size):
    """Bilinear resizing with pixel centres at i + 0.5, written out."""
    for axis in (0, 1):
        length = image.shape[axis]
        place = (np.arange(size) + 0.5) * length / size - 0.5
        place = np.clip(place, 0, length - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, length - 1)
        weight = (place - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        image = image.take(low, axis) * (1 - weight) + image.take(high, axis) * weight
    return image


def test_source_is_not_changed_and_may_be_read_only():
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    before = frames.copy()
    frames.flags.writeable = False
    apply_crop(frames, CropParams(0, 0, 32, 32, True), 32)
    np.testing.assert_array_equal(frames, before)


def test_same_crop_for_all_frames():
    frame = np.random.default_rng(0).integers(0, 256, (1, 50, 60, 3), np.uint8)
    frames = np.repeat(frame, 8, axis=0)
    crop = draw_crop(50, 60, 32, np.random.default_rng(3))
    clip = apply_crop(frames, crop, 32)
    np.testing.assert_array_equal(clip, np.repeat(clip[:1], 8, axis=0))


def test_views_with_gaps_are_fine():
    """Turned frames are views; OpenCV must see their pixels, not their memory."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 40, 30, 3), np.uint8)
    crop = CropParams(2, 3, 20, 20, True)
    turned = frames.swapaxes(1, 2)[:, ::-1]
    np.testing.assert_array_equal(
        apply_crop(turned, crop, 16), apply_crop(turned.copy(), crop, 16)
    )
    assert cv2.resize(turned[0], (5, 5)).shape == (5, 5, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0, 10, 5), {}, "sides of at least 1 pixel, got a 10x0 frame"),
        ((10, 10, 0), {}, "and size 0"),
        ((10, 10, 5), {"jitter": 1}, "jitter=1"),
        ((10, 10, 5), {"border": -0.1}, "border=-0.1"),
    ],
)
def test_wrong_numbers(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        draw_crop(*arguments, np.random.default_rng(0), **options)
