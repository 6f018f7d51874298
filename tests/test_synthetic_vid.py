"""Synthetic videos in VID's layout: exact boxes, evidence, determinism, resumption."""

import json
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from zoo.datasets import tracked_scenes
from zoo.datasets.imagenet_det import ImageNetDET
from zoo.datasets.imagenet_vid import ImageNetVID
from zoo.datasets.synthetic_vid import write_synthetic_vid
from zoo.datasets.tracked_scenes import (
    CLASSES,
    DISTRACTOR,
    Thing,
    blurred_frames,
    render_tracked,
)

SMALL = {"videos": (3, 2), "stills": 6, "frames": 8, "size": (64, 96)}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A small set."""
    return write_synthetic_vid(tmp_path_factory.mktemp("set") / "vid", **SMALL)


@pytest.fixture(scope="module")
def clips():
    """Videos of the default size."""
    return [render_tracked(seed) for seed in range(12)]


def contents(root):
    """All files of a folder."""
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# --- rendering -----------------------------------------------------------------------


def test_equal_seeds_give_equal_videos():
    a, b, c = (render_tracked(seed, (64, 64), 4) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a.frames, b.frames)
    assert a.sightings == b.sightings
    assert (a.frames != c.frames).any()
    assert a.frames.shape == (4, 64, 64, 3) and a.frames.dtype == np.uint8


@pytest.mark.parametrize("difficulty", [0, 0.3, 1])
def test_difficulty_is_the_share_of_blurred_frames(difficulty):
    clip = render_tracked(3, (64, 64), 20, difficulty)
    assert clip.blurred.sum() == round(difficulty * 20)
    np.testing.assert_array_equal(clip.blurred, blurred_frames(3, 20, difficulty))


@pytest.mark.parametrize("name", [*CLASSES, DISTRACTOR])
@pytest.mark.parametrize("power", tracked_scenes.POWERS)
def test_the_box_is_where_the_object_is(name, power):
    thing = Thing(
        name,
        np.array([[40.3, 30.6]]),
        np.array([1.1]),
        (20.0, 14.0),
        power,
        np.zeros(2),
        np.array([[200.0] * 3, [255.0] * 3]),
        np.ones((9, 9)),
    )
    view = np.zeros((64, 96, 3), np.float32)
    (rows, columns), cover = tracked_scenes._paint(view, thing, 0)
    whole = np.zeros((64, 96))
    whole[rows, columns] = cover
    x1, y1, x2, y2 = tracked_scenes._box(thing, 0, (64, 96))
    np.testing.assert_allclose([x1, y1, x2, y2], [18.3, 15.2, 62.3, 46.0])
    ys, xs = np.nonzero(view[..., 0] > 100)
    assert abs(xs.min() - x1) < 1.1 and abs(xs.max() + 1 - x2) < 1.1
    assert abs(ys.min() - y1) < 1.1 and abs(ys.max() + 1 - y2) < 1.1
    assert abs(whole.sum() / tracked_scenes._area(thing) / 1.1**2 - 1) < 0.01


def test_a_post_hides_and_the_box_stays(monkeypatch):
    monkeypatch.setattr(tracked_scenes, "HIDDEN", 0.0)
    thing = Thing(
        "bus",
        np.array([[40.0, 30.0]]),
        np.ones(1),
        (20.0, 14.0),
        2.0,
        np.zeros(2),
        np.array([[200.0] * 3, [255.0] * 3]),
        np.ones((9, 9)),
    )
    view = np.zeros((64, 96, 3), np.float32)
    cover = tracked_scenes._paint(view, thing, 0)

    def seen(first, last):
        hidden = np.zeros(96, bool)
        hidden[first:last] = True
        return tracked_scenes._seen([thing], [cover], [hidden], 0, (64, 96))

    (free,), (half,) = seen(70, 80), seen(40, 60)
    assert (free.occluded, half.occluded) == (False, True)
    assert free.box == half.box == (20, 16, 60, 44)
    assert seen(20, 60) == ()


def test_an_object_in_front_hides_what_is_behind(clips):
    pairs = [
        (near, far, seen)
        for clip in clips
        for seen in clip.sightings
        for near in seen
        for far in seen
        if near.track > far.track and _covers(near.box, far.box)
    ]
    assert len(pairs) >= 3
    assert all(far.occluded for _, far, _ in pairs)


def _covers(near, far):
    """Whether the middle of the near box is well within the far one, and large."""
    x, y = (near[0] + near[2]) / 2, (near[1] + near[3]) / 2
    inside = far[0] + 4 < x < far[2] - 4 and far[1] + 4 < y < far[3] - 4
    return inside and min(near[2] - near[0], near[3] - near[1]) > 20


def test_tracks_are_steady_and_boxes_move_smoothly(clips):
    for clip in clips:
        names, before = {}, {}
        for seen in clip.sightings:
            assert len({s.track for s in seen}) == len(seen)
            for s in seen:
                assert names.setdefault(s.track, s.class_name) == s.class_name
                if s.track in before:
                    assert np.abs(np.subtract(s.box, before[s.track])).max() < 13
            before = {s.track: s.box for s in seen}


def test_blur_takes_the_evidence_of_the_class(clips):
    """The texture's contrast in the middle of free objects, sharp and blurred."""
    spread = {True: [], False: []}
    for clip in clips:
        for frame, seen, blurred in zip(
            clip.frames, clip.sightings, clip.blurred, strict=True
        ):
            for s in seen:
                x1, y1, x2, y2 = (round(v) for v in s.box)
                inside = 0 < x1 and 0 < y1 and x2 < 160 and y2 < 128
                if s.occluded or s.class_name == DISTRACTOR or not inside:
                    continue
                x, y = (x1 + x2) // 2, (y1 + y2) // 2
                core = frame[y - 5 : y + 6, x - 5 : x + 6].astype(np.float32)
                # Without the noise, whose standard deviation is three levels.
                core = cv2.GaussianBlur(core, (0, 0), 0.7).std((0, 1)).max()
                spread[bool(blurred)].append(core)
    assert min(map(len, spread.values())) >= 20
    assert np.median(spread[False]) > 40
    assert np.median(spread[True]) < 0.08 * np.median(spread[False])


def test_all_classes_occur_with_one_mean_colour_law(clips):
    names = [s.class_name for clip in clips for seen in clip.sightings for s in seen]
    assert set(names) == {*CLASSES, DISTRACTOR}
    side = 128
    for name in CLASSES:
        x = np.arange(-32, 32)[None, :] + 0.5
        # Half dark, half light, on the average over the phases.
        shades = [
            tracked_scenes._texture(
                Thing(name, *[None] * 4, np.array([a, a / 3]), None, None), x, x.T, side
            ).mean()
            for a in np.linspace(0, 2 * np.pi, 12, endpoint=False)
        ]
        assert abs(np.mean(shades) - 0.5) < 0.02, name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (63, 64)}, "at least 64 pixels"),
        ({"frames": 1}, "frames must be a whole number of at least 2"),
        ({"difficulty": 1.1}, r"difficulty must be a number in \[0, 1\], got 1.1"),
        ({"difficulty": True}, "difficulty must be a number"),
    ],
)
def test_what_cannot_be_rendered(arguments, message):
    with pytest.raises(ValueError, match=message):
        render_tracked(**arguments)


# --- the folder ----------------------------------------------------------------------


def test_the_readers_take_it_for_the_real_one(root):
    train = ImageNetVID(root, "train", CLASSES)
    val = ImageNetVID(root, "val", CLASSES)
    assert [len(v) for v in train.videos] == [8] * 3
    videos = list(val.annotated())
    assert [v.name for v in videos] == [f"ILSVRC2015_val_0000000{i}" for i in (0, 1)]
    assert videos[1].numbers == tuple(range(9, 17))
    frames = [f for v in videos for f in v.frames]
    assert sum(map(len, frames)) > 8
    assert {(f.width, f.height) for f in frames} == {(96, 64)}
    assert not val.findings.counts
    det = ImageNetDET(root, classes=CLASSES)
    assert 1 <= len(det) <= 6
    assert set(det.findings.counts) == {"box(es) of other classes left out"}


def test_boxes_are_those_rendered_up_to_a_pixel(root):
    from zoo.datasets.generated import seed_of

    (video, _) = ImageNetVID(root, "val", CLASSES).annotated()
    clip = render_tracked(seed_of(0, "val", 0), (64, 96), 8)
    for frame, seen in zip(video.frames, clip.sightings, strict=True):
        seen = [s for s in seen if s.class_name != DISTRACTOR]
        assert frame.tracks.tolist() == [s.track for s in seen]
        assert frame.labels.tolist() == [CLASSES.index(s.class_name) for s in seen]
        assert frame.occluded.tolist() == [s.occluded for s in seen]
        for box, s in zip(frame.boxes, seen, strict=True):
            outward = np.subtract(s.box, box) * (1, 1, -1, -1)
            assert (outward >= 0).all() and (outward < 1).all()


def test_annotations_have_the_elements_of_the_official_ones(root):
    name = "VID/train/ILSVRC2015_VID_train_0000/ILSVRC2015_train_00000000"
    paths = sorted((root / "Annotations" / name).glob("*.xml"))
    node = next(
        n for n in map(ElementTree.parse, paths) if n.find("object") is not None
    ).getroot()
    assert [child.tag for child in node][:5] == [
        *("folder", "filename", "source", "size", "object")
    ]
    assert node.findtext("folder") == "/".join(name.split("/")[2:])
    assert [child.tag for child in node.find("object")] == [
        *("trackid", "name", "bndbox", "occluded", "generated")
    ]
    assert [child.tag for child in node.find("object/bndbox")] == [
        *("xmax", "xmin", "ymax", "ymin")
    ]
    assert [child.tag for child in node.find("size")] == ["width", "height"]


def test_lists_name_the_videos_of_each_class(root):
    train = ImageNetVID(root, "train")
    for number, name in enumerate(train.class_names, start=1):
        text = (root / f"ImageSets/VID/train_{number}.txt").read_text()
        shown = [
            video.name
            for video in train.videos
            if any(number - 1 in train.read(video, t).labels for t in range(8))
        ]
        listed = [line.split()[0] for line in text.splitlines()]
        assert listed == shown or name == "airplane" and not shown


def test_conditions_say_which_frames_are_blurred(root):
    blurred = json.loads((root / "conditions.json").read_text())["blurred"]
    assert set(blurred) == {"train", "val"}
    assert {len(frames) for frames in blurred["train"].values()} == {4}
    assert list(blurred["val"]) == [
        "ILSVRC2015_val_00000000",
        "ILSVRC2015_val_00000001",
    ]


def test_equal_parameters_give_equal_files(root, tmp_path):
    assert contents(write_synthetic_vid(tmp_path / "b", **SMALL)) == contents(root)


def test_an_interrupted_set_is_no_small_one_and_is_completed(root, tmp_path):
    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_synthetic_vid(tmp_path, **SMALL, progress=stop)
    with pytest.raises(ValueError, match="ImageSets/VID: no such folder"):
        ImageNetVID(tmp_path)
    steps = []
    write_synthetic_vid(tmp_path, **SMALL, progress=lambda *step: steps.append(step))
    assert steps[-1] == (12, 12)
    assert contents(tmp_path) == contents(root)


def test_a_set_with_other_parameters_is_refused(root, tmp_path):
    with pytest.raises(ValueError, match="seed is 0, asked for 1"):
        write_synthetic_vid(root, **SMALL, seed=1)
    (tmp_path / "Data").mkdir()
    (tmp_path / "Data/mine").touch()
    with pytest.raises(ValueError, match="Data holds files.*not synthetic VID"):
        write_synthetic_vid(tmp_path, **SMALL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"videos": (0, 1)}, r"videos must be two whole numbers.*got \(0, 1\)"),
        ({"videos": 3}, "videos must be two whole numbers"),
        ({"stills": -1}, "stills must be a whole number of at least 0; got -1"),
        ({"seed": 0.5}, "seed must be a whole number"),
        ({"difficulty": -1}, "difficulty must be a number"),
        ({"size": (32, 64)}, "at least 64 pixels"),
    ],
)
def test_sets_that_cannot_be_written(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_synthetic_vid(tmp_path / "x", **arguments)
    assert not (tmp_path / "x").exists()
