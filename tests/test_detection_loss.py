"""The terms of eq. 8.1 against loops written from the equations."""

import keras
import numpy as np
import pytest

from tests.detection_cases import encoded, iou, smooth_l1, targets
from zoo.layers import anchors_of
from zoo.models import detection_loss as loss

RNG = np.random.default_rng(0)


def boxes_near(objects, count, spread=12):
    """Boxes [M, count, 4] around the objects [M, G, 4], some far off."""
    picks = RNG.integers(0, objects.shape[1], (len(objects), count))
    boxes = np.take_along_axis(objects, picks[..., None], 1)
    boxes = boxes + RNG.normal(0, spread, boxes.shape) * RNG.integers(
        0, 2, (*boxes.shape[:2], 1)
    )
    boxes[..., 2:] = np.maximum(boxes[..., 2:], boxes[..., :2] + 2)
    return boxes.astype("float32")


def objects():
    given = targets(batch=3, length=1, objects=4)
    return given["boxes"][:, 0], given["labels"][:, 0]


def cross_entropy(scores, label):
    return np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[label]


@pytest.mark.parametrize("count", [40, 300])
def test_region_losses_are_the_first_two_terms_of_eq_8_1(count):
    boxes, labels = objects()
    rois = boxes_near(boxes[:, :3], count)
    mask = RNG.random(rois.shape[:2]) < 0.9
    scores = RNG.normal(0, 1, (*mask.shape, 5)).astype("float32")
    deltas = RNG.normal(0, 1, rois.shape).astype("float32")
    found = loss.region_losses(
        rois, mask, scores, deltas, boxes, labels, lambda d: (d - 0.1) / 0.5
    )
    for m in range(3):
        rows = []
        for n in np.flatnonzero(mask[m]):
            overlap = [
                iou(rois[m, n], box) if label >= 0 else 0
                for box, label in zip(boxes[m], labels[m], strict=True)
            ]
            best = int(np.argmax(overlap))
            is_object = overlap[best] >= 0.5
            label = labels[m, best] + 1 if is_object else 0
            of_class, of_box = cross_entropy(scores[m, n], label), 0.0
            if is_object:
                target = (encoded(rois[m, n], boxes[m, best]) - 0.1) / 0.5
                of_box = smooth_l1(deltas[m, n] - target)
            rows.append((of_class + of_box, of_class, of_box, is_object))
        kept = sorted(rows, reverse=True)[: loss.HARD_EXAMPLES]
        assert {row[3] for row in kept} == {True, False}
        count_of_objects = sum(row[3] for row in kept)
        np.testing.assert_allclose(
            [x[m] for x in found],
            [
                sum(row[1] for row in kept) / len(kept),
                sum(row[2] for row in kept) / count_of_objects,
            ],
            rtol=1e-4,
        )


def test_proposal_losses_are_the_mean_of_drawing_256_anchors():
    """Ren's draw, repeated, has the same mean."""
    boxes, labels = objects()
    anchors = keras.ops.convert_to_numpy(
        anchors_of(6, 8, 16, (16, 24, 36, 54, 80), (1.0, 2.0, 0.5))
    )
    objectness = RNG.normal(0, 1, (3, 6, 8, 15)).astype("float32")
    deltas = RNG.normal(0, 0.5, (3, 6, 8, 60)).astype("float32")
    found = loss.proposal_losses(objectness, deltas, anchors, boxes, labels >= 0)
    for m in range(3):
        overlap = np.array(
            [[iou(a, b) for b in boxes[m, labels[m] >= 0]] for a in anchors]
        )
        positive = (overlap.max(1) >= 0.7) | (
            (overlap == overlap.max(0)) & (overlap > 0)
        ).any(1)
        negative = (overlap.max(1) < 0.3) & ~positive
        assert 0 < positive.sum() < 128
        scores = objectness[m].ravel()
        losses = np.where(positive, np.log1p(np.exp(-scores)), np.log1p(np.exp(scores)))
        draws = [
            np.r_[
                np.flatnonzero(positive),
                RNG.choice(np.flatnonzero(negative), 256 - positive.sum(), False),
            ]
            for _ in range(400)
        ]
        means = [losses[draw].mean() for draw in draws]
        error = np.std(means) / np.sqrt(len(means))
        assert abs(found[0][m] - np.mean(means)) < 5 * error + 1e-6
        box_loss = sum(
            smooth_l1(
                deltas[m].reshape(-1, 4)[n]
                - encoded(anchors[n], boxes[m, overlap[n].argmax()]),
                1 / 9,
            )
            for n in np.flatnonzero(positive)
        )
        np.testing.assert_allclose(found[1][m], box_loss / 256, rtol=1e-4)


def test_many_positive_anchors_are_thinned_to_half():
    anchors = np.tile([[0, 0, 32, 32]], (300, 1)).astype("float32")
    anchors[-100:] += 500
    boxes = np.array([[[0, 0, 32, 32]]], "float32")
    scores = np.zeros((1, 300, 1, 1), "float32")
    deltas = np.ones((1, 300, 1, 4), "float32")
    of_class, of_box = loss.proposal_losses(
        scores, deltas, anchors, boxes, np.array([[True]])
    )
    np.testing.assert_allclose(of_class, [np.log(2)], rtol=1e-5)
    np.testing.assert_allclose(of_box, [128 * 4 * (1 - 1 / 18) / 256], rtol=1e-5)


def test_track_loss_is_the_last_term_of_eq_8_1():
    """Objects in both frames only; of one that left and one that came, nothing."""
    given = targets(batch=1, objects=4)
    boxes, tracks = given["boxes"][0], given["tracks"][0].copy()
    tracks[1] = [2, 7, 0, -1]  # in another order; 1 has left, 7 has come
    deltas = RNG.normal(0, 1, (4, 4)).astype("float32")
    found = loss.track_loss(deltas[None], boxes[:1], boxes[1:], tracks[:1], tracks[1:])
    expected = [
        smooth_l1(deltas[0] - encoded(boxes[0, 0], boxes[1, 2])),
        smooth_l1(deltas[2] - encoded(boxes[0, 2], boxes[1, 0])),
    ]
    np.testing.assert_allclose(found, [np.mean(expected)], rtol=1e-5)


def test_without_objects_all_is_background():
    boxes, labels = objects()
    none = np.full_like(labels, -1)
    mask = np.ones((3, 20), bool)
    scores = RNG.normal(0, 1, (3, 20, 5)).astype("float32")
    of_class, of_box = loss.region_losses(
        boxes_near(boxes, 20), mask, scores, np.ones((3, 20, 4)), boxes, none, abs
    )
    expected = [np.mean([cross_entropy(s, 0) for s in frame]) for frame in scores]
    np.testing.assert_allclose(of_class, expected, rtol=1e-5)
    np.testing.assert_array_equal(of_box, 0)
    track = loss.track_loss(np.ones((3, 4, 4)), boxes, boxes, none, none)
    np.testing.assert_array_equal(track, 0)


def test_equal_losses_keep_no_more_than_the_count():
    kept = loss.hardest(np.ones((2, 300), "float32"), np.ones((2, 300)))
    np.testing.assert_array_equal(np.sum(kept, 1), 128)


def test_recall():
    boxes, labels = objects()
    proposals = boxes[:, :2] + 1
    mask = np.array([[True, True], [True, False], [False, False]])
    found, count = loss.recall(proposals, mask, boxes, labels >= 0)
    np.testing.assert_array_equal(found, [2, 1, 0])
    np.testing.assert_array_equal(count, [3, 3, 3])


def test_a_label_without_class_is_no_gift():
    """One-hot vectors of such labels are all zero, so that they would cost nothing."""
    losses = np.asarray(
        loss.softmax_loss(np.zeros((1, 3, 3), "float32"), np.array([[2, 3, -1]]))
    )
    assert losses[0, 0] == pytest.approx(np.log(3))
    assert np.isnan(losses[0, 1:]).all()
