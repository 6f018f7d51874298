"""Suppression against the greedy loop and torchvision, proposals, classes, voting."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.test_boxes import boxes, overlap
from zoo import layers

RECORDED = Path(__file__).parent / "torchvision_ps_roi.npz"
compiled = pytest.mark.parametrize("xla", [False, True], ids=["plain", "xla"])


def greedy(boxes, scores, threshold, count):
    """Indices kept, one after the other."""
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if all(overlap(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(int(i))
    return kept[:count]


def lists(indices, valid):
    """The valid indices of each item; the others must come last and be 0."""
    indices, valid = np.array(indices), np.array(valid)
    assert not indices[~valid].any()
    assert all((np.diff(v.astype(int)) <= 0).all() for v in valid)
    return [i[v].tolist() for i, v in zip(indices, valid, strict=True)]


def batch(items, count, seed=0):
    rng = np.random.default_rng(seed)
    b = np.stack([boxes(count, seed + i) for i in range(items)])
    return b, rng.permuted(np.tile(np.arange(count), (items, 1)), axis=1).astype("f4")


@pytest.mark.parametrize(
    ("threshold", "count", "xla"),
    [(0.5, 40, False), (0.2, 300, False), (0.9, 7, False), (0.5, 40, True)],
)
def test_equals_the_greedy_loop(threshold, count, xla):
    b, s = batch(2, 200)  # more than a tile
    run = tf.function(lambda b, s: layers.nms(b, s, threshold, count), jit_compile=xla)
    expected = [greedy(x, y, threshold, count) for x, y in zip(b, s, strict=True)]
    assert lists(*run(b, s)) == expected


def test_equals_torchvision():
    recorded = np.load(RECORDED)
    b, s = recorded["nms/boxes"][None], recorded["nms/scores"][None]
    for threshold in (0.3, 0.5, 0.7):
        found = lists(*layers.nms(b, s, threshold, 600))
        assert found == [recorded[f"nms/{threshold}"].tolist()]


def test_long_chains_and_equal_scores():
    # Each box overlaps its neighbours only: every second one stays.
    x = np.arange(300, dtype="float32") * 4
    chain = np.stack([x, 0 * x, x + 10, 0 * x + 10], -1)[None]
    found = lists(*layers.nms(chain, -x[None], 0.3, 300))
    assert found == [list(range(0, 300, 2))]
    assert lists(*layers.nms(chain, 0 * x[None], 0.3, 300)) == found


def test_masked_and_broken_boxes_neither_stay_nor_suppress():
    one = np.array([0, 0, 10, 10], "float32")
    b = np.stack([one] * 6)[None]
    b[0, 1, 2], b[0, 2, 0] = np.nan, -np.inf
    s = np.array([[9, 8, 7, np.nan, -np.inf, 1]], "float32")
    mask = np.array([[False, True, True, True, True, True]])
    assert lists(*layers.nms(b, s, 0.5, 3, mask)) == [[5]]
    assert lists(*layers.nms(b, s, 0.5, 3, np.zeros((1, 6), bool))) == [[]]
    assert lists(*layers.nms(b[:, :0], s[:, :0], 0.5, 3)) == [[]]


# --- proposals -----------------------------------------------------------------------

TINY = {"stride": 8, "scales": (10.0, 20.0), "ratios": (1.0, 2.0)}


def heads(batch=2, rows=5, columns=7, seed=0):
    rng = np.random.default_rng(seed)
    objectness = rng.normal(size=(batch, rows, columns, 4)).astype("f4")
    deltas = rng.normal(size=(batch, rows, columns, 16)).astype("f4") * 0.3
    return objectness, deltas, np.zeros((batch, 37, 53, 3), "f4")


@compiled
def test_proposals_are_refined_clipped_filtered_and_suppressed(xla):
    objectness, deltas, frames = heads()
    options = {"count": 20, "pre_nms": 90, "iou_threshold": 0.6, "min_size": 6}
    layer = layers.Proposals(**options, **TINY)
    run = tf.function(lambda *x: layer(list(x)), jit_compile=xla)
    found, valid = (np.array(x) for x in run(objectness, deltas, frames))
    anchors = np.array(layers.anchors_of(5, 7, **TINY))
    for k in range(2):
        scores = objectness[k].reshape(-1)
        best = np.argsort(-scores, kind="stable")[:90]
        moved = layers.decode(anchors[best], deltas[k].reshape(-1, 4)[best])
        moved = np.clip(moved, 0, [53, 37, 53, 37])
        large = ((moved[:, 2:] - moved[:, :2]) >= 6).all(1)
        assert not large.all()
        kept = greedy(moved[large], scores[best][large], 0.6, 20)
        assert valid[k].sum() == len(kept)
        expected = moved[large][kept]
        np.testing.assert_allclose(found[k, : len(kept)], expected, atol=1e-4)
        assert not found[k, len(kept) :].any()


def test_no_gradient_and_no_proposal():
    objectness, deltas, frames = (tf.constant(x) for x in heads())
    layer = layers.Proposals(count=5, min_size=500, **TINY)
    with tf.GradientTape() as tape:
        tape.watch([objectness, deltas])
        found, valid = layer([objectness, deltas, frames])
    assert tape.gradient(found, [objectness, deltas]) == [None, None]
    assert not np.any(found) and not np.any(valid)
    found, valid = layer([objectness * np.nan, deltas, frames])
    assert not np.any(found) and not np.any(valid)


# --- classes and votes ---------------------------------------------------------------


def class_scores(count, classes, seed=3):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(classes + 1, 0.5), (2, count))[..., 1:].astype("f4")


@pytest.mark.parametrize(
    ("options", "xla"),
    [
        ({}, False),
        ({"per_class": 4, "min_score": 0.2}, False),
        ({"per_class": 4}, True),
    ],
)
def test_classes_are_suppressed_by_themselves(options, xla):
    b, _ = batch(2, 40)
    p = class_scores(40, 3)
    mask = np.arange(40) < np.array([[40], [25]])
    layer = layers.ClassNMS(iou_threshold=0.3, count=30, **options)
    run = tf.function(lambda *x: layer(list(x)), jit_compile=xla)
    found = {name: np.array(x) for name, x in run(b, p, mask).items()}
    for k, length in enumerate((40, 25)):
        expected = []
        for c in range(3):
            scores = p[k, :length, c]
            fine = np.flatnonzero(scores > options.get("min_score", 0))
            most = options.get("per_class", 40)
            kept = greedy(b[k, fine], scores[fine], 0.3, most)
            expected += [(scores[fine[i]], c, fine[i]) for i in kept]
        expected = sorted(expected, reverse=True)[:30]
        got = found["valid"][k]
        assert got.sum() == len(expected)
        columns = [found[n][k][got] for n in ("scores", "classes", "indices")]
        assert list(zip(*columns, strict=True)) == expected
        np.testing.assert_array_equal(
            found["boxes"][k][got], b[k][[i for *_, i in expected]]
        )
        assert (found["classes"][k][~got] == -1).all()
        assert not found["boxes"][k][~got].any()


def test_nothing_detected():
    b, p = batch(2, 4)[0], class_scores(4, 3)
    layer = layers.ClassNMS(count=9)
    mask = np.ones((2, 4), bool)
    for inputs in (
        [b, p, ~mask],
        [b * np.nan, p, mask],
        [b, p * np.nan, mask],
        [b[:, :0], p[:, :0], mask[:, :0]],
    ):
        found = layer(inputs)
        assert not np.any(found["valid"]) and not np.any(found["boxes"])
        assert found["boxes"].shape == (2, 9, 4)


def test_votes_are_weighted_means():
    candidates = boxes(40, 2, 60)
    kept = candidates[:3] + 1
    scores = np.random.default_rng(0).normal(size=(3, 40)).astype("f4")
    voted = 0
    for given in (scores, scores[0]):
        found = np.array(layers.vote(kept, candidates, given, 0.2))
        for i, row in enumerate(np.broadcast_to(given, (3, 40))):
            near = [overlap(kept[i], c) >= 0.2 for c in candidates]
            weights = (np.maximum(row, 0) + 1e-6) * near
            voted += sum(near)
            expected = weights @ candidates / weights.sum()
            np.testing.assert_allclose(found[i], expected, rtol=1e-4)
    assert voted > 6
    far = np.array([[500, 500, 600, 600]], "float32")
    broken = np.full((2, 4), np.nan, "float32")
    np.testing.assert_array_equal(layers.vote(far, broken, np.ones(2)), far)


# --- as parts of a network -----------------------------------------------------------


def test_saved_exported_and_of_any_size(tmp_path, policy="mixed_float16"):
    objectness = keras.Input((None, None, 4))
    deltas, frames = keras.Input((None, None, 16)), keras.Input((None, None, 3))
    probabilities = keras.Input((None, 3))
    rois, mask = layers.Proposals(9, 50, min_size=2, dtype=policy, **TINY)(
        [objectness, deltas, frames]
    )
    found = layers.ClassNMS(count=6, dtype=policy)([rois, probabilities, mask])
    assert rois.shape == (None, 9, 4) and found["classes"].shape == (None, 6)
    inputs = [objectness, deltas, frames, probabilities]
    model = keras.Model(inputs, {"rois": rois, "mask": mask, **found})
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported").serve
    for rows, columns in ((5, 7), (1, 2)):
        x = [*heads(2, rows, columns), class_scores(9, 3)]
        expected = model(x)
        kinds = {name: value.dtype.name for name, value in expected.items()}
        assert {kinds[n] for n in ("rois", "boxes", "scores")} == {"float32"}
        for other in (again(x), served(x)):
            for name, value in expected.items():
                np.testing.assert_allclose(other[name], value, atol=1e-4)
    configs = [[layer.get_config() for layer in m.layers] for m in (model, again)]
    assert configs[0] == configs[1]


B, P, M = np.zeros((1, 3, 4)), np.zeros((1, 3, 2)), np.ones((1, 3), bool)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: layers.nms(B, P[..., 0], 1.5, 3), "overlap between 0 and 1, got 1.5"),
        (lambda: layers.nms(B, P[..., 0], 0.5, 0), "count must be an integer"),
        (lambda: layers.vote(B, B, M, -1), "overlap between 0 and 1, got -1"),
        (lambda: layers.ClassNMS(iou_threshold=30), "iou_threshold must be"),
        (lambda: layers.ClassNMS(per_class=0), "per_class must be an integer"),
        (lambda: layers.ClassNMS()([B, P[0], M]), "ClassNMS .* takes .boxes"),
        (lambda: layers.Proposals(count=0), "count must be an integer"),
        (lambda: layers.Proposals(min_size=-1), "at least 0 pixels, got -1"),
        (lambda: layers.Proposals(scales=(0,)), "scales must be positive"),
        (
            lambda: layers.Proposals()([np.zeros((1, 2, 2, c)) for c in (9, 36, 3)]),
            r"objectness \[B, h, w, 15\]",
        ),
    ],
)
def test_errors_name_what_is_wrong(make, words):
    with pytest.raises(ValueError, match=words):
        make()
