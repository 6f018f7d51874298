"""The view of a video at test time: frames taken and their size."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo.datasets.sampling import test_indices
from zoo.layers import ClipView
from zoo.layers.clip_view import equally_spaced, resize_matrix, take_frames


@pytest.mark.parametrize("frames", [1, 3, 16])
def test_equally_spaced(frames):
    for length in range(1, 70):
        indices = keras.ops.convert_to_numpy(equally_spaced(length, frames))
        expected = [int((i + 0.5) * length / frames) for i in range(frames)]
        np.testing.assert_array_equal(indices, expected)
        assert indices.min() >= 0 and indices.max() < length
        assert len(set(indices)) == min(length, frames)
        if frames > 1:
            assert np.ptp(np.diff(indices)) <= 1


def test_same_frames_as_the_reader_takes():
    """Evaluation reads these frames from the file; the served graph takes them."""
    for length, frames in itertools.product(range(1, 40), (1, 5, 16)):
        np.testing.assert_array_equal(
            equally_spaced(length, frames), test_indices(length, frames)
        )


def test_view_of_a_view_changes_nothing():
    clip = np.arange(23)[None, :, None]
    once = take_frames(clip, 16)
    np.testing.assert_array_equal(take_frames(once, 16), once)


@pytest.mark.parametrize(
    ("source", "target"), [(7, 7), (5, 13), (29, 8), (1, 4), (9, 1)]
)
def test_resize_matrix_is_antialiased_linear_interpolation(source, target):
    signal = np.random.default_rng(0).normal(size=(1, source, 1, 1)).astype("float32")
    expected = tf.image.resize(signal, (target, 1), antialias=True)
    found = np.einsum("ij,bjwc->biwc", resize_matrix(source, target), signal)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (1, 1), (32, 32), (100, 33)])
def test_shorter_side_and_values(size):
    clip = np.random.default_rng(1).integers(0, 256, (2, 5, *size, 3), dtype="uint8")
    view = ClipView(frames=3, shorter_side=32)
    y = view(clip)
    shorter = min(size)
    expected_size = tuple(int(n * 32 / shorter + 0.5) for n in size)
    assert y.shape == (2, 3, *expected_size, 3) == view.compute_output_shape(clip.shape)
    frames = clip[:, [0, 2, 4]].reshape(6, *size, 3)
    expected = tf.image.resize(frames, expected_size, antialias=True)
    np.testing.assert_allclose(np.reshape(y, expected.shape), expected, atol=1e-3)


def test_right_size_passes_unchanged():
    clip = np.random.default_rng(1).integers(0, 256, (1, 4, 32, 40, 3), dtype="uint8")
    np.testing.assert_array_equal(ClipView(4, 32)(clip), clip.astype("float32"))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_graph_of_unknown_sizes(jit_compile):
    view = ClipView(frames=4, shorter_side=16)
    inputs = keras.Input((None, None, None, 3))
    model = keras.Model(inputs, view(inputs))
    graph = tf.function(model, jit_compile=jit_compile)
    for shape in ((2, 9, 20, 31, 3), (1, 3, 31, 20, 3)):
        clip = np.random.default_rng(2).uniform(0, 255, shape).astype("float32")
        np.testing.assert_allclose(graph(clip), view(clip), atol=1e-3)


def test_full_precision_under_a_half_precision_policy(mixed_bfloat16):
    clip = np.full((1, 4, 16, 16, 3), 201, "uint8")
    y = ClipView(4, 16)(clip)
    assert y.dtype == tf.float32
    np.testing.assert_array_equal(y, clip.astype("float32"))
