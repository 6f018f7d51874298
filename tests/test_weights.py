"""Weights from memory, files, folders and keras.applications."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest

import zoo
from tests.test_models import clip, trained
from tests.weight_files import write_legacy_h5
from zoo.files import replacing
from zoo.models.resnet import STEMS
from zoo.weights import folder, keras_applications, lookup
from zoo.weights.hdf5 import read_h5
from zoo.weights.transfer import Weights, transfer, weights_of


@pytest.fixture
def spatial():
    return trained(zoo.load("resnet_tiny"))


def random_application(name):
    """keras.applications with random weights, biases and statistics."""
    network = {
        "resnet50": keras.applications.ResNet50,
        "resnet101": keras.applications.ResNet101,
        "resnet152": keras.applications.ResNet152,
    }[name](weights=None, classifier_activation=None)
    rng = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape
            gamma = 0.3 if layer.name.endswith("_3_bn") else 1.0  # keeps the sum small
            layer.set_weights(
                [
                    rng.normal(gamma, 0.1, size),
                    rng.normal(0, 0.1, size),
                    rng.normal(0, 0.1, size),
                    rng.uniform(0.5, 1.5, size),
                ]
            )
        elif isinstance(layer, keras.layers.Conv2D):
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel, rng.normal(0, 0.1, bias.shape)])
    return network


@pytest.fixture
def legacy_resnet50(tmp_path):
    """A network of keras.applications, and its weights as the published file."""
    network = random_application("resnet50")
    return network, write_legacy_h5(network, tmp_path / "resnet50.h5")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "resnet152"])
def test_keras_applications_agree(name):
    """Their network on one image, ours on a clip of one frame: the same scores."""
    theirs = random_application(name)
    ours = zoo.load(name, classifier_activation=None, stem="keras")
    transfer(keras_applications.convert(theirs), ours)
    image = (
        np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3)).astype("float32")
    )
    prepared = keras.applications.resnet.preprocess_input(image.copy())
    expected = theirs.predict(prepared, verbose=0)
    found = ours.predict(image[:, None], verbose=0)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-4)


def test_imagenet_starts_t_resnet(legacy_resnet50, monkeypatch):
    """The whole path of weights="imagenet", but for the download itself."""
    theirs, path = legacy_resnet50
    asked = []

    def locate(record, explicit):
        asked.append(record.name)
        return path

    monkeypatch.setattr(lookup, "locate", locate)
    model = zoo.load("t_resnet50", weights="imagenet", num_classes=4)
    assert asked == ["resnet50.imagenet"]
    assert model.output_shape == (None, 4)
    assert model.get_layer("rgb_normalization").mean == STEMS["keras"].mean
    kernel = theirs.get_layer("conv1_conv").get_weights()[0]
    np.testing.assert_array_equal(
        model.get_layer("conv1").get_weights()[0], kernel[:, :, ::-1]
    )
    whole = zoo.load("resnet50", weights=path)
    np.testing.assert_array_equal(
        whole.get_layer("fc").get_weights()[0],
        theirs.get_layer("predictions").get_weights()[0],
    )
    with pytest.raises(ValueError, match="no weights of .* resnet101 .* it lacks"):
        zoo.load("resnet101", weights=path)


@pytest.mark.parametrize("kind", ["model", "weights.h5", "keras", "folder"])
def test_every_source_gives_the_same(kind, spatial, tmp_path):
    path = tmp_path / f"saved.{kind}"
    if kind == "model":
        path = spatial
    elif kind == "weights.h5":
        spatial.save_weights(path)
    elif kind == "keras":
        spatial.save(path)
    else:
        folder.save(path, spatial, folder.ModelRecord("resnet_tiny", 8))
    again = zoo.load("resnet_tiny", weights=path)
    np.testing.assert_array_equal(again(clip()), spatial(clip()))
    still = np.repeat(clip(2, 1), 3, axis=1)
    time = zoo.load("t_resnet_tiny", weights=path, temporal_scale=0.0)
    np.testing.assert_allclose(time(still), spatial(still), atol=1e-6)


def test_report_says_what_became_of_every_layer(spatial):
    target = zoo.load("t_resnet_tiny", num_classes=5)
    report = transfer(weights_of(spatial), target, zoo.info("t_resnet_tiny").new_layers)
    assert report.heads == ("fc",)
    assert report.adapted == report.left_out == ()
    assert "res3a_branch2b" in report.copied and "bn3a_branch2b" in report.copied
    assert set(report.new) == {
        f"conv_time_res{s}a_branch2b{part}"
        for s in (2, 3, 4, 5)
        for part in ("", "_scale")
    }


def test_assumed_stem_is_said(spatial, tmp_path, caplog):
    path = tmp_path / "m.weights.h5"
    spatial.save_weights(path)
    with caplog.at_level("WARNING", logger="absl"):
        zoo.load("resnet_tiny", weights=path, stem="caffe")
        assert not caplog.records
        zoo.load("resnet_tiny", weights=path)
    assert "does not say which stem" in caplog.text


def test_a_folder_knows_its_stem(spatial, tmp_path, caplog):
    for stem in ({}, {"stem": "keras"}):
        record = folder.ModelRecord("resnet_tiny", 8, options=stem)
        folder.save(tmp_path / "m", spatial, record)
        with caplog.at_level("WARNING", logger="absl"):
            loaded = zoo.load("t_resnet_tiny", weights=tmp_path / "m")
        padding = STEMS[stem.get("stem", "caffe")].pool_padding
        assert loaded.get_layer("pool1").padding == padding
    assert not caplog.records


def test_headless_weights_say_so(spatial, caplog):
    with caplog.at_level("WARNING", logger="absl"):
        trunk = zoo.features(spatial, ["res5"])
        zoo.load("resnet_tiny", weights=trunk)
    assert "has no classifier; the new one (fc) starts untrained" in caplog.text


def test_new_head_is_said_once(spatial, caplog):
    with caplog.at_level("WARNING", logger="absl"):
        zoo.load("resnet_tiny", weights=spatial, num_classes=3)
    assert [r.getMessage() for r in caplog.records] == [
        "resnet_tiny: new classifier fc, 8 -> 3 classes; it starts untrained."
    ]


def test_weights_carry_their_stem(tmp_path):
    model = trained(zoo.load("resnet_tiny", stem="keras"))
    model.save(tmp_path / "m.keras")
    for weights in (model, tmp_path / "m.keras"):
        loaded = zoo.load("t_resnet_tiny", weights=weights)
        assert loaded.get_layer("pool1").padding == (1, 1)
    with pytest.raises(ValueError, match="trained with stem='keras'.*stem='caffe'"):
        zoo.load("t_resnet_tiny", weights=model, stem="caffe")


def test_folder_carries_options_and_labels(tmp_path):
    options = {"unit": "release", "temporal_scale": 0.5}
    model = zoo.load("t_resnet_tiny", num_classes=2, **options)
    record = folder.ModelRecord("t_resnet_tiny", 2, "softmax", options, ("a", "b"), 4)
    folder.save(tmp_path / "m", model, record)
    again, found = folder.load(tmp_path / "m")
    assert found == record
    np.testing.assert_array_equal(again(clip()), model(clip()))
    assert "conv_time_res2a_branch2b_bn" in [
        layer.name for layer in zoo.load("t_resnet_tiny", tmp_path / "m").layers
    ]


class TestBadWeights:
    @pytest.mark.parametrize(
        ("name", "source", "message"),
        [
            ("resnet50", "resnet_tiny", "do not fit resnet50. .* have other shapes: "),
            ("resnet_tiny", "t_resnet_tiny", "have no place in it: conv_time_res2a"),
            ("resnet101", "resnet50", "have no place in it: res3b_branch2a"),
        ],
    )
    def test_another_architecture(self, name, source, message):
        with pytest.raises(ValueError, match=message):
            zoo.load(name, weights=zoo.load(source))

    def test_another_option(self):
        source = zoo.load("t_resnet_tiny", unit="release")
        with pytest.raises(ValueError, match="same architecture and options"):
            zoo.load("t_resnet_tiny", weights=source)

    def test_missing_layers(self, spatial):
        with pytest.raises(ValueError, match="it needs are missing: res3a_branch2a"):
            zoo.load("resnet_tiny", weights=zoo.features(spatial, ["res2"]))
        with pytest.raises(ValueError, match="it needs are missing: conv1, bn_conv1"):
            zoo.load("resnet_tiny", weights=keras.Sequential(name="empty"))
        with pytest.raises(ValueError, match="missing: conv_time_res2a_branch2b_bn"):
            source = zoo.load("t_resnet_tiny", unit="thesis")
            zoo.load("t_resnet_tiny", weights=source, unit="release")

    def test_file_that_is_none_of_keras_applications(self, tmp_path):
        (tmp_path / "page.h5").write_bytes(b"<html>404</html>")
        with pytest.raises(ValueError, match="page.h5 is not .* a web page, as a dead"):
            zoo.load("t_resnet50", weights=tmp_path / "page.h5")

    @pytest.mark.parametrize(("scores", "boxes"), [(27, None), (27, 40), (28, 36)])
    def test_what_is_no_detector(self, scores, boxes):
        layers = {"rfcn_cls": [np.zeros((1, 1, 8, scores))]}
        if boxes:
            layers["rfcn_bbox"] = [np.zeros((1, 1, 8, boxes))]
        with pytest.raises(
            ValueError, match=f"{scores} maps and rfcn_bbox {boxes or 0}"
        ):
            _ = Weights("m.h5", layers).num_classes
        layers = {"rfcn_cls": [np.zeros(27)], "rfcn_bbox": [np.zeros(36)]}
        assert Weights("m.h5", layers).num_classes == 2

    def test_nothing_is_changed_when_weights_do_not_fit(self, spatial):
        target = zoo.load("resnet_tiny", num_classes=8)
        before = target.get_weights()
        broken = weights_of(spatial)
        broken.layers["bn5a_branch2c"][0][:] = np.nan
        with pytest.raises(ValueError, match="layer bn5a_branch2c holds NaN"):
            transfer(broken, target)
        for a, b in zip(before, target.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("page.weights.h5", b"<!DOCTYPE html><html>404</html>"),
            ("empty.weights.h5", b""),
            ("page.keras", b"<!DOCTYPE html><html>404</html>"),
        ],
    )
    def test_no_weights_in_the_file(self, name, content, tmp_path):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is not a readable"):
            zoo.load("resnet_tiny", weights=tmp_path / name)

    @pytest.mark.parametrize("name", ["m.weights.h5", "m.keras"])
    def test_truncated_file(self, name, spatial, tmp_path):
        path = tmp_path / name
        (spatial.save if name == "m.keras" else spatial.save_weights)(path)
        os.truncate(path, path.stat().st_size // 2)
        with pytest.raises(ValueError, match=f"{name} is not a readable"):
            zoo.load("resnet_tiny", weights=path)

    def test_missing_and_unknown(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="No weights 'imagnet'.*'imagenet'"):
            zoo.load("t_resnet50", weights="imagnet")
        with pytest.raises(ValueError, match="weights must be None, a name, a path"):
            zoo.load("t_resnet_tiny", weights=42)
        with pytest.raises(ValueError, match="or for networks of two .* got ''"):
            zoo.load("t_resnet_tiny", weights="")  # not the folder one is in
        (tmp_path / "m.pth").write_bytes(b"what")
        with pytest.raises(ValueError, match="no file of weights that is known here"):
            zoo.load("t_resnet_tiny", weights=tmp_path / "m.pth")

    def test_incomplete_folder(self, spatial, tmp_path):
        with pytest.raises(FileNotFoundError, match="is no model folder"):
            zoo.load("resnet_tiny", weights=tmp_path)
        folder.save(tmp_path / "m", spatial, folder.ModelRecord("resnet_tiny", 8))
        (tmp_path / "m" / folder.WEIGHTS).unlink()
        with pytest.raises(FileNotFoundError, match="incomplete"):
            folder.load(tmp_path / "m")
        (tmp_path / "m" / folder.RECORD).write_text(json.dumps({"format": 99}))
        with pytest.raises(ValueError, match="not a readable model record"):
            folder.load(tmp_path / "m")

    def test_labels_must_match(self):
        with pytest.raises(ValueError, match="2 labels for 3 classes"):
            folder.ModelRecord("resnet_tiny", 3, labels=("a", "b"))


class TestAtomicFiles:
    def test_error_leaves_the_old_file(self, tmp_path):
        path = tmp_path / "file"
        path.write_text("old")
        with pytest.raises(RuntimeError), replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["file"]

    def test_full_disk_is_explained(self, tmp_path):
        path = tmp_path / "file"
        path.write_text("old")
        with (
            pytest.raises(OSError, match="disk is full .* Nothing was replaced"),
            replacing(path),
        ):
            raise OSError(28, "No space left on device")
        assert path.read_text() == "old"

    def test_kill_leaves_the_old_file(self, tmp_path):
        path = tmp_path / "file"
        path.write_text("old")
        code = f"""
            import os, signal
            from zoo.files import replacing
            with replacing({str(path)!r}) as temporary:
                temporary.write_text("half")
                os.kill(os.getpid(), signal.SIGKILL)
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], cwd=os.curdir
        )
        assert done.returncode == -signal.SIGKILL
        assert path.read_text() == "old"


def test_h5_names_normalisations_within_layers(spatial, tmp_path):
    spatial.save_weights(tmp_path / "m.weights.h5")
    found = read_h5(tmp_path / "m.weights.h5")
    expected = weights_of(spatial)
    assert set(found.layers) == set(expected.layers)
    for name, arrays in expected.layers.items():
        for a, b in zip(arrays, found.layers[name], strict=True):
            np.testing.assert_array_equal(a, b)
