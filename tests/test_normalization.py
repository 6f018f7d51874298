"""Sub-batch normalisation and the normalisation of inputs, against their formulas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.references import batch_norm
from zoo import layers

SHAPE = (8, 3, 5, 4, 6)


def clip(seed=1, dtype="float32"):
    return (3 * np.random.default_rng(seed).normal(size=SHAPE) + 1).astype(dtype)


def layer_with_affine(clips, dtype="float32", momentum=0.9):
    layer = layers.SubBatchNormalization(clips, momentum=momentum, dtype=dtype)
    layer.build(SHAPE)
    rng = np.random.default_rng(2)
    layer.gamma.assign(rng.normal(size=SHAPE[-1]))
    layer.beta.assign(rng.normal(size=SHAPE[-1]))
    return layer


@pytest.mark.parametrize("clips", [1, 2, 4, 8])
def test_each_group_has_its_own_statistics(clips):
    layer, x = layer_with_affine(clips, "float64"), clip(dtype="float64")
    expected = batch_norm(x, *layer.get_weights()[:2], 1e-5, clips)
    np.testing.assert_allclose(layer(x, training=True), expected, atol=1e-12)


def test_whole_batch_is_keras_batch_normalization():
    """Outputs, gradients and moving statistics, in training and at inference."""
    ours = layer_with_affine(None)
    theirs = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
    theirs.build(SHAPE)
    theirs.set_weights(ours.get_weights())
    x = tf.Variable(clip())
    for training in (True, True, False):
        with tf.GradientTape(persistent=True) as tape:
            a, b = (layer(x, training=training) for layer in (ours, theirs))
            la, lb = tf.reduce_sum(a**3), tf.reduce_sum(b**3)
        np.testing.assert_allclose(a, b, atol=1e-5)
        for ga, gb in zip(
            tape.gradient(la, [x, ours.gamma.value, ours.beta.value]),
            tape.gradient(lb, [x, theirs.gamma.value, theirs.beta.value]),
            strict=True,
        ):
            np.testing.assert_allclose(ga, gb, rtol=1e-3, atol=1e-2)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_remainder_of_a_batch_of_unknown_size_fails():
    """It must not shift the groups, which would mix clips silently."""
    layer = layer_with_affine(2)
    spec = tf.TensorSpec([None, *SHAPE[1:]], tf.float32)
    step = tf.function(lambda x: layer(x, training=True), input_signature=[spec])
    np.testing.assert_allclose(step(clip()), layer(clip(), training=True), atol=1e-5)
    for batch in (1, 3, 5):
        with pytest.raises(tf.errors.InvalidArgumentError, match="requested shape"):
            step(clip()[:batch])


def test_moving_statistics_average_the_groups():
    layer, x = layer_with_affine(2, "float64"), clip(dtype="float64")
    layer(x, training=True)
    groups = x.reshape(4, -1, SHAPE[-1])
    expected_mean = 0.1 * groups.mean(axis=1).mean(axis=0)
    expected_variance = 0.9 + 0.1 * groups.var(axis=1).mean(axis=0)
    np.testing.assert_allclose(layer.moving_mean.numpy(), expected_mean, rtol=1e-12)
    np.testing.assert_allclose(
        layer.moving_variance.numpy(), expected_variance, rtol=1e-12
    )


def test_inference_and_frozen_use_moving_statistics():
    layer, x = layer_with_affine(2), clip()
    before = [w.copy() for w in layer.get_weights()]
    expected = x / np.sqrt(1 + 1e-5) * before[0] + before[1]
    np.testing.assert_allclose(layer(x, training=False), expected, atol=1e-5)
    layer.trainable = False
    np.testing.assert_allclose(layer(x, training=True), expected, atol=1e-5)
    for now, then in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_gradients_equal_finite_differences():
    layer = layer_with_affine(2, "float64")
    x = tf.Variable(clip(dtype="float64"))
    rng = np.random.default_rng(3)
    probe, direction = rng.normal(size=(2, *SHAPE))

    def loss():
        return tf.reduce_sum(layer(x, training=True) * probe)

    with tf.GradientTape() as tape:
        value = loss()
    slope = tf.reduce_sum(tape.gradient(value, x) * direction)
    x.assign_add(1e-6 * direction)
    up = loss()
    x.assign_sub(2e-6 * direction)
    np.testing.assert_allclose(slope, (up - loss()) / 2e-6, rtol=1e-5)


def test_parts_of_a_batch_train_like_the_whole():
    """Gradient accumulation: the parts' gradients add up to the whole batch's."""
    layer, x = layer_with_affine(2, "float64"), clip(dtype="float64")

    def gradients(part):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(part, training=True) ** 3)
        return tape.gradient(loss, [layer.gamma.value, layer.beta.value])

    whole, parts = gradients(x), [gradients(x[i : i + 4]) for i in (0, 4)]
    for total, first, second in zip(whole, *parts, strict=True):
        np.testing.assert_allclose(total, first + second, rtol=1e-10)


def test_two_replicas_equal_one(two_replicas):
    """Outputs, and the moving statistics that end up in a file."""
    x = clip()
    one = layer_with_affine(2)
    expected = one(x, training=True)
    with two_replicas.scope():
        layer = layer_with_affine(2)
    halves = two_replicas.experimental_distribute_values_from_function(
        lambda context: tf.constant(x[4 * context.replica_id_in_sync_group :][:4])
    )
    step = tf.function(lambda part: layer(part, training=True))
    y = two_replicas.run(step, args=(halves,))
    y = tf.concat(two_replicas.experimental_local_results(y), 0)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    for a, b in zip(layer.get_weights(), one.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_half_precision_keeps_statistics_in_full():
    layer = layer_with_affine(2, "mixed_bfloat16")
    x = 1000 + clip()
    y = layer(tf.cast(x, tf.bfloat16), training=True)
    assert y.dtype == tf.bfloat16
    assert layer.moving_mean.dtype == "float32"
    np.testing.assert_allclose(layer.moving_mean.numpy(), 0.1 * 1001, rtol=0.01)


def test_model_saves_loads_and_exports(tmp_path):
    inputs = keras.Input((None, None, None, 6))
    layer = layer_with_affine(2)
    model = keras.Model(inputs, layer(inputs))
    layer(clip(), training=True)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(again(clip(5)), model(clip(5)))
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(served.serve(clip(5)), model(clip(5)), atol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_rgb_normalization(dtype, mixed_bfloat16):
    """Exact to a grey level although the network computes in half precision."""
    layer = layers.RGBNormalization((123.25, 116.5, 103.0))
    x = np.full((1, 2, 3, 3, 3), 124, dtype)
    y = layer(x)
    assert y.dtype == tf.bfloat16
    np.testing.assert_array_equal(
        tf.cast(y, tf.float32)[0, 0, 0, 0], np.float32([0.75, 7.5, 21])
    )


def test_flow_normalization_is_the_eight_bit_code():
    """spec of the stored flow: round(255 (d + 20) / 40), then minus 128."""
    flow = np.linspace(-30, 30, 2 * 5 * 4 * 4, dtype="float32").reshape(1, 5, 4, 4, 2)
    stored = np.round(255 * (np.clip(flow, -20, 20) + 20) / 40)
    y = layers.FlowNormalization(offset=-0.5)(flow)
    np.testing.assert_allclose(y, stored - 128, atol=0.501)
    np.testing.assert_allclose(layers.FlowNormalization()(flow[:, :, :, :, :] * 0), 0)
