"""Boxes and anchors: overlap, eq. 8.2-8.3 and back, clipping, the 15 anchors."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo import layers


def boxes(count, seed=0, largest=80):
    rng = np.random.default_rng(seed)
    first = rng.uniform(0, 100, (count, 2))
    sizes = rng.uniform(1, largest, (count, 2))
    return np.concatenate([first, first + sizes], -1).astype("float32")


def overlap(a, b):
    """Intersection over union of two boxes."""
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return width * height / (sum(areas) - width * height)


def test_overlap_of_all_pairs():
    a, b = boxes(6, 1).reshape(2, 3, 4), boxes(8, 2).reshape(2, 4, 4)
    found = np.array(layers.iou(a, b))
    assert found.shape == (2, 3, 4)
    for k, i, j in itertools.product(range(2), range(3), range(4)):
        assert found[k, i, j] == pytest.approx(overlap(a[k, i], b[k, j]), rel=1e-5)
    np.testing.assert_allclose(np.diag(layers.iou(a[0], a[0])), 1)


def test_empty_boxes_overlap_with_nothing():
    empty = np.array([[0, 0, 0, 0], [5, 5, 5, 9], [9, 9, 4, 4]], "float32")
    everything = np.concatenate([empty, [[0, 0, 20, 20]]]).astype("float32")
    np.testing.assert_array_equal(layers.iou(empty, everything), np.zeros((3, 4)))
    np.testing.assert_array_equal(layers.area(everything), [0, 0, 0, 400])


def test_deltas_are_those_of_the_equations():
    reference, moved = boxes(5, 1), boxes(5, 2)
    centre = [(b[:, :2] + b[:, 2:]) / 2 for b in (reference, moved)]
    size = [b[:, 2:] - b[:, :2] for b in (reference, moved)]
    shift = (centre[1] - centre[0]) / size[0]
    expected = np.concatenate([shift, np.log(size[1] / size[0])], -1)
    deltas = layers.encode(reference, moved)
    np.testing.assert_allclose(deltas, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(layers.decode(reference, deltas), moved, atol=1e-3)


def test_wild_deltas_and_empty_boxes_stay_finite():
    reference = np.array([[10, 10, 10, 10], [0, 0, 10, 10]], "float32")
    real = np.array([[0, 0, 5, 5], [3, 3, 3, 3]], "float32")
    np.testing.assert_array_equal(layers.encode(reference, real), np.zeros((2, 4)))
    wild = np.array([[1, 1, 1e4, 1e4], [0, 0, 1e4, -1e4]], "float32")
    found = np.array(layers.decode(reference, wild))
    np.testing.assert_array_equal(found[0], reference[0])
    np.testing.assert_allclose(found[1], [5 - 312.5, 5, 5 + 312.5, 5], rtol=1e-5)


def test_gradients_of_empty_boxes_are_finite():
    reference, moved = tf.zeros((3, 4)), tf.constant(boxes(3))
    with tf.GradientTape() as tape:
        tape.watch([reference, moved])
        value = tf.reduce_sum(layers.encode(reference, moved))
        value += tf.reduce_sum(layers.iou(reference, moved))
    assert all(np.isfinite(g).all() for g in tape.gradient(value, [reference, moved]))


def test_clipping():
    found = layers.clip([[-5, 3, 120, 70], [130, -9, 140, -2]], 60, 100.0)
    np.testing.assert_array_equal(found, [[0, 3, 100, 60], [100, 0, 100, 0]])


def test_transform_removes_the_normalisation():
    reference, moved = boxes(4, 1), boxes(4, 2)
    means, stds = (0.0, 0.1, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4)
    normalised = (np.array(layers.encode(reference, moved)) - means) / stds
    found = layers.BoxTransform(means, stds)([reference, normalised])
    np.testing.assert_allclose(found, moved, atol=1e-3)


def test_released_transform_lies_half_a_pixel_up_and_left():
    x1, y1, x2, y2 = box = np.array([10, 20, 29, 49], "float32")  # 20 x 30 pixels
    layer = layers.BoxTransform(released=True)
    np.testing.assert_allclose(layer([box, np.zeros(4)]), box - 0.5)
    dx, dy, dw, dh = deltas = np.array([0.3, -0.2, 0.1, 0.4], "float32")
    w, h = x2 - x1 + 1, y2 - y1 + 1
    x, y = dx * w + x1 + 0.5 * w - 1, dy * h + y1 + 0.5 * h - 1
    w, h = w * np.exp(dw), h * np.exp(dh)
    expected = [
        x - 0.5 * (w - 1),
        y - 0.5 * (h - 1),
        x + 0.5 * (w - 1),
        y + 0.5 * (h - 1),
    ]
    np.testing.assert_allclose(layer([box, deltas]), expected, rtol=1e-5)


def test_anchors_are_fifteen_in_order_around_the_centre_of_each_cell():
    sides = [16 * 2 ** (p / 2) for p in (1, 3, 5, 7, 9)]
    np.testing.assert_allclose(sides, [22.63, 45.25, 90.51, 181.02, 362.04], atol=5e-3)
    root = np.sqrt(2)
    shapes = [(s, s) for s in sides]
    shapes += [(root * s, s / root) for s in sides] + [
        (s / root, root * s) for s in sides
    ]
    found = np.array(layers.anchors_of(2, 3)).reshape(2, 3, 15, 4)
    for y, x, a in itertools.product(range(2), range(3), range(15)):
        w, h = shapes[a]
        # (side - 1) / 2 around x * 16 + 7.5, the last pixel included.
        cx, cy = 16 * x + 7.5, 16 * y + 7.5
        first = [cx - (w - 1) / 2, cy - (h - 1) / 2]
        last = [cx + (w - 1) / 2 + 1, cy + (h - 1) / 2 + 1]
        np.testing.assert_allclose(found[y, x, a], first + last, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_saved_of_any_size_and_in_full_precision(policy, tmp_path):
    features, deltas = keras.Input((None, None, 2)), keras.Input((None, 4))
    anchors = layers.Anchors(8, (10, 30), (1, 3), dtype=policy)(features)
    anchors = keras.ops.expand_dims(anchors, 0)
    transform = layers.BoxTransform(stds=(0.1, 0.2, 0.3, 0.4), dtype=policy)
    moved = transform([anchors, deltas])
    model = keras.Model([features, deltas], moved)
    assert moved.dtype == "float32"
    x = np.zeros((1, 100, 3, 2), "float32")
    d = np.zeros((1, 1200, 4), "float32")
    expected = layers.anchors_of(100, 3, 8, (10, 30), (1, 3))[None]
    np.testing.assert_allclose(model([x, d]), expected, atol=1e-4)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(again([x, d]), model([x, d]))
    kinds = (layers.Anchors, layers.BoxTransform)
    configs = [
        [layer.get_config() for layer in m.layers if isinstance(layer, kinds)]
        for m in (model, again)
    ]
    assert len(configs[0]) == 2 and configs[0] == configs[1]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: layers.BoxTransform(means=(1, 2)), "means must be four numbers"),
        (
            lambda: layers.BoxTransform()([np.zeros((2, 4)), np.zeros((2, 8))]),
            "take the last four",
        ),
        (lambda: layers.Anchors(0), "stride must be positive, got 0"),
        (lambda: layers.Anchors(scales=()), "scales must be positive numbers"),
        (lambda: layers.Anchors(ratios=(1, -2)), "ratios must be positive"),
        (lambda: layers.Anchors()(np.zeros((1, 2, 3, 3, 2))), "fold the frames"),
    ],
)
def test_errors_name_what_is_wrong(make, words):
    with pytest.raises(ValueError, match=words):
        make()
