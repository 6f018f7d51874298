"""What the zoo command refuses to do with detectors, before it computes anything."""

from types import SimpleNamespace

import numpy as np
import pytest

import zoo
from tests import video_files
from tests.test_command_line import run
from zoo.datasets.imagenet_annotations import AnnotationError
from zoo.evaluation import detect
from zoo.training import detection
from zoo.training.detection_recipe import DetectionRecipe
from zoo.weights import folder as model_folder


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    frames = video_files.noise(3, 48, 64)
    return video_files.write(tmp_path_factory.mktemp("video") / "clip.mp4", frames)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """The folder of an untrained detector, in that of a training."""
    path = tmp_path_factory.mktemp("run") / "last"
    record = model_folder.ModelRecord("rfcn_tiny", 4, frames=1, shorter_side=48)
    model_folder.save(path, zoo.load("rfcn_tiny"), record)
    return path


def test_targets_of_tracking_are_checked_first(video, tmp_path, capsys):
    """Before the model is read, let alone the video: there is none here."""
    track = ("track", str(video), "--model", "none", "--out")
    before, out = video.read_bytes(), str(tmp_path / "out.mp4")
    file = tmp_path / "file"
    file.write_text("")
    for flags, message in (
        ((str(tmp_path),), "is a folder; name a file to write"),
        ((str(video),), "would overwrite the video"),
        ((out, f"--render={video}"), "would overwrite the video"),
        ((out, f"--render={out}"), "would overwrite --out"),
        ((out, "--render=x.avi"), "--render writes .mp4; got 'x.avi'"),
        ((out, f"--render={file}/x.mp4"), f"Could not write {file}"),
        ((f"{file}/x.json",), f"Could not write {file}"),
        ((out, "--min_score=2.5"), "--min_score must be 0 to 2.*got 2.5"),
        ((out, "--min_score=nan"), "got nan"),
        ((out,), "none is no model folder"),  # and no flag is wrong
    ):
        code, _, err = run(capsys, *track, *flags)
        assert code == 2, flags
        assert message.split(".*")[-1] in err, flags
        assert message.split(".*")[0] in err, flags
    assert video.read_bytes() == before


def test_flags_of_no_use_are_refused(detector, video, capsys, tmp_path):
    evaluate = ("evaluate", "--data", str(tmp_path), "--model")
    for flags, message in (
        ((*evaluate, str(detector), "--flow=tvl1"), "no use of --flow"),
        ((*evaluate, str(detector), "--split_seed=3"), "no use of --split_seed"),
        ((*evaluate, str(detector.parent)), f"did you mean {detector}?"),
        (("track", str(video), "--model", str(detector.parent), "--out=x"), "did you"),
    ):
        code, _, err = run(capsys, *flags)
        assert (code, message in err) == (2, True), (flags, err)


def test_frames_that_cannot_be_decoded_are_named(tmp_path):
    path = tmp_path / "000000.JPEG"
    path.write_bytes(b"\xff\xd8\xff\xe0 no picture")
    with pytest.raises(AnnotationError, match="000000.JPEG: cannot be decoded"):
        list(detect._frames(SimpleNamespace(paths=[str(path)])))


def test_drawing_needs_no_table_of_frames(video, tmp_path):
    """Tubes may begin late, end early and have gaps."""
    from zoo.datasets.video import read_video
    from zoo.detection_commands import render
    from zoo.evaluation.tubes import Tube

    box = np.array([[8, 20, 40, 44]] * 2, "float32")
    tube = Tube(0, 0, 1.0, np.array([0, 2]), box, np.ones(2, "float32"))
    render(video, [tube], ["bus"], tmp_path / "out.mp4", 25.0)
    drawn, plain = (
        read_video(p).frames.astype(int) for p in (tmp_path / "out.mp4", video)
    )
    changed = np.abs(drawn - plain)[:, 10:46].mean((1, 2, 3))
    assert changed[1] < changed[0] / 1.5 and changed[1] < changed[2] / 1.5, changed


def test_networks_without_proposals_are_not_trained_by_recipes():
    recipe = DetectionRecipe("rfcn_tiny", options={"variant": "release"})
    with pytest.raises(ValueError, match="rfcn_tiny reads proposals.*'release'"):
        detection._compiled(recipe, 4, 0)
