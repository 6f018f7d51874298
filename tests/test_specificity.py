"""Class-specificity: known units, planted networks, ties, the command."""

import json

import cv2
import keras
import numpy as np
import pytest

import zoo
from tests import video_files
from tests.test_command_line import run
from tests.test_models import trained
from zoo import layers
from zoo.datasets import VideoList
from zoo.datasets.synthetic import write_dynamic_scenes
from zoo.models.inputs import video_input
from zoo.understanding.specificity import (
    Responses,
    by_layer,
    plot,
    responses,
    specificity,
    table,
)
from zoo.understanding.views import View
from zoo.weights import folder as model_folder

COLOURS = {"blue": (20, 20, 200), "green": (20, 200, 20), "red": (200, 20, 20)}


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """Three videos each of three colours, and one file that is no video."""
    root, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for number in range(3):
            frames = rng.integers(-15, 16, (6, 16, 16, 3)) + np.array(colour)
            path = root / name / f"{number}.mp4"
            video_files.write(path, frames.astype(np.uint8))
    return root


# --- the measure ---------------------------------------------------------------------


def test_known_units():
    labels = np.array([0, 0, 1, 1, 2, 2])
    values = np.array(
        [
            [9, 9, 1, 5.0],
            [8, 1, 1, 5.0],
            [1, 8, 1, 5.0],
            [2, 2, 1, 5.0],
            [3, 7, 9, 5.0],
            [1, 3, 1, 5.0],
        ]
    )
    half = 1 - np.log(2) / np.log(3)
    found = specificity(values[:, :2], labels, 2)
    np.testing.assert_allclose(found, [1, half])
    np.testing.assert_allclose(specificity(values[:, 1:2], labels, 3), [0], atol=1e-12)
    # One is of class 2; the other place is shared by one more of it and four others.
    shares = np.array([0.4, 0.4, 1.2]) / 2
    expected = 1 + (shares * np.log(shares)).sum() / np.log(3)
    np.testing.assert_allclose(specificity(values[:, 2:3], labels, 2), [expected])
    assert np.isnan(specificity(values[:, 3:], labels, 2)).all()


def test_the_order_of_videos_and_the_size_of_classes_do_not_matter():
    rng = np.random.default_rng(0)
    values, labels = rng.integers(0, 4, (30, 6)).astype(float), rng.integers(0, 3, 30)
    order = rng.permutation(30)
    first = specificity(values, labels, 7)
    np.testing.assert_allclose(specificity(values[order], labels[order], 7), first)
    # Two classes of 2 and 6: all of them in the top are equal shares.
    labels = np.array([0, 0, 1, 1, 1, 1, 1, 1, 2, 2])
    values = np.array([[1.0] * 8 + [0.0] * 2]).T
    expected = 1 - np.log(2) / np.log(3)
    np.testing.assert_allclose(specificity(values, labels, 8), [expected])


def test_chance_is_what_random_units_have():
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(4), 5)
    noise = {"res2": rng.normal(size=(20, 400))}
    (layer,) = by_layer(Responses(noise, labels, tuple("abcd")))
    assert 0.1 < layer.chance < 0.5
    assert layer.quartiles[1] == pytest.approx(layer.chance, abs=0.03)
    low, mean, high = layer.quartiles
    assert low < mean < high and layer.silent == 0


def test_bad_numbers():
    values = {"res2": np.zeros((4, 2))}
    found = Responses(values, np.array([0, 0, 1, 1]), ("a", "b"))
    for top in (0, 4):
        with pytest.raises(ValueError, match=f"from 1 to 3, .* got {top}"):
            by_layer(found, top)
    with pytest.raises(ValueError, match="at least two classes"):
        by_layer(Responses(values, np.zeros(4, int), ("a", "b")))
    (layer,) = by_layer(found)
    assert layer.silent == 2 and np.isnan(layer.quartiles).all()


# --- networks ------------------------------------------------------------------------


def test_planted_units_of_colours(coloured):
    """Brightness knows no class; each colour detector has one. Depth tells them."""
    rgb = video_input("rgb")
    early = keras.layers.Dense(2, use_bias=False, name="res2")
    late = keras.layers.Dense(4, "relu", name="res5")
    x = late(early_and(rgb, early))
    x = keras.layers.GlobalAveragePooling3D(name="logits")(x)
    model = keras.Model(rgb, keras.layers.Activation("softmax", name="predictions")(x))
    early.set_weights([np.ones((3, 2))])
    kernel = np.zeros((5, 4))
    kernel[2:, :3] = 1.5 * np.eye(3) - 0.5
    late.set_weights([kernel, np.zeros(4)])
    videos = VideoList.from_folder(coloured)
    found = responses(View(model, 3, 16), videos, ["res2", "res5"])
    assert found.values["res2"].shape == (9, 2) and found.values["res5"].shape == (9, 4)
    assert found.classes == tuple(COLOURS) and not found.skipped
    first, last = by_layer(found)
    np.testing.assert_allclose(last.values[:3], 1)
    assert last.silent == 1 and np.isnan(last.values[3])  # the unit without weights
    assert (first.values < 1).all() and first.quartiles[1] < last.quartiles[1]


def early_and(rgb, early):
    """The early units, and the colours themselves."""
    return keras.layers.Concatenate()([early(rgb), rgb])


def test_direction_in_the_synthetic_scenes(tmp_path):
    """Edges know no direction; their product with the change in time does."""
    classes = ["drift_left", "drift_right"]
    write_dynamic_scenes(tmp_path, 4, size=(32, 32), frames=8, classes=classes)
    videos = VideoList.from_folder(tmp_path).only("static")
    rgb = video_input("rgb")
    grey = keras.layers.Dense(1, use_bias=False, name="grey")
    edges = layers.SpatialConv(1, 3, use_bias=False, name="conv1")
    change = layers.TemporalConv(1, 3, use_bias=False, name="change")
    sides = keras.layers.Dense(2, use_bias=False, name="sides")
    x = grey(rgb)
    x = layers.CrossStream("multiply", name="conv2")([edges(x), change(x)])
    x = keras.layers.GlobalAveragePooling3D(name="logits")(sides(x))
    model = keras.Model(rgb, keras.layers.Activation("softmax", name="predictions")(x))
    grey.set_weights([np.full((3, 1), 1 / 3)])
    slope = np.array([-1.0, 0, 1])
    kernel = np.zeros(edges.kernel.shape)
    kernel[..., 1, :, 0, 0] = slope
    edges.set_weights([kernel])
    change.set_weights([slope.reshape(change.kernel.shape)])
    sides.set_weights([np.array([[1.0, -1.0]])])  # brightness falls where it goes
    found = responses(View(model, 8, 32), videos, ["conv1", "logits"])
    first, last = by_layer(found)
    np.testing.assert_allclose(last.values, 1)
    assert first.values[0] < 0.9


def test_both_streams_and_bad_videos(tmp_path, caplog):
    from zoo.datasets import flow_source

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        video = tmp_path / name / "0.mp4"
        video_files.write(video, video_files.noise(12, 64, 64, seed=ord(name)))
    (tmp_path / "b" / "1.mp4").write_bytes(b"no video")
    video_files.write(tmp_path / "b" / "2.mp4", video_files.noise(1, 64, 64))
    model = zoo.load("two_stream_vgg_tiny")
    videos, done = VideoList.from_folder(tmp_path), []
    found = responses(
        View(model, 2, 64),
        videos,
        ["appearance/relu3", "motion/relu3", "logits"],
        flow_source("dis"),
        report=lambda *x: done.append(x),
    )
    assert {k: v.shape[0] for k, v in found.values.items()} == dict.fromkeys(
        ["appearance/relu3", "motion/relu3", "logits"], 2
    )
    assert found.values["logits"].shape == (2, 8) and len(found.skipped) == 2
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert "2 of 4 videos skipped" in caplog.text
    measured = by_layer(found)
    plot(measured, tmp_path / "s.png")
    assert cv2.imread(str(tmp_path / "s.png")).std() > 10
    assert len(table(measured).splitlines()) == 5
    with pytest.raises(ValueError, match="sees optical flow, but no source"):
        responses(View(model, 2, 64), videos, ["logits"])
    with pytest.raises(ValueError, match="None of the 1 videos could be read"):
        bad = [str(p) for p in videos.paths].index(str(tmp_path / "b" / "1.mp4"))
        responses(
            View(model, 2, 64), videos.take([bad]), ["logits"], flow_source("dis")
        )


def test_the_command(coloured, tmp_path, capsys):
    record = model_folder.ModelRecord("vgg_tiny", 8, frames=2, shorter_side=64)
    model = tmp_path / "model"
    model_folder.save(model, trained(zoo.load("vgg_tiny"), clips=2), record)
    out, words = tmp_path / "out", ("specificity", "--model", str(model))
    words += ("--data", str(coloured), "--out", str(out))
    code, said, error = run(capsys, *words, "--endpoints", "relu1,relu5,logits")
    assert code == 0, error
    assert "9 videos of 3 classes" in said and said.splitlines()[2].startswith(
        "| relu1"
    )
    written = {path.name for path in out.iterdir()}
    assert written == {"specificity.md", "specificity.json", "specificity.png"}
    units = json.loads((out / "specificity.json").read_text())
    assert list(units) == ["relu1", "relu5", "logits"]
    assert len(units["logits"]["units"]) == 8
    code, _, error = run(capsys, *words, "--endpoints", "relu9")
    assert code == 2 and "no endpoint 'relu9'; the nearest are relu" in error
    code, _, error = run(capsys, *words, "--endpoints", "logits", "--top", "9")
    assert code == 2 and "top must be from 1 to 8" in error
    code, _, error = run(capsys, *words[:3])
    assert code == 2 and "needs --data and --out" in error
