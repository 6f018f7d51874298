"""Linking to tubes: against plain Python, against all paths, and what must hold."""

import json

import numpy as np
import pytest

from tests import tube_references as naive
from zoo.evaluation import box_arithmetic, candidates
from zoo.evaluation.online_tubes import OnlineLinker
from zoo.evaluation.paths import disjoint_paths
from zoo.evaluation.tube_frames import by_frame, gather, interpolate
from zoo.evaluation.tubes import (
    FrameDetections,
    LinkOptions,
    Tracklets,
    TubeLinker,
    link,
    rescore,
    top_count,
)


def random_boxes(rng, count, size=200):
    corner = rng.uniform(0, size, (count, 2))
    return np.hstack([corner, corner + rng.uniform(20, 90, (count, 2))])


def random_video(seed, frames=6, boxes=14, classes=3, absent=0.0, stride=1):
    """Detections that move and jitter, tracklets that follow most of them."""
    rng = np.random.default_rng(seed)
    start, speed = random_boxes(rng, boxes), np.tile(rng.uniform(-4, 4, (boxes, 2)), 2)
    detections, tracklets = [], []
    for t in range(frames):
        found = start + t * speed + rng.normal(0, 1, start.shape)
        scores = rng.dirichlet(np.full(classes + 1, 0.3), boxes)[:, 1:]
        scores[:, rng.random(classes) < absent] = 0
        detections.append(FrameDetections(t * stride, found, scores))
        if t:
            some = rng.random(boxes) < 0.7
            before = start[some] + (t - 1) * speed[some]
            tracklets.append(Tracklets(before, before + speed[some]))
    return detections, tracklets


def assert_same_tubes(tubes, reference):
    assert len(tubes) == len(reference)
    for tube, (label, score, frames, boxes, scores) in zip(
        tubes, reference, strict=True
    ):
        assert tube.label == label
        assert tube.score == pytest.approx(score, abs=1e-5)
        assert tube.frames.tolist() == frames
        np.testing.assert_allclose(tube.boxes, boxes, atol=1e-3)
        np.testing.assert_allclose(tube.scores, scores, atol=1e-5)


# --- boxes ----------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.1, 0.4, 0.5, 0.9])
def test_overlap_without_division_is_the_overlap(threshold):
    rng = np.random.default_rng(0)
    a = random_boxes(rng, 150).astype("float32")
    b = np.concatenate([a[:40], random_boxes(rng, 70)]).astype("float32")
    expected = [[naive.overlap(x, y) for y in b.tolist()] for x in a.tolist()]
    np.testing.assert_allclose(box_arithmetic.iou(a, b), expected, atol=1e-5)
    found = box_arithmetic.overlapping(a, b, (threshold, False), (0.3, True))
    np.testing.assert_array_equal(found[0], np.array(expected) > threshold)
    np.testing.assert_array_equal(found[1], np.array(expected) >= 0.3)


def test_exactly_the_threshold_is_in_only_where_asked_for():
    a, b = np.float32([[0, 0, 10, 10]]), np.float32([[0, 0, 10, 5], [0, 0, 0, 0]])
    strict, inclusive = box_arithmetic.overlapping(a, b, (0.5, False), (0.5, True))
    assert (strict.any(), inclusive.tolist()) == (False, [[True, False]])
    flat = np.float32([[3, 3, 3, 9]])
    assert not box_arithmetic.overlapping(flat, flat, (0.5, True)).any()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("voting", [None, 0.5])
def test_suppression_and_voting_are_the_plain_ones(seed, voting):
    (detections,), _ = random_video(seed, frames=1, boxes=60)
    found = candidates.reduce(detections, LinkOptions(voting=voting, keep=7))
    for label, scores in enumerate(detections.scores.T.tolist()):
        boxes = detections.boxes.tolist()
        expected = naive.reduced(boxes, scores, keep=7, voting=voting)
        assert found.counts[label] == len(expected) == 7
        np.testing.assert_allclose(found.scores[label], [s for _, s in expected])
        np.testing.assert_allclose(
            found.boxes[label], [b for b, _ in expected], atol=1e-3
        )


def test_boxes_without_area_stay_alone():
    boxes = [[5, 5, 5, 5], [5, 5, 5, 5], [0, 0, 10, 10]]
    found = candidates.reduce(FrameDetections(0, boxes, [[0.2], [0.3], [0.5]]), LINK)
    assert found.counts.tolist() == [3]
    assert found.boxes[0].tolist() == [boxes[2], boxes[1], boxes[0]]


LINK = LinkOptions()

# --- paths ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_the_paths_are_the_best_of_all_paths(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 5, 5)
    # Eighths: sums are exact, and ties occur.
    scores = [-np.sort(-rng.integers(1, 8, n) / 8) for n in counts]
    scores = [s + rng.random(len(s)) * 1e-3 for s in scores]
    psi = [rng.random(pair) < 0.3 for pair in zip(counts[:-1], counts[1:], strict=True)]
    found = [candidate(s) for s in scores]
    links = [np.zeros((0, 1, counts[0]), "int16")] + [pointers(p) for p in psi]
    ((label, sums, paths),) = disjoint_paths(found, links)
    frames = [[(None, s) for s in of_frame] for of_frame in scores]
    edges = [
        {(i, j): a[i] + b[j] + p[i, j] for i in range(len(a)) for j in range(len(b))}
        for a, b, p in zip(scores, scores[1:], psi, strict=False)
    ]
    gone = set()
    assert (label, len(paths)) == (0, counts.min())
    for total, path in zip(sums, paths.tolist(), strict=True):
        best = naive.enumerate_paths(frames, edges, gone)
        assert path == best == naive.viterbi(frames, edges, gone)
        assert total == pytest.approx(naive.sum_of_edges(best, frames, edges))
        gone |= set(enumerate(path))


def candidate(scores):
    """Candidates of one class with these scores."""
    scores = np.float64(scores)[None]
    boxes = np.zeros((*scores.shape, 4), "float32")
    return candidates.Candidates(boxes, scores, np.array([scores.size]))


def pointers(psi):
    """What `predecessors` returns, of psi [k, l]."""
    found = np.full((max(1, psi.sum(axis=0).max()), 1, psi.shape[1]), -1, "int16")
    for j, column in enumerate(psi.T):
        before = np.flatnonzero(column)
        found[: len(before), 0, j] = before
    return found


def test_equal_sums_prefer_a_linked_edge_then_the_better_box():
    found = [candidate([0.5, 0.5]), candidate([0.5, 0.5])]
    none = np.zeros((0, 1, 2), "int16")
    ((_, _, paths),) = disjoint_paths(found, [none, none])
    assert paths.tolist() == [[0, 0], [1, 1]]
    # 1.5 + 0.25 linked, 0.5 + 0.5 + 0.25 not: the sums at the last box are equal.
    found = [candidate([1.0, 0.0]), candidate([0.25])]
    ((_, sums, paths),) = disjoint_paths(found, [none, np.int16([[[1]]])])
    assert (sums.tolist(), paths.tolist()) == ([1.25], [[1, 0]])


def test_few_classes_at_a_time_find_the_same(monkeypatch):
    video = random_video(3, classes=4)
    tubes = link(*video)
    monkeypatch.setattr("zoo.evaluation.paths._BYTES", 1)
    for one, other in zip(tubes, link(*video), strict=True):
        assert one.to_dict() == other.to_dict()


# --- the whole, offline ---------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("absent", [0.0, 0.4])
def test_tubes_are_those_of_plain_python(seed, absent):
    video = random_video(seed, absent=absent, stride=1 + seed)
    assert_same_tubes(link(*video), naive.video_tubes(*video))


def test_long_crowded_video_is_linked_as_in_plain_python():
    video = random_video(1, frames=12, boxes=40, classes=2)
    tubes = link(*video)
    assert min(tube.label for tube in tubes) == 0 and len(tubes) > 20
    assert_same_tubes(tubes, naive.video_tubes(*video))


def test_tracklets_lead_a_tube_along_its_object():
    """Two objects pass each other and change scores: tracklets keep them apart."""
    boxes = [[[10 * t, 0, 10 * t + 40, 40], [90 - 10 * t, 50, 130, 90]] for t in (0, 1)]
    scores = [[[0.9], [0.5]], [[0.4], [0.7]]]
    frames = [FrameDetections(t, boxes[t], scores[t]) for t in (0, 1)]
    first, second = link(frames, [Tracklets(*boxes)])
    assert first.boxes.tolist() == [boxes[0][0], boxes[1][0]]
    assert first.score == pytest.approx((0.9 + 0.4 + 1) / 2)
    np.testing.assert_allclose(first.scores, [1.8, 1.3])  # the best 1 of 2 is added
    np.testing.assert_allclose(second.scores, [1.2, 1.4])
    unlinked, _ = link(frames, [Tracklets([], [])])
    assert unlinked.boxes.tolist() == [boxes[0][0], boxes[1][1]]


def test_overlap_of_exactly_a_half_links_only_as_in_the_code():
    frames = [FrameDetections(t, [[0, 0, 10, 10]], [[0.5]]) for t in (0, 1)]
    half = Tracklets([[0, 0, 10, 5]], [[0, 0, 10, 10]])
    assert link(frames, [half])[0].score == pytest.approx(0.5)
    (tube,) = link(frames, [half], LinkOptions(inclusive=True))
    assert tube.score == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(3))
def test_tubes_share_no_box_and_span_the_video(seed):
    detections, tracklets = random_video(seed, frames=5)
    tubes = link(detections, tracklets, LinkOptions(voting=None))
    used = {
        (tube.label, frame, *box)
        for tube in tubes
        for frame, box in enumerate(tube.boxes.tolist())
    }
    assert len(used) == sum(len(tube.frames) for tube in tubes)
    assert all(tube.frames.tolist() == [0, 1, 2, 3, 4] for tube in tubes)
    for label in range(3):
        scores = [tube.score for tube in tubes if tube.label == label]
        assert scores == sorted(scores, reverse=True)
    assert [tube.id for tube in tubes] == list(range(len(tubes)))


def test_memory_is_that_of_the_kept_boxes():
    linker = TubeLinker(LinkOptions(keep=2))
    for detections in random_video(0, frames=3, boxes=50)[0]:
        linker.update(detections)
    assert {c.boxes.shape for c in linker._candidates} == {(3, 2, 4)}


@pytest.mark.parametrize(
    ("alpha", "added"), [(0.1, 8.0), (0.5, 6.5), (0.6, 6.0), (1.0, 4.5), (None, 0)]
)
def test_the_mean_of_the_best_is_added(alpha, added):
    scores = np.float32([[1, 8, 2, 7, 3, 6, 4, 5]])
    np.testing.assert_allclose(rescore(scores, alpha), scores + added)
    assert top_count(30, 0.1) == 3


def test_a_video_of_one_frame_keeps_its_boxes():
    (detections,), _ = random_video(0, frames=1)
    assert_same_tubes(link([detections], []), naive.video_tubes([detections], []))


def test_nothing_detected_is_no_tube():
    empty = [FrameDetections(t, [], np.zeros((0, 3))) for t in range(3)]
    assert link(empty, [Tracklets([], [])] * 2) == []
    assert link([], []) == []
    assert TubeLinker().finish() == []
    zero = [FrameDetections(t, [[0, 0, 5, 5]], [[0.0, 0.0]]) for t in range(2)]
    assert link(zero, [Tracklets([], [])]) == []


def test_frames_without_the_class_are_skipped():
    boxes = [[0, 0, 10, 10]]
    frames = [FrameDetections(t, boxes, [[s]]) for t, s in enumerate((0.5, 0, 0.25))]
    frames.insert(0, FrameDetections(-0, [], np.zeros((0, 1))))
    frames = [FrameDetections(t, f.boxes, f.scores) for t, f in enumerate(frames)]
    same = Tracklets(boxes, boxes)
    (tube,) = link(frames, [Tracklets([], []), same, same])
    assert tube.frames.tolist() == [1, 3]
    assert tube.score == pytest.approx(0.75 / 2)  # no tracklet over a skipped frame


# --- online ---------------------------------------------------------------------------


def run_online(video, **arguments):
    linker = OnlineLinker(**arguments)
    detections, tracklets = video
    pairs = zip(detections, [None, *tracklets], strict=True)
    return [linker.update(*pair) for pair in pairs]


@pytest.mark.parametrize("seed", range(3))
def test_online_tubes_do_not_depend_on_the_future(seed):
    detections, tracklets = random_video(seed, frames=8, absent=0.2)
    everything = run_online((detections, tracklets))
    for length in (1, 4, 7):
        part = run_online((detections[:length], tracklets[: length - 1]))
        for one, other in zip(part, everything, strict=False):
            for name in ("ids", "labels", "boxes", "scores"):
                np.testing.assert_array_equal(
                    getattr(one, name), getattr(other, name), strict=True
                )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("absent", [0.0, 0.4])
def test_online_tubes_are_those_of_plain_python(seed, absent):
    detections, tracklets = random_video(seed, frames=8, boxes=18, absent=absent)
    reference = naive.online_tubes(detections, [None, *tracklets])
    tubes = gather(run_online((detections, tracklets)))
    assert len(tubes) == len(reference)
    for tube in tubes:
        label, rows = reference[tube.id]
        frames, boxes, scores = zip(*rows, strict=True)
        assert (tube.label, tube.frames.tolist()) == (label, list(frames))
        np.testing.assert_allclose(tube.boxes, boxes, atol=1e-3)
        np.testing.assert_allclose(tube.scores, scores, atol=1 / 128)


@pytest.mark.parametrize("linked_only", [False, True])
def test_online_every_box_has_one_tube(linked_only):
    detections, tracklets = random_video(5, frames=8, absent=0.3)
    found = run_online((detections, tracklets), linked_only=linked_only)
    labels = {}
    for frame, tracks in zip(detections, found, strict=True):
        kept = candidates.reduce(frame, LINK)
        assert len(tracks.ids) == len(set(tracks.ids.tolist())) == kept.counts.sum()
        expected = kept.boxes[kept.scores > 0]
        assert sorted(tracks.boxes.tolist()) == sorted(expected.tolist())
        assert tracks.ids.tolist() == sorted(tracks.ids.tolist())
        for number, label in zip(tracks.ids, tracks.labels, strict=True):
            assert labels.setdefault(number, label) == label


def test_online_scores_are_those_of_the_past():
    """A box gets the mean of the best half of its tube up to its frame."""
    scores = np.random.default_rng(0).random(60)
    frames = [FrameDetections(t, [[0, 0, 9, 9]], [[s]]) for t, s in enumerate(scores)]
    found = run_online((frames, [Tracklets([], [])] * 59))
    assert {tuple(tracks.ids) for tracks in found} == {(0,)}
    for n in range(1, 61):
        best = np.sort(scores[:n])[::-1][: (n + 1) // 2]
        expected = scores[n - 1] + best.mean()
        # Exact but for the bin where the half ends, 1/128 wide.
        assert found[n - 1].scores[0] == pytest.approx(expected, abs=1 / 128)
    plain = run_online((frames, [None] * 59), options=LinkOptions(alpha=None))
    np.testing.assert_allclose([t.scores[0] for t in plain], scores, rtol=1e-6)


def test_online_histogram_is_exact_where_scores_do_not_share_a_bin():
    scores = [0.9, 0.1, 0.7, 0.3, 0.5]
    frames = [FrameDetections(t, [[0, 0, 9, 9]], [[s]]) for t, s in enumerate(scores)]
    found = [tracks.scores[0] for tracks in run_online((frames, [None] * 4))]
    np.testing.assert_allclose(found, [1.8, 1.0, 1.5, 1.1, 1.2], rtol=1e-6)


def test_online_tracklets_lead_a_tube_along_its_object():
    boxes = [[[10 * t, 0, 10 * t + 40, 40], [90 - 10 * t, 50, 130, 90]] for t in (0, 1)]
    frames = [
        FrameDetections(0, boxes[0], [[0.9], [0.5]]),
        FrameDetections(1, boxes[1], [[0.4], [0.8]]),
    ]
    first, second = gather(run_online((frames, [Tracklets(*boxes)])))
    assert first.boxes.tolist() == [boxes[0][0], boxes[1][0]]
    assert second.boxes.tolist() == [boxes[0][1], boxes[1][1]]


def test_online_tubes_may_end_where_no_tracklet_leads_on():
    frames = [FrameDetections(t, [[0, 0, 9, 9]], [[0.5]]) for t in range(4)]
    stays = Tracklets([[0, 0, 9, 9]], [[0, 0, 9, 9]])
    lost = Tracklets([], [])
    video = frames, [stays, lost, stays]
    assert [t.ids.tolist() for t in run_online(video)] == [[0]] * 4
    ended = run_online(video, linked_only=True)
    assert [t.ids.tolist() for t in ended] == [[0], [0], [1], [1]]


def test_online_remembers_no_more_with_time():
    linker, (detections, _) = OnlineLinker(), random_video(0, frames=30, boxes=6)
    sizes = set()
    for frame in detections:
        linker.update(frame)
        tables = vars(linker._tubes).values()
        sizes.add((len(linker._frames), sum(table.nbytes for table in tables)))
    assert len(sizes) == 1


def test_online_nothing_detected_is_no_box():
    empty = [FrameDetections(t, [], np.zeros((0, 3))) for t in range(3)]
    found = run_online((empty, [Tracklets([], [])] * 2))
    assert [len(tracks.ids) for tracks in found] == [0, 0, 0]
    assert gather(found) == [] and gather([]) == []
    full = random_video(0, frames=1)[0][0]
    mixed = [empty[0], FrameDetections(1, full.boxes, full.scores), empty[2]]
    assert len(run_online((mixed, [None] * 2))[1].ids) > 3


# --- frames of tubes ------------------------------------------------------------------


def test_frames_of_tubes_and_tubes_of_frames():
    tubes = link(*random_video(2, absent=0.3))
    frames = by_frame(tubes)
    assert list(frames) == sorted(frames) and len(frames) == 6
    for one, other in zip(tubes, gather(frames.values()), strict=True):
        assert (one.id, one.label) == (other.id, other.label)
        for name in ("frames", "boxes", "scores"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert by_frame([]) == {}


def test_boxes_between_sampled_frames_lie_on_a_line():
    boxes = [[0, 0, 10, 10]], [[4, 8, 14, 18]], [[4, 8, 14, 18]]
    frames = [
        FrameDetections(t, box, [[s]])
        for t, box, s in zip((0, 4, 9), boxes, (0.2, 0.6, 0.6), strict=True)
    ]
    tubes = link(frames, [Tracklets([], [])] * 2, LinkOptions(alpha=None))
    (tube,) = interpolate(tubes)
    assert tube.frames.tolist() == list(range(10))
    np.testing.assert_allclose(tube.boxes[1], [1, 2, 11, 12])
    np.testing.assert_allclose(tube.scores[:6], [0.2, 0.3, 0.4, 0.5, 0.6, 0.6])
    (tube,) = interpolate(tubes, max_step=4)
    assert tube.frames.tolist() == [0, 1, 2, 3, 4, 9]
    assert interpolate(tubes, max_step=1)[0].frames.tolist() == [0, 4, 9]
    with pytest.raises(ValueError, match="max_step must be 1 or more frames.*got 0"):
        interpolate(tubes, max_step=0)


def test_a_tube_is_plain_data():
    tube = link(*random_video(0, frames=2))[0].to_dict()
    assert json.loads(json.dumps(tube, allow_nan=False)) == tube
    assert set(tube) == {"id", "label", "score", "frames", "boxes", "scores"}


# --- bad input ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("boxes", "scores", "message"),
    [
        ([[0, 0, np.nan, 1]], [[0.5]], r"frame 7: boxes must be finite; row 0"),
        ([[0, 0, 1, np.inf]], [[0.5]], r"boxes must be finite"),
        ([[0, 0, 1]], [[0.5]], r"boxes must be \[N, 4\].*got \(1, 3\)"),
        ([[5, 0, 1, 9]], [[0.5]], r"x1 <= x2.*row 0 is \[5.0.*not corner and size"),
        ([[0, 0, 1, 1]], [[np.nan]], r"scores must be finite; those of box 0"),
        ([[0, 0, 1, 1]], [0.5], r"scores must be \[1, C\].*got \(1,\)"),
        ([[0, 0, 1, 1]], [[0.5], [0.5]], r"one row per box; got \(2, 1\)"),
    ],
)
def test_senseless_detections_are_named(boxes, scores, message):
    with pytest.raises(ValueError, match=message):
        FrameDetections(7, boxes, scores)


def test_senseless_tracklets_are_named():
    with pytest.raises(ValueError, match="1 starts and 0 ends"):
        Tracklets([[0, 0, 1, 1]], [])
    with pytest.raises(ValueError, match="ends of tracklets must be finite"):
        Tracklets([[0, 0, 1, 1]], [[0, 0, 1, np.nan]])


@pytest.mark.parametrize("linker", [TubeLinker, OnlineLinker])
def test_frames_that_do_not_follow_are_named(linker):
    linker = linker()
    linker.update(FrameDetections(4, [[0, 0, 1, 1]], [[0.5, 0.5]]))
    with pytest.raises(ValueError, match="must come after 4; got 4.*per video"):
        linker.update(FrameDetections(4, [[0, 0, 1, 1]], [[0.5, 0.5]]))
    with pytest.raises(ValueError, match="scores of 1 classes.*have 2"):
        linker.update(FrameDetections(5, [[0, 0, 1, 1]], [[0.5]]))


def test_the_number_of_tracklets_must_fit():
    detections, tracklets = random_video(0, frames=3)
    with pytest.raises(ValueError, match="Got 1 tracklets, too few: give one less"):
        link(detections, tracklets[:1])
    with pytest.raises(ValueError, match="more tracklets than steps"):
        link(detections, [*tracklets, tracklets[0]])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("suppression", 0),
        ("suppression", None),
        ("voting", 1.0),
        ("track_overlap", -1),
        ("keep", 0),
        ("keep", 10_001),
        ("alpha", 0),
        ("alpha", 1.5),
        ("min_score", -0.1),
    ],
)
def test_senseless_options_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name} must.*got {value}"):
        LinkOptions(**{name: value})
