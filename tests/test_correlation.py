"""Correlation against its equation, and against TensorFlow Addons' kernel."""

import itertools
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.record_addons_correlation import CASES, probe
from zoo.layers import Correlation

RECORDED = Path(__file__).with_name("addons_correlation.npz")
# (max_displacement, stride, displacement stride): displacements of several blocks and
# of none, strides that divide one another or nothing.
ARGUMENTS = [
    (8, 1, 1),
    (8, 2, 2),
    (8, 2, 1),
    (3, 1, 1),
    (5, 1, 2),
    (1, 2, 3),
    (5, 2, 3),
    (9, 4, 6),
    (17, 1, 1),
    (1, 5, 1),
]
SHAPES = [(2, 7, 11, 3), (1, 19, 10, 3), (1, 1, 1, 3)]


def reference(first, second, displacement, stride, step, of_outputs=None):
    """Eq. 8.4 over the channels' number; gradients as well if given the output's."""
    batch, height, width, channels = first.shape
    radius = displacement // step
    border = radius * step
    frame = ((0, 0), (border, border), (border, border), (0, 0))
    first, second = first.astype(float), np.pad(second.astype(float), frame)
    chosen, y = first[:, ::stride, ::stride], []
    of_first, of_second = np.zeros_like(first), np.zeros_like(second)
    shifts = itertools.product(range(2 * radius + 1), repeat=2)
    for channel, (p, q) in enumerate(shifts):
        place = (
            slice(None),
            slice(p * step, p * step + height, stride),
            slice(q * step, q * step + width, stride),
        )
        y.append((chosen * second[place]).sum(-1) / channels)
        if of_outputs is not None:
            weight = of_outputs[..., channel, None] / channels
            of_first[:, ::stride, ::stride] += weight * second[place]
            of_second[place] += weight * chosen
    inside = of_second[:, border : border + height, border : border + width]
    return np.stack(y, -1), of_first, inside


def maps(shape, dtype="float32"):
    """Two random maps."""
    return list(np.random.default_rng(1).normal(size=(2, *shape)).astype(dtype))


def gradients(function, inputs):
    """Output, and gradients of the probe-weighted sum of it."""
    inputs = [tf.convert_to_tensor(x) for x in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = function(inputs)
        weights = tf.cast(probe(y.shape), y.dtype)
        total = tf.reduce_sum(y * weights)
    return y, *tape.gradient(total, inputs)


def any_size(channels):
    """Two inputs of unknown batch and size."""
    return [keras.Input((None, None, channels)) for _ in range(2)]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_equals_the_equation_with_gradients_at_every_size(arguments):
    layer = Correlation(*arguments, dtype="float64")
    spec = [tf.TensorSpec((None, None, None, 3), tf.float64)] * 2
    graph = tf.function(layer, [spec])  # traced once, for all shapes
    for shape in SHAPES:
        inputs = maps(shape, "float64")
        expected = reference(*inputs, *arguments)[0]
        expected = reference(*inputs, *arguments, probe(expected.shape))
        assert layer.compute_output_shape([shape, shape]) == expected[0].shape
        for function in (layer, graph):
            for found, wanted in zip(
                gradients(function, inputs), expected, strict=True
            ):
                np.testing.assert_allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_equals_tensorflow_addons(name):
    _, *arguments = CASES[name]
    with np.load(RECORDED) as file:
        inputs, output, of_inputs = (
            file[f"{name}/{kind}"] for kind in ("maps", "output", "gradients")
        )
    y, *found = gradients(Correlation(*arguments), inputs)
    np.testing.assert_allclose(y, output, atol=2e-6)
    np.testing.assert_allclose(np.stack(found), of_inputs, atol=1e-5)


@pytest.mark.parametrize("arguments", ARGUMENTS[:3], ids=str)
def test_compiled_by_xla_it_answers_the_same(arguments):
    layer, inputs = Correlation(*arguments), maps((1, 9, 13, 6))
    compiled = tf.function(lambda x: gradients(layer, x), jit_compile=True)
    for found, wanted in zip(compiled(inputs), gradients(layer, inputs), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_displaced_map_is_found_where_it_went():
    first = np.random.default_rng(0).normal(size=(1, 12, 12, 64)).astype("float32")
    second = np.roll(first, (2, -3), axis=(1, 2))  # 2 down, 3 to the left
    y = np.reshape(Correlation(4)([first, second])[0, 5, 5], (9, 9))
    assert np.unravel_index(y.argmax(), y.shape) == (4 + 2, 4 - 3)


def test_unnormalised_it_is_the_inner_product():
    inputs = maps((1, 5, 6, 7))
    np.testing.assert_allclose(
        Correlation(2, normalize=False)(inputs),
        7 * reference(*inputs, 2, 1, 1)[0],
        atol=1e-5,
    )


def test_what_lies_outside_does_not_reach_other_rows():
    first, second = maps((1, 6, 7, 2))
    second[0, :, 0] = np.nan
    y = Correlation(2)([first, second])
    # The first column is met from the columns 0, 1 and 2 alone.
    assert np.isnan(y[:, :, :3]).any(-1).all() and np.isfinite(y[:, :, 3:]).all()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_rounds_the_result_alone(policy):
    # The sum over 2048 channels, 131072, is beyond float16.
    first = np.full((1, 3, 4, 2048), 8, "float16")
    y, of_first, _ = gradients(Correlation(1, dtype=policy), [first, first])
    assert y.dtype == policy.removeprefix("mixed_") and of_first.dtype == "float16"
    np.testing.assert_array_equal(tf.cast(y[0, 1, 1], tf.float32), np.full(9, 64))
    assert np.isfinite(of_first).all()

    inputs = maps((1, 6, 5, 7))
    expected = Correlation(3, dtype="float32")(inputs)
    np.testing.assert_array_equal(
        Correlation(3, dtype=policy)(inputs), tf.cast(expected, y.dtype)
    )


def test_saved_and_exported(tmp_path):
    inputs = any_size(3)
    model = keras.Model(inputs, Correlation(5, 2, 2, normalize=False)(inputs))
    assert model.output_shape == (None, None, None, 25)
    x = maps((2, 9, 7, 3))
    expected = model(x)
    model.save(tmp_path / "m.keras")
    reloaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(reloaded(x), expected)
    assert reloaded.layers[-1].get_config() == model.layers[-1].get_config()
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(served.serve(x), expected, atol=1e-5)


def test_two_replicas_sum_their_gradients(two_replicas):
    inputs = maps((2, 5, 6, 3))
    layer = Correlation(2)
    weights = probe((1, 5, 6, 25)).astype("float32")

    def slope(scale, x):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(layer([x[0] * scale, x[1]]) * weights)
        return tape.gradient(total, scale)

    with two_replicas.scope():
        scale = tf.Variable(1.0)
    halves = two_replicas.experimental_distribute_values_from_function(
        lambda context: [
            tf.constant(x[context.replica_id_in_sync_group :][:1]) for x in inputs
        ]
    )
    step = tf.function(lambda x: two_replicas.run(slope, args=(scale, x)))
    found = two_replicas.reduce("SUM", step(halves), axis=None)
    expected = (reference(*inputs, 2, 1, 1)[0] * weights).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Correlation(0), "max_displacement .* at least 1, got 0"),
        (lambda: Correlation(8, 0), "stride must be an integer .* got 0"),
        (lambda: Correlation(8, 1, 1.5), "displacement_stride must .* got 1.5"),
        (
            lambda: Correlation(2)([np.ones((1, 4, 5, 3)), np.ones((1, 4, 6, 3))]),
            r"of one shape .*\(1, 4, 5, 3\), \(1, 4, 6, 3\)",
        ),
        (
            lambda: Correlation(2)([np.ones((1, 2, 4, 5, 3))] * 2),
            "two maps .* fold the frames",
        ),
        (lambda: Correlation(2)(np.ones((1, 4, 5, 3))), r"\[first, second\]"),
        (lambda: Correlation(2)([np.ones((1, 4, 5, 3))] * 3), r"\[first, second\]"),
        (lambda: Correlation(2)(any_size(None)), "known number of channels"),
    ],
)
def test_errors_name_value_and_accepted(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_sizes_that_turn_out_different_are_an_error():
    inputs = any_size(3)
    graph = tf.function(
        keras.Model(inputs, Correlation(2)(inputs)),
        [[tf.TensorSpec((None, None, None, 3))] * 2],
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="maps_of_different_size"):
        graph([tf.ones((1, 4, 5, 3)), tf.ones((1, 4, 6, 3))])
