"""Synthetic dynamic scenes: files, resuming, and what one frame and two frames tell.

The heart is the pair of claims that makes the set a test of spatiotemporal networks
(thesis section 7.4): classifiers of single frames stay at chance, whatever the frame,
while a simple statistic of motion tells the classes apart. Each has its counterpart
that must come out the other way, so neither can pass for want of a working classifier.
"""

import json
import math
import os

import av
import cv2
import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from zoo.datasets import scenes, synthetic
from zoo.datasets.generated import seed_of
from zoo.datasets.scenes import CLASSES, EXTRA_CLASSES, render_clip
from zoo.datasets.synthetic import write_dynamic_scenes

SMALL = {"videos_per_class": 2, "size": (32, 32), "frames": 3}
FRAMES = 8
CLIPS_PER_CLASS = 90
CHANCE = 1 / len(CLASSES)


def decode(path):
    """All frames of a video file, by PyAV alone."""
    with av.open(str(path)) as container:
        return np.stack(
            [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
        )


def tree(root):
    """Relative path -> contents of all files under a folder."""
    return {
        p.relative_to(root).as_posix(): p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


# --- files ---------------------------------------------------------------------------


def test_layout_is_that_of_yup(tmp_path):
    root = write_dynamic_scenes(tmp_path / "set", **SMALL)
    files = tree(root)
    assert len(files) == 2 * len(CLASSES) * 2 + 1
    assert "camera_stationary/expansion/expansion_stationary_c01.mp4" in files
    assert "camera_moving/drift_left/drift_left_moving_c02.mp4" in files
    for subset in ("stationary", "moving"):
        folders = sorted(p.name for p in (root / f"camera_{subset}").iterdir())
        assert tuple(folders) == CLASSES


def test_files_hold_the_rendered_frames(tmp_path):
    root = write_dynamic_scenes(
        tmp_path, 1, (32, 48), 5, seed=3, classes=["drift_up"], fps=12.5
    )
    path = root / "camera_moving/drift_up/drift_up_moving_c01.mp4"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 12.5
        assert stream.frames == 5
    frames = decode(path)
    key = seed_of(3, "drift_up", "moving", 1)
    rendered = render_clip("drift_up", True, key, (32, 48), 5)
    assert frames.shape == (5, 32, 48, 3)
    # The chroma is subsampled, the luma is not: compare what is left of the luma.
    luma = [0.299, 0.587, 0.114]
    assert np.abs(frames @ luma - rendered @ luma).mean() < 2.5


def test_a_decoded_frame_depends_on_its_own_rendered_frame_only(tmp_path):
    clip = render_clip("rotation_clockwise", True, 5, (32, 32), 6)
    (tmp_path / "clip.mp4").write_bytes(synthetic.encode(clip))
    frames = decode(tmp_path / "clip.mp4")
    for t in (0, 3, 5):
        (tmp_path / "one.mp4").write_bytes(synthetic.encode(clip[t : t + 1]))
        np.testing.assert_array_equal(decode(tmp_path / "one.mp4")[0], frames[t])


def test_manifest_records_parameters_and_files(tmp_path):
    write_dynamic_scenes(tmp_path, **SMALL, seed=4)
    manifest = json.loads((tmp_path / "synthetic.json").read_text())
    assert manifest["parameters"]["seed"] == 4
    assert manifest["parameters"]["classes"] == list(CLASSES)
    on_disk = {name for name in tree(tmp_path) if name.endswith(".mp4")}
    assert set(manifest["files"]) == on_disk
    assert {record["frames"] for record in manifest["files"].values()} == {3}


# --- the same clip again -------------------------------------------------------------


def test_equal_seeds_give_equal_files_in_any_order(tmp_path):
    a = write_dynamic_scenes(tmp_path / "a", **SMALL, seed=1)
    b = write_dynamic_scenes(tmp_path / "b", **SMALL, seed=1, classes=CLASSES[::-1])
    a, b = tree(a), tree(b)
    del a["synthetic.json"], b["synthetic.json"]  # they name the order of the classes
    assert a == b
    assert len(set(a.values())) == len(a)  # and no clip is there twice


def test_other_seeds_give_other_files(tmp_path):
    a = tree(write_dynamic_scenes(tmp_path / "a", **SMALL, seed=1))
    b = tree(write_dynamic_scenes(tmp_path / "b", **SMALL, seed=2))
    assert not set(a.values()) & set(b.values())


def test_a_larger_set_begins_with_the_smaller_one(tmp_path):
    a = tree(write_dynamic_scenes(tmp_path / "a", **SMALL))
    b = tree(write_dynamic_scenes(tmp_path / "b", **{**SMALL, "videos_per_class": 3}))
    del a["synthetic.json"]
    assert all(b[name] == data for name, data in a.items())


class Interrupted(Exception):
    """Stands for a kill in the middle of writing."""


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    def stop_at_ten(done, total):
        assert total == 32
        if done == 10:
            raise Interrupted

    with pytest.raises(Interrupted):
        write_dynamic_scenes(tmp_path / "a", **SMALL, progress=stop_at_ten)
    assert len(tree(tmp_path / "a")) == 10 + 1
    rendered = []
    monkeypatch.setattr(
        synthetic, "render_clip", lambda *a: rendered.append(a) or render_clip(*a)
    )
    seen = []
    write_dynamic_scenes(tmp_path / "a", **SMALL, progress=lambda *a: seen.append(a))
    assert len(rendered) == 32 - 10
    assert seen == [(i, 32) for i in range(1, 33)]
    whole = write_dynamic_scenes(tmp_path / "b", **SMALL)
    assert tree(tmp_path / "a") == tree(whole)


def test_a_complete_set_is_left_alone_and_a_damaged_file_written_anew(tmp_path):
    write_dynamic_scenes(tmp_path, **SMALL)
    before = tree(tmp_path)
    name = "camera_moving/expansion/expansion_moving_c01.mp4"
    other = tmp_path / "camera_moving/expansion/expansion_moving_c02.mp4"
    (tmp_path / name).write_bytes(before[name][:100])
    os.utime(other, (1, 1))
    write_dynamic_scenes(tmp_path, **SMALL)
    assert tree(tmp_path) == before
    assert other.stat().st_mtime == 1


def test_a_full_disk_leaves_no_half_written_file(tmp_path, monkeypatch):
    calls = []

    def replace(source, target):
        calls.append(target)
        if len(calls) == 5:
            raise OSError(28, "No space left on device")
        real(source, target)

    real = os.replace
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="No space left"):
        write_dynamic_scenes(tmp_path, **SMALL)
    files = tree(tmp_path)
    assert not [name for name in files if "partial" in name]
    assert len(files) == 3 + 1  # the first call wrote the manifest
    assert all(len(decode(tmp_path / n)) == 3 for n in files if n.endswith("mp4"))


# --- errors --------------------------------------------------------------------------


def test_other_parameters_in_a_folder_are_an_error(tmp_path):
    write_dynamic_scenes(tmp_path, **SMALL, seed=1)
    with pytest.raises(ValueError, match=r"frames is 3, asked for 4; seed is 1, asked"):
        write_dynamic_scenes(tmp_path, **{**SMALL, "frames": 4}, seed=2)


def test_foreign_videos_are_not_mixed_with(tmp_path):
    (tmp_path / "camera_moving" / "beach").mkdir(parents=True)
    with pytest.raises(ValueError, match="has no synthetic.json.*another folder"):
        write_dynamic_scenes(tmp_path, **SMALL)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["camera_moving"]


@pytest.mark.parametrize("text", ["", "[]", '{"parameters": 3}'])
def test_a_broken_manifest_is_an_error(tmp_path, text):
    (tmp_path / "synthetic.json").write_text(text)
    with pytest.raises(ValueError, match="not a manifest of synthetic scenes"):
        write_dynamic_scenes(tmp_path, **SMALL)


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "set").write_text("")
    with pytest.raises(ValueError, match="is a file; name a folder"):
        write_dynamic_scenes(tmp_path / "set", **SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"classes": ["drift_lef"]},
            "unknown class 'drift_lef'; the classes are contr",
        ),
        ({"classes": []}, r"classes must be a sequence .* got \[\]"),
        ({"classes": "expansion"}, "classes must be a sequence .* got 'expansion'"),
        ({"classes": ["expansion"] * 2}, "names expansion more than once"),
        ({"size": 32}, r"size must be \(height, width\).* got 32"),
        ({"size": (32, 8)}, r"at least 16 pixels; got \(32, 8\)"),
        ({"size": (32, 33)}, r"even for H.264 \(4:2:0\); got \(32, 33\)"),
        ({"frames": 1}, "frames must be .* at least 2 .* got 1"),
        ({"frames": 2.5}, "frames must be a whole number .* got 2.5"),
        ({"videos_per_class": 0}, "videos_per_class must be .* got 0"),
        ({"seed": -1}, "seed must be .* got -1"),
        ({"seed": True}, "seed must be .* got True"),
        ({"fps": 0}, "fps must be .* got 0"),
        ({"fps": "25"}, "fps must be .* got '25'"),
    ],
)
def test_bad_arguments_are_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_dynamic_scenes(tmp_path / "set", **{**SMALL, **change})
    assert not (tmp_path / "set").exists()


def test_render_clip_checks_its_arguments():
    with pytest.raises(ValueError, match="unknown class 'spin'"):
        render_clip("spin")
    with pytest.raises(ValueError, match="frames must be"):
        render_clip("expansion", frames=0)


# --- motion --------------------------------------------------------------------------


def test_maps_move_points_as_the_classes_say():
    size = (64, 64)
    right_of_centre = np.array([[50.0, 31.5]])
    expected = {  # sign of (dx, dy) on the screen, y pointing down
        "contraction": (-1, 0),
        "drift_down": (0, 1),
        "drift_left": (-1, 0),
        "drift_right": (1, 0),
        "drift_up": (0, -1),
        "expansion": (1, 0),
        "rotation_clockwise": (0, 1),
        "rotation_counterclockwise": (0, -1),
        "stretch_horizontal": (1, 0),
        "stretch_vertical": (-1, 0),
    }
    for name, signs in expected.items():
        motion = scenes.make_motion(name, size, np.random.default_rng(2))
        assert abs(motion.centre - 31.5).max() <= scenes.CENTRE * 64
        arm = right_of_centre - (31.5, 31.5)
        step = arm @ motion.matrix.T - arm + motion.shift
        large = np.abs(step[0]) > 0.4
        assert tuple(np.sign(step[0]) * large) == signs, name


def test_speed_and_turnover_are_the_same_for_all_classes():
    points = np.random.default_rng(0).uniform(0, 64, (20000, 2))
    rng = np.random.default_rng(1)
    speeds, turnovers = {}, set()
    for name in set(CLASSES + EXTRA_CLASSES) - {"flicker"}:
        motion = scenes.make_motion(name, (64, 64), np.random.default_rng(3))
        arm = points - 32
        step = arm @ motion.matrix.T - arm + motion.steps(0, len(points), rng)
        centred = bool(np.any(motion.matrix != np.eye(2)))
        speeds[name] = np.hypot(*step.T).mean() / (scenes.SPIN if centred else 1)
        turnovers.add(motion.turnover)
    speeds = np.array(list(speeds.values()))
    assert speeds.max() / speeds.min() < 1.12  # exp(k) - 1 against 1 - exp(-k)
    assert len(turnovers) == 1


def test_discs_keep_their_course_for_life():
    motion = scenes.make_motion("drift_right", (64, 64), np.random.default_rng(0))
    discs = scenes.disc_positions(
        motion, 6, (0, 0, 64, 64), 0.01, np.random.default_rng(1)
    )
    pairs = 0
    for (before, ids), (after, later) in zip(discs, discs[1:], strict=False):
        kept, i, j = np.intersect1d(ids, later, return_indices=True)
        np.testing.assert_allclose(
            after[j] - before[i], motion.shift[None] + 0 * after[j]
        )
        pairs += len(kept)
    assert pairs > 50


def test_oscillation_returns_to_its_start():
    motion = scenes.make_motion(
        "oscillation_vertical", (64, 64), np.random.default_rng(0)
    )
    rng = np.random.default_rng(0)
    way = np.cumsum([motion.steps(t, 1, rng)[0] for t in range(16)], axis=0)
    np.testing.assert_allclose(way[7], 0, atol=1e-9)
    np.testing.assert_allclose(way[15], 0, atol=1e-9)
    assert np.abs(way[:, 1]).max() > motion.shift[1] * 1.9


@pytest.mark.parametrize("name", CLASSES + EXTRA_CLASSES)
def test_disc_density_is_even_in_every_frame(name):
    """Counts in nine cells and four frames against the Poisson law of all classes."""
    rng = np.random.default_rng(8)
    runs, side, density = 300, 48, 0.01
    counts = np.zeros((4, 9))
    for _ in range(runs):
        motion = scenes.make_motion(name, (32, 32), rng)
        motion.centre[:] = side / 2
        discs = scenes.disc_positions(motion, 12, (0, 0, side, side), density, rng)
        for row, t in zip(counts, (0, 1, 6, 11), strict=True):
            points, _ = discs[t]
            cells = (points // (side / 3)).astype(int) @ (1, 3)
            row += np.bincount(cells, minlength=9)
    expected = runs * density * side**2 / 9
    z = (counts - expected) / math.sqrt(expected)
    # 36 values, of which those of one cell are correlated: 4.2 is one in 1000.
    assert np.abs(z).max() < 4.2


# --- what one frame tells, and what motion tells -------------------------------------


def render_set(moving, clips_per_class=CLIPS_PER_CLASS):
    """Clips uint8 [N, T, 32, 32, 3] in random order, and their labels [N]."""
    clips, labels = [], []
    for label, name in enumerate(CLASSES):
        for number in range(clips_per_class):
            seed = [7, moving, label, number]
            clips.append(render_clip(name, moving, seed, (32, 32), FRAMES))
            labels.append(label)
    order = np.random.default_rng(0).permutation(len(labels))
    return np.array(clips)[order], np.array(labels)[order]


@pytest.fixture(scope="module")
def stationary():
    return render_set(False)


@pytest.fixture(scope="module")
def moving():
    return render_set(True)


def frame_features(frames):
    """What a single frame shows: colours, discs and edges, in cells and in rings."""
    features = []
    grid = np.stack(np.meshgrid(*[np.arange(32) - 15.5] * 2), -1)
    rings = np.digitize(np.hypot(*np.moveaxis(grid, -1, 0)), (6, 11, 16)).ravel()
    for frame in frames:
        gray = frame.astype(np.float32).mean(-1)
        discs = (np.abs(gray - np.median(gray)) > 30).astype(np.float32)
        edges = np.hypot(cv2.Sobel(gray, -1, 1, 0), cv2.Sobel(gray, -1, 0, 1))
        blur = np.abs(cv2.Laplacian(gray, -1))
        maps = (gray, discs, edges, blur)
        cells = [cv2.resize(m, (4, 4), interpolation=cv2.INTER_AREA) for m in maps]
        radial = [np.bincount(rings, m.ravel()) for m in maps]
        border = [m[edge].mean() for m in maps for edge in (0, -1)]
        border += [m[:, edge].mean() for m in maps for edge in (0, -1)]
        colours = [frame.mean((0, 1)), frame.std((0, 1))]
        features.append(
            np.concatenate([np.ravel(x) for x in (*cells, *radial, border)])
        )
        features[-1] = np.concatenate([features[-1], *colours])
    return np.array(features)


def motion_features(clips):
    """Mean over time of the affine flow that explains each pair of frames best."""
    y, x = np.mgrid[-1:1:32j, -1:1:32j].astype(np.float32)
    features = []
    for clip in clips:
        flows = []
        gray = [cv2.GaussianBlur(f, (0, 0), 1.2) for f in clip.mean(-1, dtype="f4")]
        for before, after in zip(gray, gray[1:], strict=False):
            middle = (before + after) / 2
            dx, dy = np.gradient(middle, axis=1), np.gradient(middle, axis=0)
            columns = np.stack([dx, dy, dx * x, dx * y, dy * x, dy * y], -1)
            matrix = columns.reshape(-1, 6)
            change = (after - before).ravel()
            flows.append(np.linalg.lstsq(matrix, -change, rcond=None)[0])
        features.append(np.mean(flows, axis=0))
    return np.array(features)


def linear():
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200))


def forest():
    return RandomForestClassifier(150, min_samples_leaf=3, random_state=0)


def accuracy(classifier, features, labels):
    """Accuracy on the last third after training on the rest, and the test's size."""
    split = len(labels) * 2 // 3
    classifier.fit(features[:split], labels[:split])
    return classifier.score(features[split:], labels[split:]), len(labels) - split


def chance_bound(tests):
    """What guessing exceeds once in about 10,000 times."""
    return CHANCE + 3.72 * math.sqrt(CHANCE * (1 - CHANCE) / tests)


def frames_at(clips, which):
    rng = np.random.default_rng(1)
    at = {"first": 0, "last": FRAMES - 1, "any": rng.integers(0, FRAMES, len(clips))}
    return clips[np.arange(len(clips)), at[which]]


@pytest.mark.parametrize("which", ["first", "last", "any"])
@pytest.mark.parametrize("classifier", [linear, forest])
@pytest.mark.parametrize("camera", ["stationary", "moving"])
def test_one_frame_does_not_tell_the_class(camera, classifier, which, request):
    clips, labels = request.getfixturevalue(camera)
    features = frame_features(frames_at(clips, which))
    score, tests = accuracy(classifier(), features, labels)
    assert score < chance_bound(tests)


@pytest.mark.parametrize("classifier", [linear, forest])
def test_one_frame_does_tell_the_class_without_new_discs(classifier, monkeypatch):
    """The counterpart: without births, the side the discs came from is empty."""
    real, calls = scenes._poisson, []

    def only_at_the_start(region, density, rng):
        calls.append(density)
        start = len(calls) % FRAMES == 1  # one call per frame of a clip
        return real(region, density if start else 0.0, rng)

    monkeypatch.setattr(scenes, "_poisson", only_at_the_start)
    clips, labels = render_set(False)
    features = frame_features(frames_at(clips, "last"))
    score, tests = accuracy(classifier(), features, labels)
    assert score > chance_bound(tests) + 0.05


@pytest.mark.parametrize(
    ("camera", "at_least"), [("stationary", 0.9), ("moving", 0.75)]
)
def test_motion_tells_the_class(camera, at_least, request):
    clips, labels = request.getfixturevalue(camera)
    score, _ = accuracy(forest(), motion_features(clips), labels)
    assert score > at_least


def test_motion_does_not_tell_the_class_of_shuffled_frames(stationary):
    """The counterpart: with the order of frames gone, so is the direction."""
    clips, labels = stationary
    rng = np.random.default_rng(2)
    shuffled = np.array([clip[rng.permutation(FRAMES)] for clip in clips])
    ordered, _ = accuracy(forest(), motion_features(clips), labels)
    score, _ = accuracy(forest(), motion_features(shuffled), labels)
    assert score < ordered - 0.3
