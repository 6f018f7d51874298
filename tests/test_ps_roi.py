"""Position-sensitive pooling: torchvision's answers, formulas as loops, gradients."""

import itertools
import math
from fractions import Fraction
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo import layers

RECORDED = np.load(Path(__file__).parent / "torchvision_ps_roi.npz")
LAYERS = {"pool": layers.PSRoIPooling, "align": layers.PSRoIAlign}
SIZES = {"k7": (2, 7), "k3": (3, 3)}
both = pytest.mark.parametrize("kind", LAYERS)
compiled = pytest.mark.parametrize("xla", [False, True], ids=["plain", "xla"])


def with_gradient(layer, maps, rois, probe):
    """The output, and the gradient of sum(probe x output)."""
    with tf.GradientTape() as tape:
        tape.watch(maps)
        y = layer([maps, rois])
        value = tf.reduce_sum(tf.cast(y, tf.float32) * probe)
    return y, tape.gradient(value, maps)


@pytest.mark.parametrize(
    ("size", "kind", "xla"),
    [
        ("k7", "pool", False),
        ("k7", "align", False),
        ("k3", "pool", False),
        ("k3", "align", False),
        ("k7", "pool", True),
        ("k3", "align", True),
    ],
)
def test_equals_torchvision(size, kind, xla):
    maps, rois = (tf.constant(RECORDED[f"{size}/{x}"]) for x in ("maps", "rois"))
    names = ("probe", "output", "gradient")
    probe, output, gradient = (RECORDED[f"{size}/{kind}/{name}"] for name in names)
    layer = LAYERS[kind](*SIZES[size])
    run = tf.function(with_gradient, jit_compile=xla)
    found, slope = run(layer, maps, rois, probe)
    np.testing.assert_allclose(found, output, atol=1e-5)
    if kind == "pool":
        # torchvision leaves out the last row and column in the output only.
        maps = tf.pad(maps, [[0, 0], [0, 1], [0, 1], [0, 0]])
        _, slope = run(layer, maps, rois, probe)
        slope = slope[:, :-1, :-1]
    np.testing.assert_allclose(slope, gradient, atol=1e-5)


@compiled
@both
def test_graphs_round_as_single_operations_do(kind, xla):
    """Far from the origin, where a rounded quotient moves a bin."""
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(1, 38, 63, 49)).astype("f4")
    rois = rng.uniform(0, 1000, (1, 100, 4)).astype("f4")
    rois = np.sort(rois.reshape(1, 100, 2, 2), axis=2).reshape(1, 100, 4)
    layer = LAYERS[kind](1, 7)
    run = tf.function(lambda *x: layer(list(x)), jit_compile=xla)
    # XLA may fuse a product and a sum, which moves the points of the alignment.
    error = 3e-5 if xla else 1e-5 if kind == "pool" else 1e-6
    np.testing.assert_allclose(run(maps, rois), layer([maps, rois]), atol=error)


# --- the formulas --------------------------------------------------------------------


def released_bins(begin, end, bins, size):
    """(first, last) cell of each bin along an axis, in exact arithmetic."""

    def rounded(x):
        return math.floor(abs(x) + 0.5) * (1 if x > 0 else -1)

    start = Fraction(rounded(begin), 16)
    extent = max(Fraction(rounded(end) + 1, 16) - start, Fraction(1, 10))
    for i in range(bins):
        ends = start + i * extent / bins, start + (i + 1) * extent / bins
        yield tuple(
            min(max(x, 0), size) for x in (math.floor(ends[0]), math.ceil(ends[1]))
        )


def released(maps, rois, outputs, bins):
    """Means of channels (c k + i) k + j over the bins."""
    found = np.zeros((*rois.shape[:2], bins, bins, outputs))
    for b, n in itertools.product(*map(range, rois.shape[:2])):
        x1, y1, x2, y2 = (float(x) for x in rois[b, n])
        rows = list(released_bins(y1, y2, bins, maps.shape[1]))
        columns = list(released_bins(x1, x2, bins, maps.shape[2]))
        for i, j, c in itertools.product(range(bins), range(bins), range(outputs)):
            cells = maps[
                b, slice(*rows[i]), slice(*columns[j]), (c * bins + i) * bins + j
            ]
            found[b, n, i, j, c] = cells.mean() if cells.size else 0
    return found


@compiled
@pytest.mark.parametrize("size", SIZES)
def test_released_variant_equals_its_formula(size, xla):
    maps, rois = RECORDED[f"{size}/maps"], RECORDED[f"{size}/rois"].copy()
    rois[:, -3:] = [[0, 0, 111, 111], [16, 32, 127, 255], [-3.5, 2.5, 7.5, 8.5]]
    layer = layers.PSRoIPooling(*SIZES[size], released=True)
    run = tf.function(lambda *x: layer(list(x)), jit_compile=xla)
    expected = released(maps, rois, *SIZES[size])
    np.testing.assert_allclose(run(maps, rois), expected, atol=1e-5)


def test_a_whole_map_of_its_own_for_every_bin():
    # Map c, i, j is constant: the answer is that constant, whatever the box.
    values = np.arange(2 * 9, dtype="float32").reshape(2, 3, 3)
    maps = np.broadcast_to(values.reshape(-1), (1, 6, 8, 18))
    rois = np.array([[[0, 0, 100, 80], [20, 20, 50, 60]]], "float32")
    for layer in (layers.PSRoIPooling(2, 3), layers.PSRoIAlign(2, 3)):
        found = layer([maps, rois])
        for n in range(2):
            np.testing.assert_allclose(
                found[0, n], values.transpose(1, 2, 0), atol=1e-4
            )


@both
def test_gradients_equal_finite_differences(kind):
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(2, 9, 11, 2 * 9)).astype("f4")
    first = rng.uniform(-20, 120, (2, 6, 2))
    rois = np.concatenate([first, first + rng.uniform(0, 150, (2, 6, 2))], -1)
    rois = rois.astype("f4")
    layer = LAYERS[kind](2, 3)
    probe = rng.normal(size=(2, 6, 3, 3, 2)).astype("f4")
    _, slope = with_gradient(layer, tf.constant(maps), tf.constant(rois), probe)
    # Linear in the maps: the difference over a large step is exact.
    direction = rng.normal(size=maps.shape).astype("f4")
    ends = [layer([maps + s * direction, rois]) for s in (0.5, -0.5)]
    expected = np.sum((ends[0] - ends[1]) * probe)
    np.testing.assert_allclose(np.sum(slope * direction), expected, rtol=1e-4)


@pytest.mark.parametrize(
    "layer",
    [
        layers.PSRoIPooling(1, 3),
        layers.PSRoIPooling(1, 3, released=True),
        layers.PSRoIAlign(1, 3),
    ],
    ids=["pool", "released", "align"],
)
def test_boxes_that_lie_nowhere_are_zero(layer):
    maps = np.ones((1, 4, 5, 9), "float32")
    nan, inf = np.nan, np.inf
    rois = [
        *[[nan, 0, 30, 30], [0, 0, inf, 30], [0, -inf, 30, 30]],
        *[[900, 0, 950, 40], [-900, -900, -800, -800], [3e30, 3e30, 3.1e30, 3.1e30]],
    ]
    assert not np.any(layer([maps, np.array([rois], "float32")]))
    nothing = layer([maps, np.zeros((1, 0, 4), "float32")])
    assert nothing.shape == (1, 0, 3, 3, 1)
    for box in ([20, 20, 20, 20], [50, 50, 20, 20], [-1e9, -1e9, 1e9, 1e9]):
        assert np.isfinite(layer([maps, np.array([[box]], "float32")])).all()


def test_large_values_cost_little_precision():
    """An offset costs nothing; a smooth hill, whose sums grow large, very little."""
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(1, 38, 63, 9)).astype("f4").round(2)
    rois = [[[0, 0, 40, 40], [900, 500, 940, 540], [0, 0, 999, 599], [16, 80, 99, 99]]]
    rois = np.array(rois, "f4")
    y, x = np.mgrid[:38, :63].astype("f4")
    hill = 10 * np.exp(-((x - 45) ** 2 + (y - 25) ** 2) / 200)[None, :, :, None]
    layer = layers.PSRoIPooling(1, 3, released=True)
    for added, error in ((100, 3e-5), (hill, 2e-5 * hill.max())):
        large = (maps + added).astype("f4")
        expected = released(large.astype("f8"), rois, 1, 3)
        np.testing.assert_allclose(layer([large, rois]), expected, atol=error)


# --- as part of a network ------------------------------------------------------------


@both
def test_saved_exported_and_of_any_size(kind, tmp_path):
    options = {"pool": {"released": True}, "align": {"sampling_ratio": 3}}[kind]
    layer = LAYERS[kind](2, 3, 1 / 8, **options)
    maps, rois = keras.Input((None, None, 18)), keras.Input((None, 4))
    pooled = layer([maps, rois])
    assert pooled.shape == (None, None, 3, 3, 2)
    model = keras.Model([maps, rois], pooled)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert again.layers[-1].get_config() == layer.get_config()
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported").serve
    rng = np.random.default_rng(0)
    for items, rows, columns, count in ((2, 5, 9, 4), (1, 1, 1, 1), (3, 8, 2, 2)):
        x = [
            rng.normal(size=(items, rows, columns, 18)).astype("f4"),
            rng.uniform(0, 60, (items, count, 4)).astype("f4"),
        ]
        expected = layer(x)
        np.testing.assert_array_equal(again(x), expected)
        np.testing.assert_allclose(served(x), expected, atol=1e-6)


@both
def test_learns_in_a_graph_of_unknown_sizes(kind):
    """No warning of a gradient whose size is unknown."""
    layer = LAYERS[kind](2, 3)
    run = tf.function(
        with_gradient.__get__(layer),
        input_signature=[
            tf.TensorSpec((None, None, None, 18)),
            tf.TensorSpec((None, None, 4)),
            tf.TensorSpec((None, None, 3, 3, 2)),
        ],
    )
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(2, 5, 6, 18)).astype("f4")
    rois = np.tile([[0, 0, 50, 60]], (2, 3, 1)).astype("f4")
    _, slope = run(maps, rois, np.ones((2, 3, 3, 3, 2), "f4"))
    assert slope.shape == maps.shape and np.any(slope)


@both
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_keeps_the_coordinates(kind, dtype):
    maps, rois = RECORDED["k3/maps"], RECORDED["k3/rois"] + np.float32(0.07)
    full = LAYERS[kind](*SIZES["k3"])
    half = LAYERS[kind](*SIZES["k3"], dtype=f"mixed_{dtype}")
    maps = tf.cast(maps, dtype)
    found = half([maps, rois])
    assert found.dtype == dtype
    expected = tf.cast(full([tf.cast(maps, "float32"), rois]), dtype)
    np.testing.assert_array_equal(found, expected)


MAPS, ROIS = np.zeros((1, 4, 5, 18)), np.zeros((1, 2, 4))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: layers.PSRoIPooling(0), "output_dim must be an integer of at least 1"),
        (lambda: layers.PSRoIPooling(2, 0), "group_size must be an integer"),
        (lambda: layers.PSRoIAlign(2, 3, 0), "spatial_scale, cells .* got 0"),
        (lambda: layers.PSRoIAlign(2, sampling_ratio=0), "sampling_ratio must be"),
        (lambda: layers.PSRoIPooling(3, 3)([MAPS, ROIS]), r"maps \[B, H, W, 27\]"),
        (lambda: layers.PSRoIAlign(2, 3)([MAPS, ROIS[0]]), "fold the frames"),
    ],
)
def test_errors_name_what_is_wrong(make, words):
    with pytest.raises(ValueError, match=words):
        make()
