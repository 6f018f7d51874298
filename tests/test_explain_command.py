"""`zoo explain`: what is drawn, said and refused, on whole and on damaged videos."""

import re
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest

import zoo
from tests import video_files
from tests.test_command_line import run
from tests.test_models import trained
from zoo import layers
from zoo.command_line import without_trace
from zoo.datasets import probe, read_video
from zoo.understanding.attribution import Attribution
from zoo.understanding.attribution_video import STRIP, drawn, heat
from zoo.weights import folder as model_folder

METHOD = "gradient_x_input"
LABELS = tuple("abcdefg") + ("YoYo",)


def write_model(path, name, frames):
    record = model_folder.ModelRecord(
        name, 8, labels=LABELS, frames=frames, shorter_side=64
    )
    model_folder.save(path, trained(zoo.load(name), clips=2), record)
    return str(path)


@pytest.fixture(scope="module")
def of_frames(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("vgg"), "vgg_tiny", 3)


@pytest.fixture(scope="module")
def of_both(tmp_path_factory):
    path = tmp_path_factory.mktemp("two")
    return write_model(path, "two_stream_vgg_tiny", 4)


@pytest.fixture
def video(tmp_path):
    return str(video_files.write(tmp_path / "noise.mp4", video_files.noise(30)))


def explain(capsys, *words):
    return run(capsys, "explain", *map(str, words))


# --- drawn ---------------------------------------------------------------------------


def test_the_best_class_and_where_it_is(of_frames, video, tmp_path, capsys):
    out = tmp_path / "new" / "out.mp4"
    code, said, error = explain(capsys, video, "--model", of_frames, "--out", out)
    assert code == 0, error
    first, best, *_, last = said.splitlines()
    assert first == video and last == f"3 frames drawn: {out}"
    assert "maps of 3 x 4 x 6 units" in said  # relu5 of 64 x 85 pixels
    assert best.split()[1] in LABELS and 0.125 <= float(best.split()[0]) <= 1
    # 3 frames of 30 at 25 per second: as long as the video.
    assert probe(out).fps == pytest.approx(2.5)
    frames = read_video(out).frames
    assert frames.shape == (3, 2 * 256 + STRIP, 340, 3)
    shown = frames[1, STRIP : STRIP + 256, :336].astype(int)
    middle = read_video(video, [15]).frames[0]
    middle = cv2.resize(middle, (42, 32), interpolation=cv2.INTER_AREA)
    small = shown.reshape(32, 8, 42, 8, 3)
    assert np.corrcoef(small.mean((1, 3)).ravel(), middle.ravel())[0, 1] > 0.8


def test_both_streams_side_by_side_for_a_class_by_name(
    of_both, video, tmp_path, capsys
):
    out = tmp_path / "out.mp4"
    words = (
        video,
        "--model",
        of_both,
        "--out",
        out,
        "--flow",
        "dis",
        "--class",
        "YoYo",
    )
    code, said, error = explain(capsys, *words, "--method", "integrated_gradients")
    assert code == 0, error
    assert said.splitlines()[1].endswith("  YoYo")
    sums = re.search(r"sum of the maps (\S+), difference to an empty clip (\S+),", said)
    total, difference = map(float, sums.groups())
    assert total == pytest.approx(difference, rel=0.05)
    assert "% of all contributions, for and against, are of flow" in said
    assert read_video(out).frames.shape == (4, 2 * 256 + STRIP, 2 * 340, 3)
    code, again, error = explain(capsys, *words, "--method", "gradient_x_input")
    assert code == 0 and again.splitlines()[1] == said.splitlines()[1], error


class Quick(keras.layers.Layer):
    """Stands in for TVL1Flow: the difference of red and green as displacements."""

    def __init__(self, preset, **kwargs):
        super().__init__(**kwargs)

    def call(self, pair):
        first, second = (keras.ops.cast(x, "float32") for x in pair)
        return (second - first)[..., :2]


def test_flow_of_the_layer(of_both, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("zoo.layers.flow_stack.TVL1Flow", Quick)
    video = video_files.write(tmp_path / "v.mp4", video_files.noise(12, 64, 64))
    out = tmp_path / "out.mp4"
    words = ("--model", of_both, "--out", out, "--flow", "layer", "--frames", 1)
    code, said, error = explain(capsys, video, *words)
    assert code == 0 and said.endswith(f"1 frames drawn: {out}\n"), error


def test_rotated_short_and_damaged_videos(of_frames, video, tmp_path, capsys):
    out, words = tmp_path / "out.mp4", ("--model", of_frames, "--out")
    turned = video_files.set_display_matrix(
        Path(video), tmp_path / "turned.mp4", (0, 1, -1, 0)
    )
    code, _, error = explain(capsys, turned, *words, out, "--frames", 2)
    assert code == 0, error
    assert read_video(out).frames.shape == (2, 2 * 340 + STRIP, 256, 3)
    single = video_files.write(tmp_path / "one.mp4", video_files.noise(1))
    code, said, error = explain(capsys, single, *words, out)
    assert code == 0 and "3 frames drawn" in said, error
    whole = video_files.write(tmp_path / "whole.mkv", video_files.noise(40))
    cut = video_files.cut(whole, tmp_path / "cut.mkv")
    code, said, error = explain(capsys, cut, *words, out)
    assert code == 0 and "cut.mkv: damaged" in error and "; explained from the" in error


# --- refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--class", "YoYa"], "no class 'YoYa'; the nearest: YoYo"),
        (
            ["--method", "lime"],
            "accepted are gradcam, integrated_gradients,",
        ),
        (
            ["--method", "gradient_x_input", "--endpoint", "res4"],
            "no use of --endpoint",
        ),
        (["--endpoint", "relu7"], "no endpoint 'relu7'; the nearest are relu"),
        (["--frames", "0"], "--frames must be at least 1; got 0"),
        (["--out", "x.gif"], "OUT.mp4; got x.gif"),
    ],
)
def test_bad_flags(of_frames, video, tmp_path, capsys, words, message):
    out = ["--out", tmp_path / "o.mp4"] if "--out" not in words else []
    code, _, error = explain(capsys, video, "--model", of_frames, *out, *words)
    assert code == 2 and message in error and error.count("\n") == 1
    assert not (tmp_path / "o.mp4").exists()


def test_bad_videos_and_models(of_frames, of_both, video, tmp_path, capsys):
    out = ("--out", tmp_path / "o.mp4")
    code, _, error = explain(capsys, video, "--model", of_both, *out)
    assert code == 2 and "sees optical flow, but no source" in error
    single = video_files.write(tmp_path / "one.mp4", video_files.noise(1))
    for flow in ("dis", "layer"):
        words = ("--model", of_both, "--flow", flow, *out)
        code, _, error = explain(capsys, single, *words)
        assert code == 2 and "one.mp4: optical flow needs at least 2 frames" in error
    empty = tmp_path / "empty.mp4"
    empty.write_bytes(b"")
    code, _, error = explain(capsys, empty, "--model", of_frames, *out)
    assert code == 2 and "empty.mp4" in error
    code, _, error = explain(capsys, video, "--model", tmp_path, *out)
    assert code == 2 and "is no model folder" in error
    code, _, error = explain(capsys, "--model", of_frames, *out)
    assert code == 2 and "needs a video" in error
    assert not (tmp_path / "o.mp4").exists()


def test_a_layer_that_refuses_says_so_in_one_line():
    clip = np.zeros((1, 3, 2, 2, 4), "float32")
    message = "^TemporalMaxPooling .*: a clip of 3 frames is shorter .*longer clips.$"
    with pytest.raises(ValueError, match=message) as caught, without_trace():
        layers.TemporalMaxPooling(5)(clip)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="^other$"), without_trace():
        raise ValueError("other")


# --- colours -------------------------------------------------------------------------


def test_red_speaks_for_and_blue_against():
    grey = np.full((2, 3), 100, np.uint8)
    strength = np.float32([[0, 1, -1], [0.5, 0, 0]])
    picture = heat(grey, strength).astype(int)
    assert (picture[0, 0] == 100).all() and (picture[1, 1] == 100).all()
    assert picture[0, 1, 0] > 200 > 80 > picture[0, 1, 2]
    assert picture[0, 2, 2] > 200 > 80 > picture[0, 2, 0]
    assert 100 < picture[1, 0, 0] < picture[0, 1, 0]


def test_one_scale_for_all_frames_and_one_for_each_input():
    rng = np.random.default_rng(0)
    seen = {"rgb": np.full((3, 64, 64, 3), 90.0), "flow": np.zeros((3, 64, 64, 20))}
    maps = {"rgb": np.zeros((3, 64, 64)), "flow": np.zeros((3, 64, 64))}
    maps["rgb"][1, 16:32, 16:32] = 1e-6
    maps["rgb"][2, 16:32, 16:32] = 5e-7
    maps["flow"][0] = rng.uniform(5, 6, (64, 64))
    pages = list(drawn(seen, Attribution("gradcam", 0, 1.0, maps), "a class"))
    assert len(pages) == 3 and pages[0].shape == (STRIP + 512, 512, 3)
    assert pages[0][:STRIP].max() > 200  # the caption
    below = [page[STRIP + 256 :].astype(int) for page in pages]
    place = (96, 96)
    red = [b[place][0] - b[place][2] for b in below]
    assert red[0] == 0 < red[2] < red[1] and red[1] == pytest.approx(2 * red[2], abs=3)
    assert (below[0][100, 400] - below[1][100, 400])[0] > 150
