"""Temporal sampling: properties for every length, and the numbers of the thesis."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.datasets.sampling import STRIDE_RANGE, test_indices, train_indices

lengths = st.integers(1, 400)
clips = st.integers(1, 40)
ranges = st.tuples(st.integers(1, 20), st.integers(0, 15)).map(lambda x: (x[0], sum(x)))


@settings(max_examples=400, deadline=None, derandomize=True)
@given(lengths, clips, ranges, st.integers(0, 2**31))
def test_train_indices(num_frames, clip_frames, stride_range, seed):
    rng = np.random.default_rng(seed)
    indices = train_indices(num_frames, clip_frames, stride_range, rng)
    assert indices.shape == (clip_frames,) and indices.dtype == np.int64
    assert indices.min() >= 0 and indices.max() < num_frames
    steps = np.diff(indices)
    if num_frames < clip_frames:
        equal = test_indices(num_frames, clip_frames)
        np.testing.assert_array_equal(indices, equal)
    elif clip_frames > 1:
        low, high = stride_range
        fits = (num_frames - 1) // (clip_frames - 1)
        assert len(set(steps)) == 1
        if fits >= low:
            assert low <= steps[0] <= min(high, fits)
        else:
            assert steps[0] == fits


@settings(max_examples=400, deadline=None, derandomize=True)
@given(lengths, clips)
def test_test_indices(num_frames, clip_frames):
    indices = test_indices(num_frames, clip_frames)
    assert indices.shape == (clip_frames,) and indices.dtype == np.int64
    formula = [int((i + 0.5) * num_frames / clip_frames) for i in range(clip_frames)]
    np.testing.assert_array_equal(indices, formula)
    assert indices.min() >= 0 and indices.max() < num_frames
    steps = np.diff(indices)
    assert np.all(steps >= 0)
    assert steps.size == 0 or steps.max() - steps.min() <= 1
    # The same clip backwards: no end of the video is preferred.
    if num_frames % (2 * clip_frames) == clip_frames:
        np.testing.assert_array_equal(num_frames - 1 - indices[::-1], indices)


def test_every_length_from_one():
    rng = np.random.default_rng(0)
    for n in range(1, 300):
        for _ in range(3):
            indices = train_indices(n, 16, STRIDE_RANGE, rng)
            assert len(indices) == 16 and 0 <= indices[0] <= indices[-1] < n


def _draws(num_frames, clip_frames, stride_range, count):
    rng = np.random.default_rng(1)
    draws = [
        train_indices(num_frames, clip_frames, stride_range, rng) for _ in range(count)
    ]
    return np.array(draws)


def _chi_square(observed):
    expected = observed.sum() / len(observed)
    return ((observed - expected) ** 2 / expected).sum()


def test_strides_are_uniform():
    draws = _draws(226, 16, (5, 15), 5500)
    counts = np.bincount(draws[:, 1] - draws[:, 0])[5:]
    assert len(counts) == 11
    assert _chi_square(counts) < 29.6  # 99.9 % quantile for 10 degrees of freedom


def test_strides_that_do_not_fit_are_left_out():
    """A YUP++ video of 5 s at 24 frames per second takes strides of 5 to 7."""
    draws = _draws(120, 16, (5, 15), 3000)
    counts = np.bincount(draws[:, 1] - draws[:, 0])[5:]
    assert len(counts) == 3
    assert _chi_square(counts) < 13.8


def test_starts_are_uniform():
    draws = _draws(27, 4, (5, 5), 6000)
    counts = np.bincount(draws[:, 0])
    assert len(counts) == 12  # 27 - 3 * 5
    assert _chi_square(counts) < 31.3
    counts = np.bincount(_draws(10, 1, (5, 15), 5000)[:, 0])
    assert len(counts) == 10
    assert _chi_square(counts) < 27.9


def test_short_videos():
    rng = np.random.default_rng(0)
    # 46 frames: stride 3 is the largest that fits, in one position only.
    assert train_indices(46, 16, (5, 15), rng).tolist() == list(range(0, 46, 3))
    assert train_indices(16, 16, (5, 15), rng).tolist() == list(range(16))
    assert train_indices(3, 7, (5, 15), rng).tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert train_indices(1, 16, (5, 15), rng).tolist() == [0] * 16


def test_equally_spaced_examples():
    assert test_indices(16, 16).tolist() == list(range(16))
    assert test_indices(160, 16).tolist() == list(range(5, 160, 10))
    assert test_indices(100, 1).tolist() == [50]
    assert test_indices(10**12, 2).tolist() == [250000000000, 750000000000]


@pytest.mark.parametrize("stride_range", [(0, 5), (6, 5), (-1, 2)])
def test_wrong_strides(stride_range):
    with pytest.raises(ValueError, match="1 <= smallest <= largest"):
        train_indices(100, 16, stride_range, np.random.default_rng(0))


def test_wrong_counts():
    with pytest.raises(ValueError, match="num_frames must be at least 1, got 0"):
        test_indices(0, 16)
    with pytest.raises(ValueError, match="clip_frames must be at least 1, got 0"):
        train_indices(10, 0, (5, 15), np.random.default_rng(0))
