"""`zoo flow --show` and `--camera_motion`: what is drawn, removed, counted, refused."""

import json
import pickle
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest

from tests import video_files
from tests.flow_cases import files_of, moving
from tests.moving_cameras import texture
from tests.test_command_line import run
from zoo import layers
from zoo.datasets import read_video
from zoo.datasets.extraction import OpenCVMethod, Settings, extract
from zoo.datasets.flow import FlowFolder, to_pixels
from zoo.datasets.video_writing import write_video
from zoo.flow_methods import Batches, LayerMethod, find
from zoo.layers.tv_l1 import PRESETS


class Difference(keras.layers.Layer):
    """Stands in for TVL1Flow: the difference of red and green as displacements."""

    def __init__(self, preset="default"):
        super().__init__()
        self.preset = preset

    def call(self, frames):
        first, second = (keras.ops.cast(x, "float32") for x in frames)
        return (second - first)[..., :2]


@pytest.fixture
def videos(tmp_path):
    """A pan by 2 pixels per frame, and a grey picture in which nothing is found."""
    wide = texture(np.random.default_rng(0), (96, 160))
    folder = tmp_path / "videos" / "set"
    folder.mkdir(parents=True)
    write_video(folder / "pan.mp4", [wide[:, 2 * n : 2 * n + 128] for n in range(6)])
    write_video(folder / "grey.mp4", [np.full((96, 128, 3), 90, np.uint8)] * 5)
    return folder


def zoo_flow(capsys, *words):
    """(exit code, standard output, error output) of `zoo flow`, in this process."""
    return run(capsys, "flow", *map(str, words))


def manifest(out):
    lines = (Path(out) / "manifest.jsonl").read_text().splitlines()
    return {entry["video"]: entry for entry in map(json.loads, lines)}


# --- drawn ---------------------------------------------------------------------------


def test_a_video_of_computed_flow_and_a_sheet(videos, tmp_path, capsys):
    pan, out = videos / "pan.mp4", tmp_path / "shown.mp4"
    arguments = (pan, "--method", "dis", "--bound", 2, "--encoding", "u", "--show")
    code, printed, error = zoo_flow(capsys, *arguments, out)
    assert (code, printed) == (0, f"5 of 5 pairs drawn: {out}\n"), error
    drawn = read_video(out).frames
    assert drawn.shape == (5, 96, 256, 3)
    assert np.median(drawn[:, 30:, 128:]) < 10  # to the left by the bound: black
    code, printed, _ = zoo_flow(capsys, *arguments, tmp_path / "shown.png")
    assert code == 0 and printed.startswith("5 of 5 pairs drawn")
    assert cv2.imread(str(tmp_path / "shown.png")) is not None
    assert {p.name for p in tmp_path.iterdir()} == {"videos", "shown.mp4", "shown.png"}


@pytest.mark.parametrize("form", ["jpeg", "tfrecord"])
def test_stored_flow_is_drawn_and_not_computed(videos, tmp_path, capsys, form):
    """At half the size, so displacements of one pixel: grey in between."""
    out, settings = tmp_path / "flow", ("--size", 48, "--format", form)
    zoo_flow(capsys, videos, "--out", out, "--method", "dis", *settings)
    before = files_of(out)
    shown = ("--show", tmp_path / "s.mp4", "--flow", out, "--encoding", "u")
    code, printed, error = zoo_flow(capsys, videos / "pan.mp4", *shown, "--bound", 2)
    assert code == 0 and printed.startswith("5 of 5 pairs drawn"), error
    drawn = read_video(tmp_path / "s.mp4").frames[:, 30:, 128:]
    assert abs(np.median(drawn) - 64) < 12 and files_of(out) == before


def test_the_layer_draws_pair_by_pair(videos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(layers, "TVL1Flow", Difference, raising=True)
    arguments = ("--method", "layer", "--camera_motion", "--show", tmp_path / "s.mp4")
    code, printed, error = zoo_flow(capsys, videos / "grey.mp4", *arguments)
    assert code == 0 and printed.splitlines()[0].startswith("4 of 4 pairs"), error
    assert printed.splitlines()[1].startswith("4 of them are plain flow")
    assert not (read_video(tmp_path / "s.mp4").frames[:, 30:, 140:] < 245).any()


def test_damage_is_said(videos, tmp_path, capsys):
    path, out = videos / "cut.mkv", tmp_path / "s.png"
    video_files.write(path, video_files.noise(20))
    whole = path.read_bytes()
    for kept, expected in ((len(whole) // 2, 0), (100, 2)):
        path.write_bytes(whole[:kept])
        out.unlink(missing_ok=True)
        code, _, error = zoo_flow(capsys, path, "--method", "farneback", "--show", out)
        assert code == expected and out.exists() == (not expected), error
        assert "cut.mkv" in error and ("; drawn from the " in error) == (not expected)


# --- the camera's motion -------------------------------------------------------------


def test_the_pan_is_gone_and_what_has_none_counted(videos, tmp_path, capsys):
    out = tmp_path / "flow"
    arguments = (videos, "--out", out, "--method", "dis", "--size", 96)
    code, printed, error = zoo_flow(
        capsys, *arguments, "--camera_motion", "--processes", 1
    )
    assert code == 0 and "; no camera motion in 4; in" in printed, error
    field = to_pixels(FlowFolder(out).fields(videos / "pan.mp4", range(5)))
    assert np.median(np.abs(field)) < 0.2
    entries = manifest(out)
    assert entries["set/pan"]["settings"]["parameters"]["camera_motion"] is True
    plain = {name: entry["plain_fields"] for name, entry in entries.items()}
    assert plain == {"set/pan": 0, "set/grey": 4}
    # The other way round as well: neither resumes the other.
    code, _, error = zoo_flow(capsys, *arguments)
    assert code == 2 and "camera_motion was True and is now None" in error
    code, printed, _ = zoo_flow(capsys, *arguments, "--overwrite")
    assert code == 0 and "2 videos extracted" in printed and "camera" not in printed
    assert not any("plain_fields" in entry for entry in manifest(out).values())
    code, _, error = zoo_flow(capsys, *arguments, "--camera_motion")
    assert code == 2 and "camera_motion was None and is now True" in error
    assert zoo_flow(capsys, "--check", out)[0] == 0


def test_processes_count_the_same(videos, tmp_path):
    settings = Settings(OpenCVMethod("dis", camera_motion=True), 96)
    one, two = (
        extract([videos], tmp_path / str(n), settings, processes=n) for n in (1, 2)
    )
    assert one.plain == two.plain == 4
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")


def test_a_layer_takes_it_out_and_counts():
    """A common displacement goes, noise stays; filling isn't counted."""
    grey = np.full((1, 24, 32, 3), 40, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), np.uint8)
    firsts = np.concatenate([grey, noise[:1], grey + 9, noise[:1], noise[1:]])
    seconds = np.concatenate([grey + 3, noise[1:], grey, noise[1:], noise[:1]])
    flow = Batches(Difference(), 4, layers.RemoveCameraMotion())
    expected = Batches(Difference(), 4).between(firsts[:4], seconds[:4])
    found = flow.between(firsts[:4], seconds[:4])
    assert flow.plain == 2
    assert abs(expected[0]).min() == 3 and np.abs(found[[0, 2]]).max() < 1e-3
    np.testing.assert_array_equal(found[[1, 3]], expected[[1, 3]])
    assert flow.between(firsts[4:], seconds[4:]).shape == (1, 24, 32, 2)
    assert flow.plain == 3


def test_extraction_by_a_layer(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(layers, "TVL1Flow", Difference, raising=True)
    write_video(videos / "step.mp4", moving(5, 96, 128))
    settings = Settings(LayerMethod("fast", camera_motion=True), 96)
    done = extract([videos], tmp_path / "flow", settings)
    entries = manifest(tmp_path / "flow")
    assert done.extracted == 3 and not done.failed
    assert done.plain == sum(entry["plain_fields"] for entry in entries.values())
    assert entries["set/grey"]["plain_fields"] == 4
    assert entries["set/grey"]["settings"]["parameters"] == {
        "preset": "fast", "camera_motion": True, **PRESETS["fast"]
    }  # fmt: skip


@pytest.mark.parametrize("name", ["tvl1", "layer"])
def test_the_description_travels_between_processes(name):
    method = find(name, camera_motion=True)
    assert pickle.loads(pickle.dumps(method)) == method != find(name)
    assert "camera_motion" not in find(name).parameters
    assert method.parameters == {**find(name).parameters, "camera_motion": True}


# --- what doesn't go together --------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("V --show s.mp4 --out f --size 64", "draws a video in its own size and stores "
         "no flow; leave out --out, --size."),
        ("V --show s.mp4 --flow f --camera_motion", "--flow shows flow as it was stored"
         "; leave out --camera_motion."),
        ("V --show s.mp4 --flow f --method dis", "leave out --method."),
        ("V --show s.mp4 --flow dis", "to compute it: --method dis."),
        ("V --show s.mp4 --flow nowhere", "nowhere is no folder of optical flow"),
        ("V --out f --bound 3 --flow f", "Only with --show OUT.mp4 or OUT.png: --flow"),
        ("--check f --show s.mp4 --camera_motion", "--check reads a folder as it is; "
         "leave out --show, --camera_motion."),
        ("--show s.mp4", "zoo flow needs videos"),
        ("V V --show s.mp4", "Too many arguments"),
        ("V --show s.gif --method dis", "s.gif: flow is shown in a video"),
        ("V --show s.png --method dis --encoding rainbow", "'rainbow'; accepted are"),
        ("V --show s.png --method dis --bound 0", "bound"),
    ],
)  # fmt: skip
def test_wrong_flags_are_named(words, message, videos, capsys, monkeypatch):
    monkeypatch.chdir(videos)
    code, _, error = zoo_flow(capsys, *words.replace("V", "pan.mp4").split())
    assert code == 2 and message in error and error.startswith("zoo: error: ")
    assert sorted(p.name for p in videos.iterdir()) == ["grey.mp4", "pan.mp4"]
