"""Layers of images on clips, and clips as pairs of frames."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo.layers import ClassNMS, Correlation, FramePairs, PerFrame

RNG = np.random.default_rng(0)


def maps(*shape):
    return RNG.normal(size=shape).astype("float32")


def test_every_frame_by_itself():
    layer = Correlation(2)
    a, b = maps(2, 3, 5, 6, 4), maps(2, 3, 5, 6, 4)
    y = PerFrame(layer)([a, b])
    for i, t in np.ndindex(2, 3):
        np.testing.assert_allclose(
            y[i, t], layer([a[i, t][None], b[i, t][None]])[0], atol=1e-6
        )


def test_dictionaries_of_outputs_and_no_frames():
    boxes = np.sort(RNG.uniform(0, 50, (2, 3, 7, 4)).astype("float32"), -1)
    inputs = [boxes, RNG.random((2, 3, 7, 5), "float32"), np.ones((2, 3, 7), bool)]
    layer = PerFrame(ClassNMS(count=9))
    found = layer(inputs)
    assert found["boxes"].shape == (2, 3, 9, 4)
    assert found["classes"].shape == (2, 3, 9)
    assert layer([x[:, :0] for x in inputs])["boxes"].shape == (2, 0, 9, 4)


def test_unknown_sizes_and_files(tmp_path):
    """The number of frames is that of the clip in a graph, too."""
    inputs = keras.Input((None, None, None, 4))
    first, second = FramePairs()(inputs)
    y = PerFrame(Correlation(1))([first, second])
    assert y.shape == (None, None, None, None, 9)
    model = keras.Model(inputs, y)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    graph = tf.function(again, input_signature=[tf.TensorSpec([None] * 4 + [4])])
    for shape in ((2, 3, 5, 6, 4), (1, 5, 4, 4, 4), (3, 1, 4, 4, 4)):
        x = maps(*shape)
        found = graph(x)
        assert found.shape == (shape[0], shape[1] - 1, *shape[2:4], 9)
        np.testing.assert_allclose(found, model(x), atol=1e-6)


def test_pairs_are_neighbours():
    x = maps(2, 4, 3, 3, 2)
    first, second = FramePairs()(x)
    np.testing.assert_array_equal(first, x[:, :3])
    np.testing.assert_array_equal(second, x[:, 1:])
    assert FramePairs().compute_output_shape((None, 4, 5)) == ((None, 3, 5),) * 2


def test_tensors_without_frames_are_named():
    with pytest.raises(ValueError, match=r"takes tensors \[B, T, ...\]"):
        PerFrame(keras.layers.ReLU())(np.zeros(3, "float32"))
