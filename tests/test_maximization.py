"""Activation maximisation: planted stimuli are found, slowness slows, units differ."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from zoo.understanding.maximization import PIXELS, Search, maximize, stacks
from zoo.understanding.regularizers import (
    Smoothness,
    projected,
    range_penalty,
    variation_in_space,
    variation_in_time,
)

TINY = [n for n in zoo.list_models("*_tiny") if "detect" not in n and "rfcn" not in n]


def drifting(frames, size, speed, period=10.0):
    """A Gabor that drifts to the right by `speed` pixels a frame, [T, H, W]."""
    t, y, x = np.mgrid[:frames, :size, :size] - np.array(
        [(frames - 1) / 2, (size - 1) / 2, (size - 1) / 2]
    ).reshape(3, 1, 1, 1)
    window = np.exp(-(x**2 + y**2) / (2 * (size / 2.5) ** 2))
    return window * np.cos(2 * np.pi * (x - speed * t) / period)


def planted(kind, kernel):
    """A network whose only weights are one filter over the whole input."""
    inputs = keras.Input((None, None, None, kernel.shape[-2]), name=kind)
    layer = keras.layers.Conv3D(kernel.shape[-1], kernel.shape[:3], name="conv1")
    model = keras.Model(inputs, layer(inputs), name="planted")
    layer.set_weights([kernel, np.zeros(kernel.shape[-1])])
    return model


def correlation(a, b):
    return np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]


@pytest.mark.parametrize("speed", [-2, 1])
def test_a_planted_gabor_is_found_with_its_direction_and_speed(speed):
    gabor = drifting(5, 24, speed)
    kernel = np.stack([gabor] * 3, -1)[..., None] / 100
    # Strong enough against the regularisers, not so strong that all saturates.
    search = Search(clip=gabor.shape, iterations=80, strength=2e-2)
    found = maximize(planted("rgb", kernel), "conv1", [0], search=search)
    assert found.flow is None and found.rgb.dtype == np.uint8
    movie = found.rgb[0].mean(-1) - found.rgb[0].mean()
    assert correlation(movie, gabor) > 0.9
    others = [s for s in (-3, -2, -1, 0, 1, 2, 3) if s != speed]
    assert all(
        correlation(movie, gabor) > correlation(movie, drifting(5, 24, s))
        for s in others
    )


def test_a_planted_motion_is_found_in_the_flow():
    """Of one frame, ten fields: a vertical motion that grows, and no horizontal one."""
    bump = np.abs(drifting(1, 24, 0, period=1e9))[0]
    kernel = np.zeros((1, 24, 24, 20, 1))
    kernel[0, :, :, 1::2, 0] = bump[..., None] * np.linspace(-1, 1, 10) / 10
    search = Search(clip=(1, 24, 24), iterations=120, strength=1e-3)
    found = maximize(planted("flow", kernel), "conv1", [0], Smoothness(chi=0.1), search)
    assert found.rgb is None and found.flow.shape == (1, 10, 24, 24, 2)
    u, v = np.moveaxis(found.flow[0], -1, 0)
    pattern = bump * np.linspace(-1, 1, 10)[:, None, None]
    assert correlation(v, pattern) > 0.9
    assert np.abs(u).max() < 0.2 * np.abs(v).max()
    assert (np.hypot(u, v) / PIXELS <= 160.01).all()


def test_slowness_makes_motion_slower():
    """Temporal variation falls as chi rises, and as kappa does, at equal kernels."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(0, 0.01, (1, 12, 12, 20, 2))
    model, search = planted("flow", kernel), Search(clip=(1, 12, 12), iterations=60)

    def variation(smoothness):
        flow = maximize(model, "conv1", [0, 1], smoothness, search).flow / PIXELS
        return variation_in_time(tf.constant(flow, "float32")).numpy()

    by_chi = [variation(Smoothness(chi=chi)) for chi in (0, 1, 5, 10)]
    assert (np.diff(by_chi, axis=0) < 0).all()
    by_kappa = [variation(Smoothness("3d", kappa=k)) for k in (1, 2.5, 10)]
    assert (np.diff(by_kappa, axis=0) < 0).all()
    np.testing.assert_allclose(variation(Smoothness("2d")), by_chi[0])


# --- the regularisers ----------------------------------------------------------------


def test_regularizers_are_the_sums_of_the_thesis():
    x = np.random.default_rng(0).normal(0, 20, (2, 3, 4, 5, 2)).astype("float32")
    b, v, size = 160.0, 160 / 6.5, 3 * 4 * 5
    norm = space = time = 0
    for k in range(3):
        for i in range(4):
            for j in range(5):
                here = x[:, k, i, j].astype(float)
                norm = norm + (here**2).sum(-1) ** 1.5
                if i < 3:
                    space = space + ((x[:, k, i + 1, j] - here) ** 2).sum(-1)
                if j < 4:
                    space = space + ((x[:, k, i, j + 1] - here) ** 2).sum(-1)
                if k < 2:
                    time = time + ((x[:, k + 1, i, j] - here) ** 2).sum(-1)
    space, time = space / size / v**2, time / size / v**2
    np.testing.assert_allclose(range_penalty(x), norm / size / b**3, rtol=1e-4)
    np.testing.assert_allclose(variation_in_space(x), space, rtol=1e-5)
    np.testing.assert_allclose(variation_in_time(x), time, rtol=1e-5)
    for smoothness, expected in (
        (Smoothness("2d"), 10 * space),
        (Smoothness("3d", kappa=2.5), 25 * (space + time)),
        (Smoothness(chi=5), 10 * (space + 5 * time)),
        (Smoothness(chi=0), 10 * space),
    ):
        np.testing.assert_allclose(smoothness(x), expected, rtol=1e-5)


def test_inputs_are_kept_within_the_bound():
    x = np.array([[300.0, 400.0], [30.0, 40.0], [0.0, 0.0]]).reshape(3, 1, 1, 1, 2)
    np.testing.assert_allclose(
        np.reshape(projected(x.astype("float32")), (3, 2)),
        [[96, 128], [30, 40], [0, 0]],
        rtol=1e-5,
    )


# --- the networks of the zoo ---------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_every_network_has_preferred_inputs(name):
    """Of a class, in two steps and without a graph, which would take longer."""
    eager = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        model, values = zoo.load(name, num_classes=3), []
        frames = 5 if "fusion" in name else 1
        search = Search(clip=(frames, 64, 64), iterations=2)
        found = maximize(
            model, "logits", [2], search=search, report=lambda _, v: values.append(v)
        )
    finally:
        tf.config.run_functions_eagerly(eager)
    assert (found.rgb is not None) == ("rgb" in zoo.info(name).inputs)
    assert (found.flow is not None) == ("flow" in zoo.info(name).inputs)
    assert found.channels == (2,) and np.isfinite(found.activations).all()
    assert len(values) == 1 and np.isfinite(values).all()


@pytest.fixture(scope="module")
def fusion():
    return zoo.load("fusion_vgg_tiny", num_classes=3)


def test_a_unit_does_not_depend_on_its_batch(fusion):
    """Six at once find what each finds alone; seeds and starts do matter."""
    search = Search(clip=(5, 32, 32), iterations=5, jitter=2)
    together = maximize(fusion, "fusion_relu5", range(6), search=search)
    place = together.channels.index(4)
    alone = maximize(fusion, "fusion_relu5", [4], search=search)
    np.testing.assert_allclose(alone.flow[0], together.flow[place], atol=1e-3)
    np.testing.assert_array_less(
        np.abs(alone.rgb[0].astype(int) - together.rgb[place]), 2
    )
    again = maximize(fusion, "fusion_relu5", [4], search=search)
    np.testing.assert_array_equal(alone.flow, again.flow)
    other = maximize(
        fusion,
        "fusion_relu5",
        [4],
        search=Search(clip=(5, 32, 32), iterations=5, seed=1),
    )
    assert np.abs(other.flow - alone.flow).max() > 1e-2


def test_units_of_one_stream_have_inputs_of_it_alone(fusion):
    search = Search(clip=(5, 32, 32), iterations=2)
    found = maximize(fusion, "appearance/relu5", range(4), search=search)
    assert found.flow is None and found.rgb.shape[1:] == (5, 32, 32, 3)
    found = maximize(fusion, "motion/relu5", range(4), search=search)
    assert found.rgb is None and found.flow.shape[1:] == (14, 32, 32, 2)


def test_dead_units_are_said_and_left_out(caplog):
    kernel = np.ones((1, 4, 4, 3, 2)) * [1, -1]
    inputs = keras.Input((None, None, None, 3), name="rgb")
    layer = keras.layers.Conv3D(2, (1, 4, 4), name="conv1")
    model = keras.Model(inputs, keras.layers.ReLU(name="relu1")(layer(inputs)))
    layer.set_weights([kernel, np.array([0.0, -1e6])])
    found = maximize(model, "relu1", [0, 1], search=Search((1, 4, 4), iterations=3))
    assert found.channels == (0,) and found.dead == (1,)
    assert "1 units, which stay at zero: 1" in caplog.text


def test_more_starts_are_never_worse(fusion):
    def reached(starts):
        search = Search(clip=(5, 64, 64), iterations=3, starts=starts)
        return maximize(fusion, "logits", [0], search=search).history[-1, 0]

    assert reached(3) >= reached(1)


def test_divergence_is_said_and_ends(caplog):
    model = planted("rgb", np.full((1, 4, 4, 3, 1), np.nan))
    with pytest.raises(ValueError, match="conv1 diverges at any step"):
        maximize(model, "conv1", [0], search=Search((1, 4, 4), iterations=1))
    assert "steps are halved to 4" in caplog.text


def test_stacks_are_windows_of_the_movie():
    fields = np.random.default_rng(0).normal(size=(1, 12, 2, 3, 2)).astype("float32")
    found = np.asarray(stacks(tf.constant(fields)))
    assert found.shape == (1, 3, 2, 3, 20)
    for t in range(3):
        for i in range(10):
            np.testing.assert_array_equal(
                found[:, t, ..., 2 * i : 2 * i + 2], fields[:, t + i]
            )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"endpoint": "relu9"}, "no endpoint 'relu9'; the nearest are"),
        ({"channels": [0, 99]}, "relu5 has units 0 to 63, got 99"),
        ({"channels": []}, "got none"),
        ({"maxima": [1.0, -2.0]}, "one positive number for each of 2 units"),
        ({"endpoint": "appearance/relu5", "smoothness": Smoothness()}, "sees no flow"),
    ],
)
def test_bad_requests(fusion, change, message):
    given = {"endpoint": "motion/relu5", "channels": [0, 1], **change}
    with pytest.raises(ValueError, match=message):
        maximize(fusion, **given)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Search, {"clip": (5, 0, 4)}, "three positive integers"),
        (Search, {"iterations": 0}, "iterations must be an integer of at least 1"),
        (Search, {"jitter": -1}, "jitter must be an integer of at least 0"),
        (Search, {"rate": 0}, "rate must be a positive number"),
        (Smoothness, {"kind": "4d"}, "accepted are '2d', '3d', '2d1d'"),
        (Smoothness, {"chi": -1}, "chi must be a number of at least 0"),
    ],
)
def test_bad_settings(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**settings)
