"""Exports through TensorFlow's C API, the loader that TensorFlow Serving uses."""

import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.test_export import LABELS, enliven, random_clips, thin
from zoo.exports import export
from zoo.exports.jpeg import decode
from zoo.models.testing import video_classifier

SCRIPT = Path(__file__).with_name("c_api.py")
VIEW = {"frames": 4, "shorter_side": 64}
GOOD = {
    "batch": random_clips((2, 5, 40, 56, 3)),
    "one frame": random_clips((1, 1, 90, 30, 3)),
    "one pixel": random_clips((1, 1, 1, 1, 3)),
}
FRAMES = random_clips((2, 5, 40, 56, 3))
FILES = np.array([[tf.io.encode_jpeg(f).numpy() for f in clip] for clip in FRAMES])
OTHER = tf.io.encode_jpeg(FRAMES[0, 0, :9]).numpy()
GREY = np.array([[tf.io.encode_jpeg(FRAMES[0, 0, ..., :1]).numpy()]])
GOOD_FILES = {"files": FILES, "one file": FILES[:1, :1], "grey file": GREY}
SHAPE = r"\[batch, frames, height, width, 3\].*got shape:\] \[{}\]"
BAD = {
    "no frames": (np.zeros((1, 0, 8, 8, 3), "uint8"), SHAPE.format("1 0 8 8 3")),
    "no clips": (np.zeros((0, 1, 8, 8, 3), "uint8"), SHAPE.format("0 1 8 8 3")),
    "no height": (np.zeros((1, 1, 0, 8, 3), "uint8"), SHAPE.format("1 1 0 8 3")),
    "one video": (np.zeros((4, 8, 8, 3), "uint8"), SHAPE.format("4 8 8 3")),
    "rank 6": (np.zeros((1, 1, 1, 8, 8, 3), "uint8"), SHAPE.format("1 1 1 8 8 3")),
    "rank 6, empty": (np.zeros((1, 0, 1, 8, 8, 3), "uint8"), "1 0 1 8 8 3"),
    "grey": (np.zeros((1, 1, 8, 8, 1), "uint8"), SHAPE.format("1 1 8 8 1")),
    "floats": (np.zeros((1, 1, 8, 8, 3), "float32"), "uint8 but float is provided"),
    "no files": (np.zeros((1, 0), "S1"), r"\[batch, frames\].*got shape:\] \[1 0\]"),
    "a file of nothing": (
        np.array([[FILES[0, 0], b""]]),
        r"no JPEG.*\] \[0\] \[1\] \[0\]",
    ),
    "a file cut off": (
        np.array([[FILES[0, 0]], [FILES[1, 0][:-200]]]),
        r"could not be decoded.*\] \[1\] \[0\]",
    ),
    "sizes": (
        np.array([[FILES[0, 0], OTHER]]),
        r"one height and width.*\] \[0\] \[1\] \[9 56\]",
    ),
    "huge": (np.zeros((1, 1, 1, 9999, 3), "uint8"), "too large.*33554432 remain"),
}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return enliven(thin(num_classes=8))


@pytest.fixture(scope="module")
def results(model, tmp_path_factory):
    """{"<request>/<output>": array} of all requests, one process, one session."""
    folder = tmp_path_factory.mktemp("c_api")
    path = export(model, folder, labels=LABELS, verify=False, **VIEW)
    bad = {name: clips for name, (clips, _) in BAD.items()}
    asked = {**GOOD, **GOOD_FILES, **bad, "afterwards": GOOD["batch"]}
    files = [folder / f"{number}.npy" for number in range(len(asked))]
    for file, array in zip(files, asked.values(), strict=True):
        np.save(file, array)
    command = [sys.executable, SCRIPT, path, folder / "out.npz", *files]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-2000:]
    names = list(asked)
    with np.load(folder / "out.npz") as arrays:
        found = {key.partition("/"): array for key, array in arrays.items()}
    return {f"{names[int(n)]}/{key}": array for (n, _, key), array in found.items()}


@pytest.mark.parametrize("request_name", [*GOOD, *GOOD_FILES])
def test_c_api_gives_the_same(results, model, request_name):
    network = video_classifier(model, **VIEW)
    if request_name in GOOD:
        clips = GOOD[request_name]
    else:
        files = GOOD_FILES[request_name]
        clips = np.array([[decode(file) for file in clip] for clip in files])
    expected = network(clips, training=False)
    logits = expected["logits"].numpy()
    names = ("scores", "logits", "classes", "labels", "top_scores")
    got = {key: results[f"{request_name}/{key}"] for key in names}
    assert 0.01 < np.abs(logits).max() < 100
    np.testing.assert_allclose(got["logits"], logits, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        got["scores"], expected["predictions"], rtol=0, atol=1e-5
    )
    order = np.argsort(-logits, axis=1)[:, :5]
    np.testing.assert_array_equal(got["classes"], order)
    np.testing.assert_array_equal(got["labels"], np.array(LABELS)[order])
    top = np.take_along_axis(got["scores"], order, axis=1)
    np.testing.assert_array_equal(got["top_scores"], top)


@pytest.mark.parametrize("request_name", BAD)
def test_c_api_refuses_with_a_message(results, request_name):
    message = str(results[f"{request_name}/error"])
    assert re.search(BAD[request_name][1], message), message


def test_the_session_lives_on_after_refusals(results):
    before, after = results["batch/scores"], results["afterwards/scores"]
    np.testing.assert_array_equal(before, after)
