"""Convolution, normalisation, shortcut and nonlinearity in one layer (eq. 4.5, 7.1)."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import references
from zoo import layers

SHAPE = (4, 5, 6, 3, 4)
KINDS = {
    "spatial": (
        lambda **kw: layers.ConvNorm(3, 3, **kw),
        lambda x, w: references.spatial_conv(x, w, padding=1),
    ),
    "temporal": (
        lambda **kw: layers.TemporalConvNorm(3, 3, **kw),
        lambda x, w: references.temporal_conv(x, w, padding=1),
    ),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def clip(seed, channels=4):
    return np.random.default_rng(seed).normal(size=(*SHAPE[:4], channels))


def built(kind, **options):
    layer = KINDS[kind][0](dtype="float64", **options)
    layer.build(SHAPE)
    rng = np.random.default_rng(2)
    layer.set_weights([rng.uniform(0.5, 1.5, size=w.shape) for w in layer.weights])
    return layer


def arrays(layer):
    kernel, gamma, beta, mean, variance = (w.numpy() for w in layer.weights)
    return kernel, gamma, beta, mean, variance


@each_kind
@pytest.mark.parametrize("shortcut", [False, True])
def test_inference_folds_the_normalisation_exactly(kind, shortcut):
    layer = built(kind, activation="relu")
    kernel, gamma, beta, mean, variance = arrays(layer)
    x, y = clip(1), clip(3, 3)
    expected = (KINDS[kind][1](x, kernel) - mean) / np.sqrt(variance + 1e-5)
    expected = gamma * expected + beta + (y if shortcut else 0)
    found = layer(x, y) if shortcut else layer(x)
    np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-10)


@each_kind
@pytest.mark.parametrize("shortcut", [False, True])
def test_training_normalises_by_groups(kind, shortcut):
    layer = built(kind, activation="relu", sub_batch=2)
    kernel, gamma, beta, *_ = arrays(layer)
    x, y = clip(1), clip(3, 3)
    convolved = KINDS[kind][1](x, kernel)
    expected = references.batch_norm(convolved, gamma, beta, 1e-5, 2)
    expected = expected + (y if shortcut else 0)
    found = layer(x, y, training=True) if shortcut else layer(x, training=True)
    np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-10)


@each_kind
@pytest.mark.parametrize("training", [False, True])
def test_gradients_equal_finite_differences(kind, training):
    layer = built(kind, sub_batch=2)
    x, y = tf.Variable(clip(1)), tf.Variable(clip(3, 3))
    rng = np.random.default_rng(4)
    probe = rng.normal(size=(*SHAPE[:4], 3))

    def loss():
        return tf.reduce_sum(layer(x, y, training=training) * probe)

    variables = [x, y, *(v.value for v in layer.trainable_variables)]
    with tf.GradientTape() as tape:
        value = loss()
    for variable, gradient in zip(
        variables, tape.gradient(value, variables), strict=True
    ):
        direction = rng.normal(size=variable.shape)
        variable.assign_add(1e-6 * direction)
        up = loss()
        variable.assign_sub(2e-6 * direction)
        down = loss()
        variable.assign_add(1e-6 * direction)
        np.testing.assert_allclose(
            tf.reduce_sum(gradient * direction),
            (up - down) / 2e-6,
            rtol=1e-5,
            atol=1e-5,
        )


@each_kind
def test_saved_exported_and_in_half_precision(kind, tmp_path):
    x = keras.Input((None, None, None, 4))
    model = keras.Model(x, KINDS[kind][0](activation="relu", norm_name="bn")(x))
    y = clip(1).astype("float32")
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(again(y), model(y))
    assert again.layers[-1].get_config() == model.layers[-1].get_config()
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(served.serve(y), model(y), atol=1e-6)
    half = KINDS[kind][0](activation="relu", dtype="mixed_bfloat16")
    half.build(SHAPE)
    half.set_weights(model.layers[-1].get_weights())
    found = half(y)
    assert found.dtype == "bfloat16"
    np.testing.assert_allclose(tf.cast(found, tf.float32), model(y), atol=0.05)


def test_inflated_mapping_answers_like_the_spatial_one():
    """Eq. 4.5, with its normalisation: interior frames of a clip that stands still."""
    spatial = built("spatial", activation="relu")
    mapping = layers.ConvNorm(3, 1, activation="relu", dtype="float64")
    mapping.build(SHAPE)
    kernel = np.random.default_rng(5).normal(size=(1, 1, 4, 3))
    mapping.set_weights([kernel, *spatial.get_weights()[1:]])
    temporal = built("temporal", activation="relu")
    inflated = layers.inflate(kernel[0, 0], 3)
    temporal.set_weights([inflated, *spatial.get_weights()[1:]])
    still = np.repeat(clip(1)[:, :1], 5, axis=1)
    expected, found = mapping(still), temporal(still)
    np.testing.assert_allclose(found[:, 1:-1], expected[:, 1:-1], atol=1e-12)
    assert np.abs(found[:, 0] - expected[:, 0]).max() > 0.1  # 2/3 of the response


FOLDED = {
    "spatial": lambda **kw: layers.FoldedConv(3, 3, activation="relu", **kw),
    "temporal": lambda **kw: layers.FoldedTemporalConv(3, 3, activation="relu", **kw),
}


@each_kind
@pytest.mark.parametrize("shortcut", [False, True])
def test_folded_layers_are_their_formula(kind, shortcut):
    layer = FOLDED[kind](dtype="float64")
    layer.build(SHAPE)
    rng = np.random.default_rng(2)
    layer.set_weights([rng.normal(size=w.shape) for w in layer.weights])
    kernel, bias = (w.numpy() for w in layer.weights)
    x, y = clip(1), clip(3, 3)
    expected = KINDS[kind][1](x, kernel) + bias + (y if shortcut else 0)
    found = layer(x, y) if shortcut else layer(x)
    np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-10)
    assert found.shape == layer.compute_output_shape(SHAPE)
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    half = FOLDED[kind](dtype="mixed_bfloat16")
    assert half(x.astype("float32")).dtype == "bfloat16"
    with pytest.raises(ValueError, match="takes clips"):
        FOLDED[kind]()(x[0])
