"""Moving pairs: the flow is true, and neither stream alone tells the class.

The balance is tested three times: as an exact symmetry of clips, as equality of the
laws of what is drawn, and by classifiers of simple statistics, which stay at chance.
Each claim that something cannot be told has a counterpart that can.
"""

import dataclasses
import math

import cv2
import numpy as np
import pytest
from scipy import stats
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from zoo.datasets import moving_pairs
from zoo.datasets.flow import ComputedFlow, to_pixels
from zoo.datasets.moving_pairs import (
    CLASSES,
    SPEED,
    draw_pair,
    paint_frames,
    render_pair,
    true_flow,
)

SIZE, FRAMES = (64, 64), 24
LUMA = np.array([0.299, 0.587, 0.114])
CLIPS_PER_CLASS = 450


def drawn(class_name, seed, size=SIZE):
    return draw_pair(class_name, size, np.random.default_rng(seed))


def class_of(pair):
    """The class as it is defined: which way the disc with the unturned texture goes."""
    (a,) = (disc for disc in pair.discs if disc.turn == 0)
    (b,) = (disc for disc in pair.discs if disc.turn != 0)
    assert a.velocity * b.velocity < 0
    return "a_left_b_right" if a.velocity < 0 else "a_right_b_left"


def other(class_name):
    (name,) = set(CLASSES) - {class_name}
    return name


def circle_distance(way, length):
    return np.abs((way + length / 2) % length - length / 2)


def depth(disc, time, size):
    """How far inside of a disc every pixel lies, [H, W]; negative outside."""
    height, width = size
    x, y = disc.place
    dx = circle_distance(np.arange(width) - x - time * disc.velocity, width)
    dy = circle_distance(np.arange(height) - y, height)
    return disc.radius - np.hypot(dx[None, :], dy[:, None])


# --- the flow is the truth -----------------------------------------------------------


@pytest.mark.parametrize("class_name", CLASSES)
def test_signs_and_speeds_are_those_of_the_class(class_name):
    for seed in range(20):
        pair = drawn(class_name, seed)
        assert class_of(pair) == class_name
        flow = true_flow(pair, 8)
        assert not flow[..., 1].any()
        left, right = flow[flow < 0], flow[flow > 0]
        for values in (left, right):
            assert len(np.unique(values)) == 1
            assert SPEED[0] * 64 <= abs(values[0]) <= SPEED[1] * 64
        a, b = pair.discs
        assert min(a.velocity, b.velocity) == pytest.approx(left[0])
        assert max(a.velocity, b.velocity) == pytest.approx(right[0])


def test_flow_moves_whole_pixels_onto_equal_ones():
    """With whole velocities, frame i + 1 is frame i moved by field i, to the bit."""
    pair = drawn("a_left_b_right", 4)
    discs = [
        dataclasses.replace(disc, velocity=velocity)
        for disc, velocity in zip(pair.discs, (-3.0, 2.0), strict=True)
    ]
    pair = dataclasses.replace(pair, discs=tuple(discs))
    frames, flow = paint_frames(pair, FRAMES), true_flow(pair, FRAMES)
    moved = 0
    for time, field in enumerate(flow):
        for disc in discs:
            y, x = np.nonzero(depth(disc, time, SIZE) > 1)
            u, v = field[y, x].astype(int).T
            assert set(u) == {disc.velocity} and set(v) == {0}
            np.testing.assert_array_equal(
                frames[time + 1][y, (x + u) % 64], frames[time][y, x]
            )
            moved += len(x)
    assert moved > 20 * FRAMES * len(discs)


@pytest.mark.parametrize("class_name", CLASSES)
def test_warping_the_next_frame_by_the_flow_gives_the_frame(class_name):
    """Parts of a pixel: the true flow explains the change, the opposite does not."""
    y, x = np.mgrid[:64, :64].astype(np.float32)
    errors = {1: [], -1: []}
    for seed in range(5):
        pair = drawn(class_name, seed)
        frames, flow = paint_frames(pair, FRAMES), true_flow(pair, FRAMES)
        for time, field in enumerate(flow):
            depths = [depth(disc, time, SIZE) for disc in pair.discs]
            inside = np.max(depths, axis=0) > 3
            wrapped = np.pad(frames[time + 1], ((8, 8), (8, 8), (0, 0)), "wrap")
            for sign in errors:
                at = x + sign * field[..., 0] + 8
                back = cv2.remap(wrapped, at, y + 8, cv2.INTER_LANCZOS4)
                change = np.abs(back.astype(float) - frames[time]).mean(-1)
                errors[sign].append(change[inside].mean())
    assert np.mean(errors[1]) < 1.5
    assert np.mean(errors[-1]) > 40


def test_outside_of_the_discs_nothing_moves():
    pair = drawn("a_right_b_left", 3)
    frames, flow = paint_frames(pair, FRAMES), true_flow(pair, FRAMES)
    ground = np.rint(pair.background).astype(np.uint8)
    for time in range(FRAMES - 1):
        depths = np.array([depth(disc, time, SIZE) for disc in pair.discs])
        np.testing.assert_array_equal(
            flow[time, ..., 0] != 0, (depths >= 0).any(axis=0)
        )
        far = (depths < -0.5).all(axis=0)
        np.testing.assert_array_equal(frames[time][far], ground[far])
        assert far.mean() > 0.7


@pytest.mark.parametrize("size", [(32, 32), (32, 96), (96, 32), (64, 64)])
def test_discs_never_meet(size):
    for seed in range(200):
        a, b = drawn("a_left_b_right", seed, size).discs
        rows = circle_distance(a.place[1] - b.place[1], size[0])
        assert rows > a.radius + b.radius + 1


# --- exact symmetries ----------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_equal_draws_of_two_classes_differ_in_directions_alone(seed):
    one, two = (drawn(name, seed) for name in CLASSES)
    np.testing.assert_array_equal(one.background, two.background)
    for a, b in zip(one.discs, two.discs, strict=True):
        turned = dataclasses.replace(b, velocity=-b.velocity)
        assert repr(a) == repr(turned)
    np.testing.assert_array_equal(paint_frames(one, 2)[0], paint_frames(two, 2)[0])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("class_name", CLASSES)
def test_exchanged_textures_give_the_other_class_with_the_same_flow(class_name, seed):
    pair = drawn(class_name, seed)
    a, b = pair.discs
    discs = dataclasses.replace(b, turn=a.turn), dataclasses.replace(a, turn=b.turn)
    exchanged = dataclasses.replace(pair, discs=discs)
    assert class_of(exchanged) == other(class_name)
    np.testing.assert_array_equal(true_flow(exchanged, 8), true_flow(pair, 8))
    before, after = paint_frames(pair, 8), paint_frames(exchanged, 8)
    changed = (before != after).any(axis=-1)
    discs_cover = np.array(
        [
            np.max([depth(disc, time, SIZE) for disc in pair.discs], axis=0) > -0.5
            for time in range(8)
        ]
    )
    assert not changed[~discs_cover].any()
    assert changed[discs_cover].mean() > 0.7


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("class_name", CLASSES)
def test_a_clip_run_backwards_is_one_of_the_other_class(class_name, seed):
    pair = drawn(class_name, seed)
    discs = [
        dataclasses.replace(
            disc,
            place=np.array(
                [
                    (disc.place[0] + (FRAMES - 1) * disc.velocity) % 64,
                    disc.place[1],
                ]
            ),
            velocity=-disc.velocity,
        )
        for disc in pair.discs
    ]
    back = dataclasses.replace(pair, discs=tuple(discs))
    assert class_of(back) == other(class_name)
    one, two = paint_frames(pair, FRAMES)[::-1], paint_frames(back, FRAMES)
    # Not to the bit: places are sums of rounded numbers.
    assert np.abs(one.astype(int) - two).max() <= 1


# --- laws of what is drawn -----------------------------------------------------------


@pytest.fixture(scope="module")
def draws():
    """1500 pairs of each class, with the backgrounds left out to save time."""
    with pytest.MonkeyPatch.context() as patch:
        blank = np.zeros((2, 2, 3), np.float32)
        patch.setattr(moving_pairs, "background", lambda size, rng: (blank, 0))
        return {
            name: [drawn(name, [9, label, number]).discs for number in range(1500)]
            for label, name in enumerate(CLASSES)
        }


def least(pvalues):
    """Bonferroni: the smallest p-value times their number."""
    return min(pvalues) * len(pvalues)


@pytest.mark.parametrize("class_name", CLASSES)
def test_places_are_uniform_at_every_frame(class_name, draws):
    pvalues = []
    for time in range(FRAMES):
        x, y = np.moveaxis(
            [
                [(d.place + (time * d.velocity, 0)) / 64 % 1 for d in pair]
                for pair in draws[class_name]
            ],
            -1,
            0,
        )
        for sample in (*x.T, *y.T, (x[:, 0] - x[:, 1]) % 1):
            pvalues.append(stats.kstest(sample, "uniform").pvalue)
        cells = np.histogram2d(x[:, 0], y[:, 1], bins=4, range=[[0, 1], [0, 1]])[0]
        pvalues.append(stats.chisquare(cells.ravel()).pvalue)
    assert least(pvalues) > 1e-3


def test_places_in_a_frame_without_a_torus_would_not_be_uniform(draws):
    """The counterpart: discs that start in the frame and leave it for good."""
    left = [a.place[0] + (FRAMES - 1) * a.velocity for a, _ in draws[CLASSES[0]]]
    assert stats.kstest(np.array(left) / 64, "uniform").pvalue < 1e-6


def test_a_and_b_have_one_law_but_for_the_texture(draws):
    """What makes the flow of one class that of the other with the names exchanged."""
    pvalues = []
    for one, two in (CLASSES, CLASSES[::-1]):
        a = [pair[0] for pair in draws[one]]
        b = [pair[1] for pair in draws[two]]
        for law in (
            lambda d: d.velocity,
            lambda d: d.radius,
            lambda d: d.place[0],
            lambda d: d.place[1],
            lambda d: d.phase[0],
            lambda d: d.phase[1],
            lambda d: d.colours[0].mean(),
            lambda d: d.colours[1].mean(),
        ):
            pvalues.append(
                stats.ks_2samp([law(d) for d in a], [law(d) for d in b]).pvalue
            )
        ways = [(b.place[1] - a.place[1]) / 64 % 1 for a, b in draws[one]]
        pvalues.append(stats.ks_2samp(ways, 1 - np.array(ways)).pvalue)
    assert least(pvalues) > 1e-3


def test_the_four_cases_of_a_late_sum_are_equally_likely(draws):
    """The class is their exclusive or, of which a sum gets three cases right."""
    counts = np.zeros((2, 2))
    for name in CLASSES:
        for a, b in draws[name]:
            upper_is_a = a.place[1] < b.place[1]
            upper = a if upper_is_a else b
            upper_moves_left = upper.velocity < 0
            assert (name == "a_left_b_right") == (upper_is_a == upper_moves_left)
            counts[int(upper_is_a), int(upper_moves_left)] += 1
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3


# --- what statistics tell ------------------------------------------------------------


@dataclasses.dataclass
class Clips:
    """Clips in random order: frames [N, T, H, W, 3], flow [N, T - 1, H, W, 2]."""

    frames: np.ndarray
    flow: np.ndarray
    labels: np.ndarray


def render_set(frames=12, clips_per_class=CLIPS_PER_CLASS):
    rows = [
        (*render_pair(name, [7, label, number], SIZE, frames), label)
        for label, name in enumerate(CLASSES)
        for number in range(clips_per_class)
    ]
    order = np.random.default_rng(0).permutation(len(rows))
    frames, flow, labels = (np.array(part)[order] for part in zip(*rows, strict=True))
    return Clips(frames, flow, labels)


@pytest.fixture(scope="module")
def clips():
    return render_set()


def lattices(frame):
    """How strongly each pixel's neighbourhood shows A's and B's texture, 2 x [H, W].

    Waves along the axes differ in their second derivatives and have no mixed one;
    turned by 45 degrees it is the other way round.
    """
    gray = np.pad(cv2.GaussianBlur(frame @ LUMA, (0, 0), 0.7), 4, mode="wrap")
    xx, yy, xy = (cv2.Sobel(gray, -1, *n) for n in ((2, 0), (0, 2), (1, 1)))
    return [part[4:-4, 4:-4] ** 2 for part in (xx - yy, 2 * xy)]


def cells(image, count=8):
    return cv2.resize(image, (count, count), interpolation=cv2.INTER_AREA).ravel()


def frame_features(frames):
    """Colours, brightness, edges and textures of single frames, whole and in cells."""
    rows = []
    for frame in frames:
        gray = (frame @ LUMA).astype(np.float32)
        a, b = lattices(frame)
        edges = np.abs(cv2.Laplacian(gray, -1))
        maps = (gray, edges, np.log1p(a), np.log1p(b))
        whole = [*frame.mean((0, 1)), *frame.std((0, 1)), a.mean(), b.mean()]
        rows.append(np.concatenate([whole, *[cells(m.astype("f4"), 4) for m in maps]]))
    return np.array(rows)


def flow_features(flow):
    """Speeds, sizes and places of motion in the first and the last field."""
    rows = []
    for first, last in flow[:, [0, -1]][..., 0]:
        row = [first.min(), first.max(), (first > 0).mean(), (first < 0).mean()]
        maps = [part for u in (first, last) for part in (u, np.abs(u))]
        rows.append(np.concatenate([row, *[cells(m, 4) for m in maps]]))
    return np.array(rows)


def joint_features(frames, flow):
    """Texture where the motion is: A's against B's in what moves left, and right."""
    rows = []
    for frame, field in zip(frames, flow, strict=True):
        a, b = lattices(frame)
        masks = [field[..., 0] < 0, field[..., 0] > 0]
        rows.append([np.log(a[m].sum() / b[m].sum()) for m in masks])
    return np.array(rows)


def linear():
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))


def accuracy(features, labels):
    """Accuracy of a linear classifier on the last third, trained on the rest."""
    split = len(labels) * 2 // 3
    classifier = linear().fit(features[:split], labels[:split])
    return classifier.score(features[split:], labels[split:])


# What guessing exceeds once in about 10,000 times.
BOUND = 0.5 + 3.72 * math.sqrt(0.25 / (2 * CLIPS_PER_CLASS / 3))


@pytest.mark.parametrize("at", [0, 5, -1])
def test_one_frame_does_not_tell_the_class(at, clips):
    assert accuracy(frame_features(clips.frames[:, at]), clips.labels) < BOUND


def test_the_mean_frame_does_not_tell_the_class(clips):
    mean = clips.frames.mean(axis=1)
    assert accuracy(frame_features(mean), clips.labels) < BOUND


def test_flow_does_not_tell_the_class(clips):
    assert accuracy(flow_features(clips.flow), clips.labels) < BOUND


def test_texture_where_the_motion_is_tells_every_class(clips):
    """The same classifier, and an oracle without training: the sign of a difference."""
    features = joint_features(clips.frames[:, 5], clips.flow[:, 5])
    assert accuracy(features, clips.labels) == 1
    left, right = features.T
    np.testing.assert_array_equal((left < right).astype(int), clips.labels)


def test_frames_tell_the_class_where_discs_start_at_fixed_places(monkeypatch):
    """The counterpart: places that are uniform in no frame."""
    real = moving_pairs.draw_pair

    def from_the_middle(*args):
        pair = real(*args)
        discs = [
            dataclasses.replace(d, place=np.array([32.0, d.place[1]]))
            for d in pair.discs
        ]
        return dataclasses.replace(pair, discs=tuple(discs))

    monkeypatch.setattr(moving_pairs, "draw_pair", from_the_middle)
    clips = render_set(clips_per_class=150)
    features = frame_features(clips.frames[:, -1])
    assert accuracy(features, clips.labels) > 0.75


def test_flow_tells_the_class_where_a_is_faster(monkeypatch):
    real = moving_pairs.draw_pair

    def unequal(*args):
        pair = real(*args)
        a, b = pair.discs
        discs = dataclasses.replace(a, velocity=1.5 * a.velocity), b
        return dataclasses.replace(pair, discs=discs)

    monkeypatch.setattr(moving_pairs, "draw_pair", unequal)
    clips = render_set(frames=2, clips_per_class=300)
    assert accuracy(flow_features(clips.flow), clips.labels) > 0.75


# --- flow computed from the frames ---------------------------------------------------


def computed_features(frames):
    """What computed flow says of the things that move left, and right."""
    source, rows = ComputedFlow("farneback"), []
    for first, second in frames:
        flow = to_pixels(source.between(first, second))
        row = []
        for sign in (-1, 1):
            u, v = flow[flow[..., 0] * sign > 0.6].T
            parts = np.percentile(u, (10, 50, 90)) if len(u) else np.zeros(3)
            spread = (u.std(), v.std(), np.abs(v).mean()) if len(u) else np.zeros(3)
            row += [len(u), np.abs(u).sum(), *parts, *spread]
        rows.append(row)
    return np.array(rows)


def computed_accuracy():
    clips = render_set(frames=2, clips_per_class=250)
    forest = RandomForestClassifier(100, min_samples_leaf=3, random_state=0)
    features = computed_features(clips.frames)
    return cross_val_score(forest, features, clips.labels, cv=4).mean()


def test_computed_flow_says_little_of_the_textures():
    assert computed_accuracy() < 0.6


def test_computed_flow_would_tell_stripes_apart(monkeypatch):
    """The counterpart, and the reason why the textures are no stripes."""
    real = moving_pairs._texture

    def stripes(disc, dx, dy, side):
        along, across = (dx, 0 * dy) if disc.turn == 0 else (0 * dx, dy)
        return real(dataclasses.replace(disc, turn=0.0), along, across, side)

    monkeypatch.setattr(moving_pairs, "_texture", stripes)
    assert computed_accuracy() > 0.8


# --- arguments -----------------------------------------------------------------------


def test_equal_seeds_give_equal_clips():
    one, two, three = (render_pair(CLASSES[0], seed, SIZE, 3) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])
    assert (one[0] != three[0]).any() and (one[1] != three[1]).any()


def test_shapes_and_types():
    frames, flow = render_pair(CLASSES[1], 0, (40, 56), 4)
    assert frames.shape == (4, 40, 56, 3) and frames.dtype == np.uint8
    assert flow.shape == (3, 40, 56, 2) and flow.dtype == np.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a_up",), "'a_up'; the classes are a_left_b_right and a_right_b_left"),
        ((CLASSES[0], 0, (16, 64)), r"at least 32 pixels; got \(16, 64\)"),
        ((CLASSES[0], 0, 64), r"size must be \(height, width\).* got 64"),
        ((CLASSES[0], 0, SIZE, 1), "frames must be .* at least 2 .* got 1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        render_pair(*arguments)
