"""Average precision of VID: by hand, and against loops written from the kit's text."""

import itertools
import json
from operator import not_

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from tests.tube_references import overlap
from zoo.evaluation.detection import (
    Detections,
    Objects,
    VidEvaluation,
    evaluate_vid,
    proposal_recall,
)
from zoo.evaluation.motion import motion_iou
from zoo.evaluation.tube_frames import by_frame
from zoo.evaluation.tubes import FrameDetections, Tracklets, link

CLASSES = ("fox", "whale", "zebra")
LIMITS = {"all": (0, 1), "slow": (0.9, 1), "medium": (0.7, 0.9), "fast": (0, 0.7)}


# --- the official rules once more, detection by detection -----------------------------


def naive_motion(frames):
    """{(frame, place): motion IoU}."""
    found = {}
    for frame, objects in frames.items():
        for place, track in enumerate(objects.tracks):
            values = [
                overlap(objects.boxes[place].tolist(), other.boxes[k].tolist())
                for near, other in frames.items()
                for k, number in enumerate(other.tracks)
                if number == track and 0 < abs(near - frame) <= 10
            ]
            found[frame, place] = sum(values) / len(values) if values else 0.0
    return found


def naive_precision(detections, annotations, label, limits):
    """Average precision of a class, and its number of objects; NaN if there is none."""
    motions = {v: naive_motion(frames) for v, frames in annotations.items()}
    everything = [m for of_video in motions.values() for m in of_video.values()]
    empty = sum(limits[0] <= m <= limits[1] for m in everything) / max(
        len(everything), 1
    )
    empty = 1.0 if limits == (0, 1) else empty
    rows, positives = [], 0
    for video, frames in annotations.items():
        for frame, objects in frames.items():
            boxes = [box.tolist() for box in objects.boxes]
            other = [
                not limits[0] <= motions[video][frame, k] <= limits[1]
                for k in range(len(boxes))
            ]
            if label in objects.ignored:
                continue
            positives += sum(
                c == label and not o for c, o in zip(objects.labels, other, strict=True)
            )
            found = detections.get(video, {}).get(frame)
            if found is None:
                continue
            mine = [n for n in range(len(found.labels)) if found.labels[n] == label]
            taken = set()
            for n in sorted(mine, key=lambda n: -found.scores[n]):
                overlaps = [overlap(found.boxes[n].tolist(), box) for box in boxes]
                best = None
                for k, value in enumerate(overlaps):
                    width, height = np.diff(np.reshape(boxes[k], (2, 2)), axis=0)[0]
                    small = width * height / ((width + 10) * (height + 10))
                    if objects.labels[k] != label or k in taken:
                        continue
                    if value >= min(0.5, small) and (
                        best is None or value > overlaps[best]
                    ):
                        best = k
                right = wrong = 0.0
                if best is not None:
                    taken.add(best)
                    right = float(not other[best])
                elif not boxes:
                    wrong = empty
                else:
                    of = max([-1, *itertools.compress(overlaps, map(not_, other))])
                    no = max([-1, *itertools.compress(overlaps, other)])
                    share = sum(other) / len(other)
                    wrong = 1.0 if of > no else 0.0 if no > of else share
                rows.append((found.scores[n], right, wrong))
    if not positives:
        return float("nan"), 0
    rows.sort(key=lambda row: -row[0])
    points, right, wrong = [], 0.0, 0.0
    for _, r, w in rows:
        right, wrong = right + r, wrong + w
        points.append((right / positives, right / (right + wrong) if right else 0.0))
    area = before = 0.0
    for n, (recall, _) in enumerate(points):
        area += (recall - before) * max(p for _, p in points[n:])
        before = recall
    return area, positives


def random_set(seed, videos=5, frames=12):
    """Objects that move at different speeds, detections that find many of them."""
    rng = np.random.default_rng(seed)
    detections, annotations = {}, {}
    for video in range(videos):
        count = rng.integers(0, 4)
        corner = rng.integers(0, 150, (count, 2))
        size = rng.choice([6, 12, 40, 80], (count, 2))
        speed = rng.choice([0, 0.5, 3, 20], (count, 1), p=[0.2, 0.5, 0.2, 0.1])
        labels = rng.integers(0, 2, count)
        found, objects = {}, {}
        for frame in range(0, 2 * frames, 2):
            seen = rng.random(count) < 0.8
            start = corner + frame * speed
            boxes = np.hstack([start, start + size])[seen]
            objects[frame] = Objects(
                boxes, labels[seen], np.flatnonzero(seen), (1,) * (rng.random() < 0.1)
            )
            near = np.repeat(boxes, 2, axis=0)
            near = near + rng.integers(-4, 5, near.shape)
            near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
            far = rng.integers(0, 100, (3, 2))
            near = np.vstack([near, np.hstack([far, far + 30])])
            guess = np.concatenate([np.repeat(labels[seen], 2), rng.integers(0, 3, 3)])
            # No two scores are equal, so that no order is left open.
            scores = rng.permutation(len(near)) + rng.random(len(near))
            found[frame] = Detections(near, guess, scores)
        detections[f"video {video}"] = found
        annotations[f"video {video}"] = objects
    return detections, annotations


@pytest.mark.parametrize("seed", range(8))
def test_precision_is_that_of_the_official_rules(seed):
    detections, annotations = random_set(seed)
    results = evaluate_vid(detections, annotations, CLASSES)
    for speed, limits in LIMITS.items():
        for label in range(len(CLASSES)):
            expected, count = naive_precision(detections, annotations, label, limits)
            assert results.objects[speed][label] == count
            assert results.precision[speed][label] == pytest.approx(
                expected, abs=1e-12 if speed == "all" else 1e-7, nan_ok=True
            )


def test_the_random_sets_have_every_case():
    """Else the comparison above would prove little."""
    sets = [evaluate_vid(*random_set(seed), CLASSES) for seed in range(8)]
    for speed in LIMITS:
        values = np.concatenate([r.precision[speed] for r in sets])
        assert (values[np.isfinite(values)] % 1 > 0).sum() >= 4


@pytest.mark.parametrize("seed", range(3))
def test_area_is_that_of_the_curve_of_another_library(seed):
    """One object a frame, found or not: the curve can be had from scikit-learn."""
    rng = np.random.default_rng(seed)
    right, scores = rng.random(80) < 0.4, rng.permutation(80) / 80
    box, far = [[0, 0, 50, 50]], [[200, 200, 250, 250]]
    annotations = {n: Objects(box, [0]) for n in np.flatnonzero(right).tolist()}
    annotations |= {n: Objects([], []) for n in range(80) if n not in annotations}
    detections = {
        n: Detections(box if r else far, [0], [s])
        for n, (r, s) in enumerate(zip(right, scores, strict=True))
    }
    found = evaluate_vid({"v": detections}, {"v": annotations}, CLASSES, by_speed=False)
    precision, recall, _ = precision_recall_curve(right, scores)
    precision = np.maximum.accumulate(precision)  # recalls descend
    # The point of recall 0 is scikit-learn's own: its step has no detection.
    expected = np.sum(-np.diff(recall) * precision[:-1])
    assert found.precision["all"][0] == pytest.approx(expected)
    assert found.mean() == pytest.approx(expected)


# --- by hand --------------------------------------------------------------------------


def one_frame(boxes, labels, scores, targets, names, ignored=()):
    """Precision of one frame, [C]."""
    found = evaluate_vid(
        {"v": {0: Detections(np.array(boxes), labels, scores)}},
        {"v": {0: Objects(np.array(targets), names, None, ignored)}},
        CLASSES,
        by_speed=False,
    )
    return found.precision["all"].tolist()


def test_a_wrong_one_before_the_right_one_halves_the_precision():
    square = [0, 0, 100, 100]
    boxes = [[300, 0, 400, 100], square]
    assert one_frame(boxes, [0, 0], [0.9, 0.8], [square], [0])[0] == 0.5
    assert one_frame(boxes, [0, 0], [0.8, 0.9], [square], [0])[0] == 1.0


def test_an_object_is_found_once():
    square, close = [0, 0, 100, 100], [0, 0, 100, 90]
    # The surer one takes it although the other fits better.
    found = one_frame([close, square], [0, 0], [0.9, 0.8], [square, square], [0, 1])
    assert found[:2] == [1.0, 0.0]
    # Two objects, two right ones and one too many in between: 1, 1/2, 2/3.
    boxes, targets = [square, square, [200, 0, 300, 100]], [square, boxes_right()]
    found = one_frame(boxes, [0, 0, 0], [0.9, 0.8, 0.7], targets, [0, 0])
    assert found[0] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def boxes_right():
    return [200, 0, 300, 100]


def test_a_detection_takes_the_object_that_it_overlaps_most_of_those_left():
    targets = [[0, 0, 100, 100], [0, 0, 100, 120]]
    boxes = [[0, 0, 100, 118], [0, 0, 100, 119]]
    # Both fit the second best, the later one falls back on the first.
    assert one_frame(boxes, [0, 0], [0.9, 0.8], targets, [0, 0])[0] == 1.0


def test_half_is_enough_and_small_objects_ask_for_less():
    assert one_frame([[0, 0, 10, 100]], [0], [1], [[0, 0, 20, 100]], [0])[0] == 1.0
    assert one_frame([[0, 0, 99, 100]], [0], [1], [[0, 0, 200, 100]], [0])[0] == 0.0
    # 10 x 10: 100 / 400. A quarter of the overlap is enough, no less.
    small = [[0, 0, 10, 10]]
    assert one_frame([[0, 0, 5, 5]], [0], [1], small, [0])[0] == 1.0
    assert one_frame([[0, 0, 4, 6]], [0], [1], small, [0])[0] == 0.0


def test_ignored_classes_and_padding_do_not_count():
    square, far = [0, 0, 100, 100], [300, 0, 400, 100]
    found = one_frame(
        [far, square, far], [1, 0, -1], [0.9, 0.8, 1.0], [square, square], [0, 1], (1,)
    )
    assert found[0] == 1.0 and np.isnan(found[1])
    found = one_frame([square, far], [0, 0], [0.5, 0.9], [square, far], [0, -1])
    assert found[0] == 0.5


def test_only_annotated_frames_count():
    square = [[0, 0, 100, 100]]
    sure = Detections(square, [0], [0.9])
    detections = {"v": {0: sure, 1: sure, 2: sure}}
    annotations = {"v": {0: Objects(square, [0]), 3: Objects(square, [0])}}
    results = evaluate_vid(detections, annotations, CLASSES, by_speed=False)
    assert results.precision["all"][0] == 0.5
    assert (results.objects["all"][0], results.detections[0]) == (2, 1)


def test_the_mean_is_over_the_classes_that_occur():
    square = [[0, 0, 100, 100]]
    annotations = {"v": {0: Objects(square, [0]), 1: Objects(square, [1])}}
    detections = {"v": {0: Detections(square, [0], [1.0]), 1: Detections([], [], [])}}
    results = evaluate_vid(detections, annotations, CLASSES, by_speed=False)
    assert results.mean() == 0.5
    data = results.to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["mean"] == {"all": 0.5}
    assert data["classes"]["zebra"]["precision"] == {"all": None}
    with pytest.raises(ValueError, match="speed must be one of all; got 'slow'"):
        results.mean("slow")


def test_nothing_at_all_has_no_mean():
    results = evaluate_vid({}, {"v": {0: Objects([], [], [])}}, CLASSES)
    assert np.isnan(results.mean()) and np.isnan(results.mean("fast"))
    assert results.to_dict()["mean"]["all"] is None
    assert np.isnan(VidEvaluation(CLASSES).results().mean())
    missed = {"v": {0: Objects([[0, 0, 9, 9]], [0], [0])}}
    assert evaluate_vid({}, missed, CLASSES).mean() == 0.0


# --- speed ----------------------------------------------------------------------------


def moving(step, frames=30, size=100):
    return {
        t: Objects([[step * t, 0, step * t + size, size]], [0], [7])
        for t in range(frames)
    }


def test_motion_iou_of_a_steady_movement():
    """A shift of d of a side of 100 overlaps (100 - d) / (100 + d)."""
    found = motion_iou(moving(2))
    expected = np.mean([(100 - 2 * d) / (100 + 2 * d) for d in range(1, 11)])
    assert found[15][0] == pytest.approx(expected)  # both sides alike
    assert found[0][0] == pytest.approx(expected)
    assert motion_iou(moving(0))[3][0] == 1.0
    assert motion_iou(moving(200))[3][0] == 0.0
    assert motion_iou({4: Objects([[0, 0, 9, 9]], [0], [3])})[4].tolist() == [0.0]


def test_objects_of_another_speed_are_neither_right_nor_wrong():
    annotations = {"still": moving(0), "fast": moving(50)}
    results = evaluate_vid(
        {v: as_found(f) for v, f in annotations.items()}, annotations, CLASSES
    )
    counts = {speed: number[0] for speed, number in results.objects.items()}
    assert counts == {"all": 60, "slow": 30, "medium": 0, "fast": 30}
    for speed in ("all", "slow", "fast"):
        assert results.mean(speed) == pytest.approx(1)
    assert np.isnan(results.mean("medium"))
    # Whatever is wrong near the still object is wrong for slow ones only.
    found = {v: as_found(f) for v, f in annotations.items()}
    found["still"] = as_found(annotations["still"], shift=60)
    results = evaluate_vid(found, annotations, CLASSES)
    assert (results.mean("slow"), results.mean("fast")) == (0, pytest.approx(1))
    assert results.mean() == pytest.approx(0.5)


def as_found(frames, shift=0):
    return {
        t: Detections(np.array(o.boxes) + [shift, 0, shift, 0], o.labels, [1.0 - shift])
        for t, o in frames.items()
    }


def test_speeds_may_be_given_for_a_part_of_the_frames():
    every = moving(2)
    some = {t: every[t] for t in (0, 10, 20)}
    assert motion_iou(some)[10][0] < 0.7 < motion_iou(every)[10][0]
    evaluation = VidEvaluation(CLASSES)
    evaluation.update(as_found(some), some, speeds=motion_iou(every))
    assert evaluation.results().objects["medium"][0] == 3
    with pytest.raises(ValueError, match="v: speeds must hold.* 1 objects of frame 10"):
        evaluation.update({}, some, name="v", speeds={0: [1.0]})


def test_tubes_can_be_evaluated_as_they_are():
    """Tubes recover what one frame misses: the re-scored box outranks the wrong one."""
    still = [[0, 0, 50, 50], [200, 0, 250, 50]]
    scores = [[[0.9], [0.0]], [[0.2], [0.4]], [[0.9], [0.0]]]
    frames = [FrameDetections(t, still, s) for t, s in enumerate(scores)]
    tracks = [Tracklets(still[:1], still[:1])] * 2
    annotations = {"v": {t: Objects(still[:1], [0], [0]) for t in range(3)}}
    alone = {
        t: Detections(f.boxes, [0, 0], f.scores[:, 0]) for t, f in enumerate(frames)
    }
    before = evaluate_vid({"v": alone}, annotations, ("fox",)).mean()
    after = evaluate_vid(
        {"v": by_frame(link(frames, tracks))}, annotations, ("fox",)
    ).mean()
    assert before == pytest.approx(2 / 3 + 1 / 4)
    assert after == 1.0


# --- proposals and bad input ----------------------------------------------------------


def test_recall_is_the_mean_over_classes():
    square, other = [0, 0, 100, 100], [200, 0, 300, 100]
    annotations = {
        "v": {0: Objects([square, other, other], [0, 0, 1]), 1: Objects([], [])}
    }
    mean, shares = proposal_recall({"v": {0: [[0, 0, 100, 50]]}}, annotations, CLASSES)
    assert (mean, shares) == (0.25, {"fox": 0.5, "whale": 0.0})
    assert proposal_recall({}, annotations, CLASSES)[0] == 0.0
    mean, shares = proposal_recall({}, {}, CLASSES)
    assert np.isnan(mean) and shares == {}


@pytest.mark.parametrize(
    ("detections", "message"),
    [
        (
            Detections([[0, 0, 1, 1]], [3], [1.0]),
            "v: frame 0.*labels must be 0 to 2.*3",
        ),
        (Detections([[0, 0, 1, 1]], [0], [np.nan]), "scores must be finite"),
        (Detections([[0, 0, 1, 1]], [0], []), "detections: got 1 boxes and 0 scores"),
        (Detections([[0, 0, np.nan, 1]], [0], [1.0]), "boxes must be finite"),
        (Detections([[0, 0, 1, 1]], [0, 1], [1.0]), "1 boxes and 2 labels; there"),
    ],
)
def test_senseless_detections_are_named(detections, message):
    annotations = {"v": {0: Objects([[0, 0, 9, 9]], [0], [0])}}
    with pytest.raises(ValueError, match=message):
        evaluate_vid({"v": {0: detections}}, annotations, CLASSES)


def test_names_and_tracks_must_fit():
    with pytest.raises(ValueError, match="1 videos have detections but no.*'w' first"):
        evaluate_vid({"w": {}}, {"v": {}}, CLASSES)
    with pytest.raises(ValueError, match="v: Frame 0 has objects without tracks"):
        evaluate_vid({}, {"v": {0: Objects([[0, 0, 9, 9]], [0])}}, CLASSES)
