"""The commands about weights: weights, convert, publish."""

import json

import keras
import numpy as np
import pytest

import zoo
from zoo.__main__ import main
from zoo.datasets.synthetic import write_dynamic_scenes
from zoo.weights import folder, publishing
from zoo.weights.records import packaged

SCENES = packaged.FOLDER / "t_resnet_tiny.synthetic_scenes"
CLIP = np.random.default_rng(0).integers(0, 256, (1, 2, 32, 32, 3), dtype="uint8")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A network, and the file of its weights."""
    keras.utils.set_random_seed(5)
    model = zoo.load("resnet_tiny", num_classes=51, stem="keras")
    path = tmp_path_factory.mktemp("source") / "m.weights.h5"
    model.save_weights(path)
    return model, path


def test_weights_lists_and_shows(capsys):
    assert main(["weights"]) == 0
    listed = capsys.readouterr().out
    assert "st_resnet50.ucf101_split1_release" in listed
    assert "t_resnet_tiny.synthetic_scenes" in listed
    assert main(["weights", "t_resnet_tiny.synthetic_scenes"]) == 0
    shown = capsys.readouterr().out
    assert "accuracy 97 % on synthetic scenes" in shown and "Apache-2.0" in shown
    assert main(["weights", "resnet50.imagnet"]) == 2
    assert "nearest are resnet50.imagenet" in capsys.readouterr().err
    assert main(["info", "t_resnet_tiny"]) == 0
    assert "weights='synthetic_scenes'" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["converted", "c.weights.h5", "c.keras"])
def test_convert(name, source, tmp_path, capsys):
    model, path = source
    out = tmp_path / name
    settings = ["--set", "stem=keras", "--labels", "hmdb51"]
    command = ["convert", str(path), "--model", "resnet_tiny", "--out", str(out)]
    assert main([*command, *settings]) == 0
    printed = capsys.readouterr().out
    rows = printed.splitlines()
    assert rows[0].split() == ["source", "target", "shape", "transform"]
    assert f"{len(model.weights)} tensors became {len(model.weights)} var" in rows[-1]
    again = zoo.load("resnet_tiny", weights=out, stem="keras")
    np.testing.assert_allclose(again(CLIP), model(CLIP), atol=1e-6)
    if name == "converted":
        record = folder.load_record(out)
        assert record.options == {"stem": "keras"}
        assert record.labels[20] == "kick_ball"


def test_convert_says_what_does_not_fit(source, tmp_path, capsys):
    _, path = source
    out = ["--out", str(tmp_path / "out")]
    for arguments, message in (
        (["--model", "t_resnet_tiny"], "8 layers of t_resnet_tiny would stay"),
        (["--model", "resnet26_tiny"], "do not fit resnet26_tiny"),
        (["--model", "resnet_tiny", "--set", "stem"], "write option=value"),
        (["--model", "resnet_tiny", "--set", "a=1"], "has no option 'a'"),
        (["--model", "resnet_tiny", "--labels", "ucf"], "No labels 'ucf'; there are"),
        ([], "needs --model"),
    ):
        assert main(["convert", str(path), *arguments, *out]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "page.mat").write_bytes(b"<html>404 Not Found</html>")
    command = ["convert", str(tmp_path / "page.mat"), "--model", "resnet_tiny", *out]
    assert main(command) == 2
    assert (
        "a web page, as a dead link gives: '404 Not Found'" in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


def test_publish_measures_what_it_claims(tmp_path, capsys):
    videos = write_dynamic_scenes(
        tmp_path / "videos", 1, size=(32, 32), frames=12, seed=4
    )
    command = ["publish", str(SCENES), "--out", str(tmp_path), "--tag", "again"]
    assert main([*command, "--data", str(videos)]) == 2
    assert "--data and --protocol belong together" in capsys.readouterr().err
    facts = ["--licence", "CC0-1.0", "--summary", "The same again."]
    data = ["--data", str(videos), "--protocol", "scenes of seed 4"]
    assert main([*command, *facts, *data]) == 0
    printed = capsys.readouterr().out
    assert "Published: " in printed and "| scenes of seed 4, static | 8 |" in printed
    path = tmp_path / "t_resnet_tiny.again"
    record = publishing.read_record(path)
    assert (record.licence, record.summary) == ("CC0-1.0", "The same again")
    assert [m.count for m in record.metrics] == [16, 8, 8]
    assert record.metrics[0].value > 0.5
    sums = json.loads((path / publishing.RECORD).read_text())["checksum"]
    assert sums == json.loads((SCENES / publishing.RECORD).read_text())["checksum"]
    model = zoo.load("t_resnet_tiny.again", weights=path)
    assert model.output_shape == (None, 8)
