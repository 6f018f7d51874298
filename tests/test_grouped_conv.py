"""Convolution in groups of channels, against one convolution per group."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo.layers import ConvNorm, RGBNormalization, SpatialConv
from zoo.layers.spatial_conv import block_kernels

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("channels", "filters", "groups", "strides", "dilation"),
    [(12, 24, 4, 1, 1), (128, 128, 32, 2, 1), (64, 32, 1, 1, 2), (160, 320, 32, 1, 2)],
)
def test_groups_see_their_own_channels(channels, filters, groups, strides, dilation):
    layer = SpatialConv(
        filters, 3, strides, dilation_rate=dilation, use_bias=True, groups=groups
    )
    x = RNG.normal(size=(1, 2, 9, 11, channels)).astype("float32")
    y = layer(x)
    layer.bias.assign(RNG.normal(size=filters))
    y = layer(x)
    p, part, share = dilation, channels // groups, filters // groups
    padded = np.pad(x[0], [(0, 0), (p, p), (p, p), (0, 0)])
    kernel = layer.kernel.numpy()
    assert kernel.shape == (3, 3, part, filters)
    for g in range(groups):
        expected = tf.nn.convolution(
            padded[..., g * part : (g + 1) * part],
            kernel[..., g * share : (g + 1) * share],
            strides=strides,
            padding="VALID",
            dilations=dilation,
        )
        found = y[0, ..., g * share : (g + 1) * share]
        bias = layer.bias.numpy()[g * share : (g + 1) * share]
        np.testing.assert_allclose(found, expected + bias, atol=1e-4)


def test_gradient_of_groups():
    layer, x = (
        SpatialConv(8, 3, groups=4),
        tf.constant(RNG.normal(size=(1, 1, 5, 6, 8))),
    )
    x = tf.cast(x, tf.float32)
    layer(x)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x) ** 3)
    (gradient,) = tape.gradient(loss, [layer.kernel.value])
    kernel = layer.kernel.numpy()
    for index in [(0, 1, 0, 3), (2, 2, 1, 7)]:
        step = np.zeros_like(kernel)
        step[index] = 1e-2
        losses = []
        for sign in (1, -1):
            layer.kernel.assign(kernel + sign * step)
            losses.append(float(tf.reduce_sum(layer(x) ** 3)))
        slope = (losses[0] - losses[1]) / 2e-2
        assert float(gradient[index]) == pytest.approx(slope, rel=1e-2)


def test_blocks_are_few_and_dense():
    kernels = block_kernels(tf.ones((3, 3, 4, 128)), 32)
    assert [k.shape for k in kernels] == [(3, 3, 64, 64)] * 2
    assert float(tf.reduce_sum(kernels[0])) == 9 * 16 * 4 * 4
    assert [k.shape for k in block_kernels(tf.ones((1, 1, 2, 8)), 2)] == [(1, 1, 4, 8)]


def test_grouped_layers_are_saved(tmp_path):
    x = keras.Input((None, None, None, 8))
    model = keras.Model(x, ConvNorm(16, 3, groups=4, activation="relu")(x))
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    clip = RNG.normal(size=(1, 2, 6, 7, 8)).astype("float32")
    np.testing.assert_array_equal(again(clip), model(clip))


def test_groups_that_do_not_divide_are_named():
    with pytest.raises(ValueError, match="3 groups do not divide 8 filters"):
        SpatialConv(8, 3, groups=3)
    with pytest.raises(ValueError, match="4 groups do not divide 6 channels"):
        SpatialConv(8, 3, groups=4)(np.zeros((1, 1, 4, 4, 6), "float32"))


def test_deviation_of_colours():
    layer = RGBNormalization((10, 20, 30), (1, 2, 4))
    x = RNG.integers(0, 256, (1, 2, 3, 4, 3)).astype("uint8")
    np.testing.assert_allclose(layer(x), (x - [10.0, 20, 30]) / [1, 2, 4], rtol=1e-6)
    again = RGBNormalization.from_config(layer.get_config())
    np.testing.assert_array_equal(again(x), layer(x))
    for wrong in ((1, 2), (1, 0, 2)):
        with pytest.raises(ValueError, match="one positive number per channel"):
            RGBNormalization((10, 20, 30), wrong)
