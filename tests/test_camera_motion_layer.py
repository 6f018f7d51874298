"""The camera's motion out of flow fields: against homographies that are known."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.moving_cameras import flow_of, homography, patch_of
from zoo.layers import RemoveCameraMotion

SIZES = [(120, 161), (57, 91), (91, 57), (256, 340)]


def scene(size, share, noise=0.1, coherent=True, seed=0):
    """(flow, camera's part, mask of what moves by itself, its own motion)."""
    rng = np.random.default_rng(seed)
    camera = flow_of(homography(rng, size), size)
    own = np.zeros((*size, 2))
    if coherent:
        mask = patch_of(rng, size, share)
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(1.5, 8)
        own[mask] = length * np.cos(angle), length * np.sin(angle)
    else:
        mask = rng.uniform(size=size) < share
        own[mask] = rng.uniform(-10, 10, (mask.sum(), 2))
    flow = camera + own + rng.normal(0, noise, own.shape)
    return flow.astype("float32"), camera, mask, own


def scenes(size, share, count=8, **kwargs):
    made = [scene(size, share, seed=s, **kwargs) for s in range(count)]
    return [np.stack(part) for part in zip(*made, strict=True)]


def distance(a, b):
    return np.hypot(*np.moveaxis(np.asarray(a, "float64") - b, -1, 0))


# --- what it finds -------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("coherent", [True, False], ids=["patch", "everywhere"])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_what_moves_by_itself_remains(size, share, coherent):
    """Residual of the background below 0.1 pixels, own motion kept within 0.3."""
    flow, _, mask, own = scenes(size, share, coherent=coherent)
    left = tf.function(RemoveCameraMotion())(flow)
    for i in range(len(flow)):
        error = distance(left[i], own[i])
        # The noise itself has a median length of 0.118; the model's error is below.
        vector = np.median((np.asarray(left[i]) - own[i])[~mask[i]], axis=0)
        assert np.hypot(*vector) < 0.05
        assert np.median(error[~mask[i]]) < 0.15
        if mask[i].any():
            assert np.median(error[mask[i]]) < 0.3


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_without_noise_it_is_exact(share):
    flow, camera, _, own = scenes((90, 120), share, noise=0.0)
    left = RemoveCameraMotion()(flow)
    error = distance(left, own)
    assert np.median(error) < 1e-3 and error.max() < 2e-2


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_homography_of_pixels(size):
    """H takes columns and rows of the first frame to those of the second."""
    rng = np.random.default_rng(3)
    truth = np.stack([homography(rng, size) for _ in range(4)])
    flow = np.stack([flow_of(h, size) for h in truth]).astype("float32")
    layer = RemoveCameraMotion()
    found, share = layer.fit(flow)
    assert found.shape == (4, 3, 3) and np.all(np.asarray(share) == 1)
    explained = np.stack([flow_of(h, size) for h in np.asarray(found, "float64")])
    assert distance(explained, flow).max() < 5e-3
    assert distance(flow - layer(flow), flow).max() < 5e-3
    corner = np.abs(np.asarray(found) - truth)[:, :2, 2]
    assert corner.max() < 1e-2


def test_fields_of_a_batch_do_not_meet():
    flow, *_ = scenes((60, 80), 0.3, count=4)
    layer = RemoveCameraMotion()
    alone = np.concatenate([layer(flow[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(layer(flow), alone, atol=1e-4)


def test_no_camera_motion_is_kept_out():
    """A camera at rest: the disc's motion stays, and nothing is added around it."""
    own = np.zeros((1, 64, 85, 2), "float32")
    own[:, 10:40, 20:50] = 3, -2
    np.testing.assert_array_equal(RemoveCameraMotion()(own), own)


# --- where it does nothing -----------------------------------------------------------


def untouched(flow, **kwargs):
    layer = RemoveCameraMotion(**kwargs)
    matrix, share = layer.fit(flow)
    np.testing.assert_array_equal(layer(flow), flow)
    np.testing.assert_array_equal(matrix, np.broadcast_to(np.eye(3), matrix.shape))
    return np.asarray(share)


def test_motion_of_no_camera_stays():
    rng = np.random.default_rng(0)
    flow = rng.uniform(-20, 20, (3, 60, 80, 2)).astype("float32")
    assert np.all(untouched(flow) < 0.1)


def test_the_share_asked_for_decides():
    flow, _, mask, _ = scenes((60, 80), 0.4, count=2, noise=0.0)
    share = untouched(flow, least=0.7)
    np.testing.assert_allclose(share, 1 - mask.mean(axis=(1, 2)), atol=0.06)
    assert np.abs(RemoveCameraMotion(least=0.5)(flow) - flow).max() > 1


def test_every_field_decides_for_itself():
    rng = np.random.default_rng(1)
    wild = rng.uniform(-20, 20, (60, 80, 2)).astype("float32")
    calm = flow_of(homography(rng, (60, 80)), (60, 80)).astype("float32")
    left = RemoveCameraMotion()(np.stack([wild, calm, wild]))
    np.testing.assert_array_equal(left[0], wild)
    np.testing.assert_array_equal(left[2], wild)
    assert np.abs(left[1]).max() < 1e-2


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (7, 40), (40, 7)], ids=str)
def test_small_fields_stay(size):
    """Eight parameters would explain anything."""
    flow = np.random.default_rng(0).normal(size=(2, *size, 2)).astype("float32")
    untouched(flow)


@pytest.mark.parametrize("value", [0.0, 3.0, -20.0, 1e4, 1e30])
def test_constant_fields(value):
    flow = np.full((2, 16, 24, 2), value, "float32")
    left = np.asarray(RemoveCameraMotion()(flow))
    assert np.isfinite(left).all()
    if abs(value) <= 20:
        assert np.abs(left).max() < 1e-3


def test_values_that_are_no_numbers_count_for_nothing():
    flow, _, mask, own = scenes((60, 80), 0.2, count=1)
    broken = flow.copy()
    broken[:, ::3, ::2] = np.nan
    broken[:, 1::7] = np.inf
    fine = np.isfinite(broken).all(axis=-1)
    left = np.asarray(RemoveCameraMotion()(broken))
    assert np.isfinite(left[fine]).all() and not np.isfinite(left[~fine]).any()
    assert np.median(distance(left, own)[fine & ~mask]) < 0.15
    nothing = np.full((1, 20, 20, 2), np.nan, "float32")
    matrix, share = RemoveCameraMotion().fit(nothing)
    np.testing.assert_array_equal(matrix[0], np.eye(3))
    assert share[0] == 0


def test_empty_batch():
    assert RemoveCameraMotion()(np.zeros((0, 20, 30, 2), "float32")).shape[0] == 0


# --- graphs, files, precision --------------------------------------------------------


def test_traced_once_for_all_sizes():
    layer = RemoveCameraMotion()
    spec = tf.TensorSpec([None, None, None, 2], tf.float32)
    traced = tf.function(layer, input_signature=[spec])
    for size in SIZES[:3]:
        flow, *_ = scenes(size, 0.3, count=2)
        np.testing.assert_allclose(traced(flow), layer(flow), atol=2e-3)
    assert traced.experimental_get_tracing_count() == 1


def test_compiled_by_xla():
    flow, *_ = scenes((60, 80), 0.3, count=2)
    layer = RemoveCameraMotion()
    compiled = tf.function(layer, jit_compile=True)
    np.testing.assert_allclose(compiled(flow), layer(flow), atol=2e-3)


def test_saved_and_exported(tmp_path):
    x = keras.Input((None, None, 2))
    model = keras.Model(x, RemoveCameraMotion(grid=16, tolerance=2, least=0.5)(x))
    assert model.output_shape == (None, None, None, 2)
    flow, *_ = scenes((50, 70), 0.2, count=2)
    model.save(tmp_path / "m.keras")
    reloaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(reloaded(flow), model(flow))
    config = reloaded.layers[-1].get_config()
    assert (config["grid"], config["tolerance"], config["least"]) == (16, 2.0, 0.5)
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(served.serve(flow), model(flow), atol=2e-3)


def test_stacks_fold_their_time_into_the_batch():
    """Ten fields of a stack, each with a motion of its own."""
    flow, _, _, own = scenes((40, 56), 0.2, count=10, noise=0.0)
    stack = np.moveaxis(flow, 0, 2).reshape(1, 1, 40, 56, 20)
    fields = np.moveaxis(stack.reshape(40, 56, 10, 2), 2, 0)
    assert np.median(distance(RemoveCameraMotion()(fields), own)) < 1e-2


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_half_precision_loses_only_the_last_rounding(policy):
    flow, *_ = scenes((60, 80), 0.3, count=2)
    expected = np.asarray(RemoveCameraMotion()(flow))
    left = RemoveCameraMotion(dtype=policy)(flow)
    assert left.dtype == policy.removeprefix("mixed_")
    bits = 8 if "bfloat16" in policy else 11
    allowed = np.abs(expected) * 2.0**-bits + 2e-3
    assert (np.abs(np.asarray(tf.cast(left, "float32")) - expected) <= allowed).all()
    half = RemoveCameraMotion(dtype=policy)(tf.cast(flow, left.dtype))
    assert np.isfinite(np.asarray(tf.cast(half, "float32"))).all()


def test_double_precision(float64):
    flow, _, _, own = scenes((60, 80), 0.3, count=2, noise=0.0)
    flow = own + np.stack(
        [flow_of(homography(np.random.default_rng(9), (60, 80)), (60, 80))] * 2
    )
    left = RemoveCameraMotion()(flow)
    assert left.dtype == "float64"
    assert distance(left, own).max() < 1e-3


def test_gradient_is_that_of_the_flow_alone():
    flow = tf.constant(scenes((40, 56), 0.2, count=1)[0])
    with tf.GradientTape() as tape:
        tape.watch(flow)
        y = tf.reduce_sum(RemoveCameraMotion()(flow) * 3)
    np.testing.assert_array_equal(tape.gradient(y, flow), np.full(flow.shape, 3.0))


# --- errors --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RemoveCameraMotion(grid=3), "grid must be at least 4, got 3"),
        (lambda: RemoveCameraMotion(grid=8.5), "grid must be an integer .* got 8.5"),
        (lambda: RemoveCameraMotion(tolerance=0), "above 0 pixels, got 0"),
        (lambda: RemoveCameraMotion(tolerance=float("nan")), "above 0 pixels, got nan"),
        (lambda: RemoveCameraMotion(least=0), r"share in \(0, 1\], got 0"),
        (lambda: RemoveCameraMotion(least=1.5), r"share in \(0, 1\], got 1.5"),
        (
            lambda: RemoveCameraMotion().build((None, 5, 9, 7, 2)),
            r"takes fields \[B, H, W, 2\], got shape .* Fold the time",
        ),
        (
            lambda: RemoveCameraMotion()(np.zeros((1, 9, 9, 20), "float32")),
            r"takes fields \[B, H, W, 2\]",
        ),
        (
            lambda: RemoveCameraMotion()(np.full((1, 9, 9, 2), 128, "uint8")),
            "takes flow in pixels, floats, got uint8. Decode 8-bit codes first",
        ),
        (
            lambda: RemoveCameraMotion().fit(np.zeros((9, 9, 2), "float32")),
            r"takes fields \[B, H, W, 2\]",
        ),
    ],
)
def test_errors_say_what_to_do(make, message):
    with pytest.raises(ValueError, match=message):
        make()
