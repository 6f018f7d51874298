"""From annotated videos to tubes drawn on a video, by the zoo command."""

import json

import numpy as np
import pytest

from tests import video_files
from zoo.__main__ import main
from zoo.datasets.synthetic_vid import write_synthetic_vid
from zoo.datasets.video import read_video
from zoo.understanding.tube_video import colour_of, draw_objects

CLASSES = "--classes=bus,turtle,whale,zebra"
TRAIN = (
    "train",
    "detect_track_synthetic",
    CLASSES,
    "--set=learning_rate=((1e-3, 4),)",
    "--set=updates_per_epoch=2",
    "--set=batch_size=2",
    "--set=shorter_side=64",
    "--set=padded_size=(64, 80)",
)


def run(*arguments):
    """The exit code of a command."""
    return main([str(x) for x in arguments])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Eight small videos and stills in the layout of ImageNet VID and DET."""
    out = tmp_path_factory.mktemp("vid")
    return write_synthetic_vid(out, (6, 2), 6, frames=5, size=(64, 80))


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """The run of a tracker, trained for a moment."""
    out = tmp_path_factory.mktemp("runs") / "dt"
    assert run(*TRAIN, "--data", root, "--out", out) == 0
    return out


@pytest.fixture(scope="module")
def video(root, tmp_path_factory):
    """The frames of a validation video as a file."""
    rng = np.random.default_rng(0)
    frames = np.repeat(rng.integers(0, 256, (6, 12, 16, 3), np.uint8), 6, 1)
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    return video_files.write(path, np.repeat(frames, 6, 2))


def test_training_is_recorded_and_ends_by_itself(trained, root, capsys):
    record = json.loads((trained / "last" / "model.json").read_text())
    assert record["name"] == "detect_track_tiny"
    assert record["labels"] == ["bus", "turtle", "whale", "zebra"]
    assert (record["shorter_side"], record["longer_side"]) == (64, 160)
    rows = (trained / "history.csv").read_text().splitlines()
    assert len(rows) == 3  # header, and 4 updates in epochs of 2
    assert {"track_loss", "proposal_recall", "rpn_box_loss"} <= set(rows[0].split(","))
    assert run(*TRAIN, "--data", root, "--out", trained) == 0  # nothing left to do
    assert "2 epochs; the model is" in capsys.readouterr().out


def test_evaluation(trained, root, tmp_path, capsys):
    out = tmp_path / "report"
    model = ("--model", trained / "last")
    assert run("evaluate", *model, "--data", root, "--out", out) == 0
    text = capsys.readouterr().out
    assert all(f"| {method} " in text for method in ("frames", "tubes", "online"))
    results = json.loads((out / "results.json").read_text())
    assert results["videos"] == 2
    assert results["frames"] == 10
    assert set(results["methods"]) == {"frames", "tubes", "online"}
    objects = results["methods"]["tubes"]["classes"]
    assert sum(c["objects"]["all"] for c in objects.values()) > 0


@pytest.mark.parametrize("flags", [("--stride=2",), ("--online",)])
def test_tubes_and_their_picture(trained, video, tmp_path, flags, capsys):
    model = ("--model", trained / "last")
    out, drawn = tmp_path / "tubes.json", tmp_path / "out.mp4"
    flags = (*flags, "--min_score=0", "--render", drawn)
    assert run("track", video, *model, "--out", out, *flags) == 0
    found = json.loads(out.read_text())
    assert (found["width"], found["height"]) == (96, 72)
    assert found["frames"] == 6
    assert found["labels"] == ["bus", "turtle", "whale", "zebra"]
    assert found["tubes"]
    for tube in found["tubes"]:
        boxes = np.array(tube["boxes"])
        assert len(tube["frames"]) == len(boxes) == len(tube["scores"])
        assert boxes.min() >= -0.01
        assert (boxes.max(0) <= [96.01, 72.01] * 2).all()
        assert tube["name"] == found["labels"][tube["label"]]
    if "--stride=2" in flags:  # with boxes between the frames that were looked at
        assert found["tubes"][0]["frames"] == [0, 1, 2, 3, 4, 5]
    frames = read_video(drawn).frames
    assert frames.shape == (6, 72, 96, 3)
    apart = np.abs(frames.astype(int) - read_video(video).frames).mean()
    assert apart > 5  # boxes are drawn
    assert f"{len(found['tubes'])} tubes in" in capsys.readouterr().out


def test_export(trained, tmp_path, capsys):
    model = ("--model", trained / "last")
    assert run("export", *model, "--out", tmp_path, "--name", "dt") == 0
    assert (tmp_path / "dt" / "1" / "saved_model.pb").is_file()
    assert run("export", *model, "--out", tmp_path, "--flow", "tvl1") == 2
    assert "A detector sees no optical flow" in capsys.readouterr().err


def test_wrong_uses_are_named(trained, video, root, tmp_path, capsys):
    model = ("--model", trained / "last")
    out = ("--out", tmp_path / "tubes.json")
    empty = tmp_path / "empty.mp4"
    empty.write_bytes(b"")
    data = ("--data", root, "--out", tmp_path / "run")
    for arguments, message in (
        (("track", video, *model), "needs --out"),
        (("track", empty, *model, *out), "empty.mp4"),
        (("track", video, *model, *out, "--render=x.avi"), "writes .mp4; got 'x.avi'"),
        (("track", video, *model, *out, "--tracks=all"), "accepted are proposals, reg"),
        (("track", video, *model, *out, "--stride=0"), "at least 1; got 0"),
        (("track", video, "--model", trained, *out), "did you mean"),
        (("predict", video, *model), "a detector; `zoo track`"),
        (("train", "rfcn_synthetic", *data, "--classes=bus,cat"), "cat"),
        (("train", "rfcn_synthetic", *data, "--flow=tvl1"), "without --flow"),
    ):
        assert run(*arguments) == 2, arguments
        assert message in capsys.readouterr().err
    assert not (tmp_path / "tubes.json").exists()


def test_objects_are_drawn_in_their_colours():
    frame = np.zeros((60, 80, 3), np.uint8)
    picture = draw_objects(frame, [(3, "dog", (10, 20, 50, 55.4))])
    assert not frame.any()
    for y, x in ((20, 40), (55, 30), (30, 10), (30, 50)):
        assert tuple(picture[y, x]) == colour_of(3)
    assert not picture[40, 30].any()
    assert draw_objects(frame, [(0, "x", (-9, -9, 500, 500))]).shape == frame.shape
    assert len({colour_of(i) for i in range(50)}) == 50


def test_random_weights_are_not_frozen(root, tmp_path, capsys):
    train = ("train", "--model", "detect_track_tiny", "--data", root, CLASSES)
    assert run(*train, "--out", tmp_path / "run") == 2
    assert "random weights with batch normalisation frozen" in capsys.readouterr().err
