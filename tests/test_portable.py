"""Exports as one file: the model's numbers by LiteRT and ONNX Runtime, or a refusal."""

import sys

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

import zoo
from tests.test_export import LABELS, enliven, mini, random_clips, thin
from zoo.exports import Contract, portable
from zoo.exports.litert import export_litert
from zoo.exports.onnx import export_onnx
from zoo.exports.portable import FormatError
from zoo.exports.verification import VerificationError
from zoo.models.testing import alone_or_all, video_classifier

CONTRACT = Contract(LABELS, frames=4, shorter_side=32, flip=False)
QUICK = Contract(frames=2, shorter_side=8)
EXPORTS = {"tflite": export_litert, "onnx": export_onnx}
SHAPES = [(2, 5, 40, 56), (1, 1, 90, 30), (3, 4, 7, 11)]
each_format = pytest.mark.parametrize("ending", EXPORTS)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return enliven(thin(num_classes=8))


@pytest.fixture(scope="module", params=EXPORTS)
def written(request, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    path = folder / f"m.{request.param}"
    EXPORTS[request.param](model, path, CONTRACT, verify=False)
    assert sorted(x.name for x in folder.iterdir()) == ["m.labels.txt", path.name]
    return path


def runner(path):
    """A function of {input: array}, as users of the format write it."""
    if path.suffix == ".tflite":
        run = Interpreter(str(path)).get_signature_runner("serving_default")
        return lambda inputs: run(**inputs)
    session = onnxruntime.InferenceSession(str(path))
    names = [x.name for x in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def require_same(network, path, inputs, atol=1e-5):
    expected = network(alone_or_all(inputs), training=False)
    found = runner(path)(inputs)
    assert set(found) == {"logits", "scores"}
    assert 0.01 < np.abs(expected["logits"]).max() < 100
    np.testing.assert_allclose(found["logits"], expected["logits"], rtol=0, atol=atol)
    np.testing.assert_allclose(found["scores"], expected["predictions"], atol=atol)


def test_clips_of_any_size(written, model):
    network = video_classifier(model, 4, 32, False)
    for shape in SHAPES:
        require_same(network, written, {"clips": random_clips((*shape, 3))})


def test_the_names_of_the_classes(written):
    text = written.with_name("m.labels.txt").read_text("utf-8")
    assert text.splitlines() == list(LABELS)


def two_streams():
    """The smallest network that sees frames and flow."""
    channels = {"rgb": 3, "flow": 20}
    inputs = {
        k: keras.Input((None, None, None, c), name=k) for k, c in channels.items()
    }
    x = keras.layers.Add()([keras.layers.Dense(8)(x) for x in inputs.values()])
    x = keras.layers.GlobalAveragePooling3D(name="logits")(x)
    x = keras.layers.Activation("softmax", name="predictions")(x)
    return keras.Model(inputs, x, name="two_streams")


@each_format
def test_two_streams(ending, tmp_path):
    model, contract = two_streams(), Contract(frames=2, shorter_side=8, flip=False)
    path = EXPORTS[ending](model, tmp_path / f"m.{ending}", contract, verify=False)
    rng = np.random.default_rng(0)
    inputs = {
        "clips": random_clips((1, 3, 40, 50, 3)),
        "flow": rng.normal(0, 5, (1, 3, 40, 50, 20)).astype("float32"),
    }
    network = video_classifier(model, 2, 8, False)
    expected = network(inputs, training=False)["logits"]
    np.testing.assert_allclose(runner(path)(inputs)["logits"], expected, rtol=1e-4)
    labels = path.with_name("m.labels.txt").read_text("utf-8").split()
    assert labels == [f"class_{i}" for i in range(8)]


@each_format
def test_with_mirror_images_verified(ending, tmp_path):
    model, path = mini(), tmp_path / f"m.{ending}"
    EXPORTS[ending](model, path, QUICK)
    inputs = {"clips": random_clips((2, 3, 20, 30, 3))}
    expected = video_classifier(model, 2, 8)(inputs["clips"])["logits"]
    found = runner(path)(inputs)["logits"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@each_format
def test_what_is_refused_before_any_work(ending, tmp_path):
    export, path = EXPORTS[ending], tmp_path / f"m.{ending}"
    with pytest.raises(ValueError, match=f"end in .{ending}, got 'm.pb'"):
        export(mini(), tmp_path / "m.pb", QUICK)
    with pytest.raises(ValueError, match="finds objects: export it as a SavedModel"):
        export(zoo.load("rfcn_tiny"), path, QUICK)
    with pytest.raises(ValueError, match="2 classes, got 8 labels"):
        export(mini(), path, CONTRACT)
    path.touch()
    with pytest.raises(FileExistsError, match="choose another name"):
        export(mini(), path, QUICK)


@each_format
def test_a_file_that_differs_is_not_published(ending, tmp_path, monkeypatch):
    """The other weights stand for a converter that errs."""
    model = mini()
    other = keras.models.clone_model(model)
    other.set_weights([w + 0.5 for w in model.get_weights()])
    monkeypatch.setattr(portable, "optimized", lambda model: other)
    with pytest.raises(VerificationError, match="differ from the model's by"):
        EXPORTS[ending](model, tmp_path / f"m.{ending}", QUICK)
    assert list(tmp_path.iterdir()) == []


@each_format
def test_what_a_format_does_not_have_is_named(ending, tmp_path):
    inputs = keras.Input((None, None, None, 3), name="rgb")
    logits = keras.layers.GlobalAveragePooling3D(name="logits")(Bessel()(inputs))
    outputs = keras.layers.Activation("softmax", name="predictions")(logits)
    model = keras.Model(inputs, outputs, name="strange")
    message = r"has no (tf\.)?BesselI0e, which strange_on_videos needs.*SavedModel"
    with pytest.raises(FormatError, match=message):
        EXPORTS[ending](model, tmp_path / f"m.{ending}", QUICK)
    assert list(tmp_path.iterdir()) == []


@keras.saving.register_keras_serializable("zoo_tests")
class Bessel(keras.layers.Layer):
    """A function that neither format knows."""

    def call(self, x):
        return tf.math.special.bessel_i0e(x)


@pytest.mark.parametrize(
    ("ending", "module"),
    [("tflite", "ai_edge_litert.interpreter"), ("onnx", "tf2onnx")],
)
def test_a_missing_package_is_named(ending, module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    extra = {"tflite": "litert", "onnx": "onnx"}[ending]
    with pytest.raises(ImportError, match=rf"spacetime-zoo\[{extra}\]"):
        EXPORTS[ending](mini(), tmp_path / f"m.{ending}", QUICK)
