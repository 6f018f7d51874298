"""Exports: the same numbers in a fresh process, whole or not at all, clear errors."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

import zoo
from zoo.exports import Contract, export, load_exported, publish
from zoo.exports.checks import VALUES
from zoo.models.resnet import Net
from zoo.models.t_resnet import t_resnet
from zoo.models.testing import video_classifier, video_view

ROOT = Path(__file__).resolve().parents[1]
LABELS = ("Fußgänger, left", "fountain", "sky clouds", "a", "b", "c", "d", "e")
SIZES = {
    "batch": (3, 7, 40, 56, 3),
    "one frame": (1, 1, 64, 64, 3),
    "long portrait": (1, 41, 90, 30, 3),
    "one pixel": (1, 1, 1, 1, 3),
    "wide": (1, 3, 20, 100, 3),
}
ANSWER = {
    "scores": ("float32", (None, 8)),
    "logits": ("float32", (None, 8)),
    "classes": ("int32", (None, 5)),
    "labels": ("string", (None, 5)),
    "top_scores": ("float32", (None, 5)),
}
VIDEO = (None, None, None, None, 3)
GOLDEN = {
    "serving_default": {"inputs": {"clips": ("uint8", VIDEO)}, "outputs": ANSWER},
    "jpeg": {"inputs": {"jpeg": ("string", (None, None))}, "outputs": ANSWER},
    "raw": {
        "inputs": {"rgb": ("float32", VIDEO)},
        "outputs": {
            "logits": ("float32", (None, 8)),
            "predictions": ("float32", (None, 8)),
        },
    },
    "features": {
        "inputs": {"clips": ("uint8", VIDEO)},
        "outputs": {"pool5": ("float32", (None, 4, None, None, 512))},
    },
}
# A process that has TensorFlow, but no zoo and no code of it.
BOTH_LOADERS = """
    import sys
    sys.modules["zoo"] = None
    import numpy as np
    import tensorflow as tf

    export, requests, results = sys.argv[1:]
    clips = dict(np.load(requests))
    out = {}
    loaded = tf.saved_model.load(export).signatures["serving_default"]
    for key, value in clips.items():
        for name, tensor in loaded(clips=tf.constant(value)).items():
            out[f"python/{key}/{name}"] = tensor.numpy()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], export)
        signature = graph.signature_def["serving_default"]
        fetches = {k: v.name for k, v in signature.outputs.items()}
        for key, value in clips.items():
            feeds = {signature.inputs["clips"].name: value}
            for name, array in session.run(fetches, feeds).items():
                out[f"session/{key}/{name}"] = array
    for key in list(out):
        if key.endswith("labels"):
            out[key] = np.char.decode(out[key].astype("S"), "utf-8")
    assert not [m for m in sys.modules if m.startswith("zoo.")]
    np.savez(results, **out)
"""


def enliven(model):
    """Random statistics and a classifier whose raw scores are about 3 at most."""
    rng = np.random.default_rng(1)
    for v in model.variables:
        if "moving_variance" in v.path:
            v.assign(rng.uniform(0.5, 2, v.shape))
        elif "moving_mean" in v.path or "beta" in v.path:
            v.assign(rng.normal(0, 0.3, v.shape))
    clip = rng.integers(0, 256, (1, 2, 64, 64, 3)).astype("float32")
    pooled = zoo.features(model, ["pool5"])(clip)["pool5"].numpy().max()
    kernel = model.get_layer("fc").kernel
    kernel.assign(rng.normal(0, 3, kernel.shape) / pooled / kernel.shape[0] ** 0.5)
    return model


def thin(num_classes=3):
    """A T-ResNet of one unit per stage and 4 channels: exports take a second."""
    return t_resnet("thin", Net((1, 1, 1, 1), 4), num_classes, "softmax")


def mini():
    """The smallest network with the endpoints of a classifier."""
    rgb = keras.Input((None, None, None, 3), name="rgb")
    x = keras.layers.Dense(2)(rgb)
    x = keras.layers.GlobalAveragePooling3D(name="logits")(x)
    x = keras.layers.Activation("softmax", name="predictions")(x)
    return keras.Model(rgb, x, name="mini")


def listing(folder):
    """Everything below a folder that exists, hidden files too."""
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*"))


SMALL = {"frames": 4, "shorter_side": 64}
SMALLER = {"frames": 2, "shorter_side": 32}
QUICK = {"frames": 2, "shorter_side": 8, "verify": False, "labels": ("yes", "no")}


def random_clips(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return enliven(zoo.load("t_resnet_tiny", num_classes=8))


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """A verified export, moved after writing: nothing may point to where it was."""
    path = export(model, tmp_path_factory.mktemp("a"), labels=LABELS, **SMALL)
    return shutil.move(path, tmp_path_factory.mktemp("b") / "moved")


@pytest.fixture(scope="module")
def loaded(exported):
    return load_exported(exported)


@pytest.fixture(scope="module")
def requests():
    return {key: random_clips(shape) for key, shape in SIZES.items()}


@pytest.fixture(scope="module")
def expected(model, requests):
    """{request: outputs of the network that evaluation uses}."""
    network = video_classifier(model, **SMALL)
    return {key: network(clips, training=False) for key, clips in requests.items()}


@pytest.fixture(scope="module")
def fresh(exported, requests, tmp_path_factory):
    """Outputs of both loaders of TensorFlow in a process without the zoo."""
    folder = tmp_path_factory.mktemp("fresh")
    np.savez(folder / "requests.npz", **requests)
    arguments = [exported, folder / "requests.npz", folder / "results.npz"]
    command = [sys.executable, "-P", "-c", textwrap.dedent(BOTH_LOADERS), *arguments]
    subprocess.run(command, check=True, cwd=folder, timeout=300)
    with np.load(folder / "results.npz") as arrays:
        return dict(arrays)


def check_outputs(got, expected, k=5):
    """Same numbers as the network to 1e-5; the rest recomputed from them."""
    scores, logits = expected["predictions"].numpy(), expected["logits"].numpy()
    assert 0.1 < np.abs(logits).max() < 100 and scores.max() < 0.999
    np.testing.assert_allclose(got["scores"], scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(got["logits"], logits, rtol=0, atol=1e-5)
    order = np.argsort(-logits, axis=1)[:, :k]
    np.testing.assert_array_equal(got["classes"], order)
    np.testing.assert_array_equal(got["labels"], np.array(LABELS)[order])
    top = np.take_along_axis(got["scores"], order, axis=1)
    np.testing.assert_array_equal(got["top_scores"], top)


# --- the numbers ---------------------------------------------------------------------


@pytest.mark.parametrize("loader", ["python", "session"])
@pytest.mark.parametrize("size", SIZES)
def test_a_fresh_process_without_the_zoo_gives_the_same(fresh, expected, loader, size):
    got = {name: fresh[f"{loader}/{size}/{name}"] for name in ANSWER}
    check_outputs(got, expected[size])


@pytest.mark.parametrize("size", SIZES)
def test_load_exported_gives_the_same(loaded, requests, expected, size):
    check_outputs(loaded(requests[size]), expected[size])


def test_the_clips_of_a_batch_do_not_mix(loaded):
    run = loaded
    clips = random_clips((2, 3, 20, 30, 3), seed=2)
    clips[1] //= 3
    together, alone = run(clips)["logits"], run(clips[1:])["logits"]
    np.testing.assert_allclose(together[1:], alone, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_raw_is_the_network_itself(loaded, model):
    rgb = np.random.default_rng(3).uniform(0, 255, (2, 3, 40, 56, 3)).astype("float32")
    got = loaded.raw(rgb)
    logits = zoo.features(model, ["logits"])(rgb)["logits"]
    assert set(got) == {"logits", "predictions"}
    np.testing.assert_allclose(got["logits"], logits, atol=1e-5)
    np.testing.assert_allclose(got["predictions"], model(rgb), atol=1e-5)


def test_features_are_those_of_the_view(loaded, model, requests):
    clips = requests["long portrait"]
    view = video_view(model, **SMALL)(clips)["rgb"]
    expected = zoo.features(model, ["pool5"])(view)["pool5"].numpy()
    found = loaded.features(clips)["pool5"]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-5)


def test_half_precision_models(mixed_bfloat16, tmp_path):
    model = enliven(thin())
    path = export(model, tmp_path, labels=("a", "b", "c"), **SMALLER)
    clips = random_clips((1, 3, 40, 40, 3))
    logits = video_classifier(model, **SMALLER)(clips, training=False)["logits"]
    got = load_exported(path)
    np.testing.assert_allclose(got(clips)["logits"], logits, atol=0.1)
    assert got.record["compute_dtypes"] == ["bfloat16", "float32"]


def test_models_of_several_replicas_export_the_mean_statistics(two_replicas, tmp_path):
    with two_replicas.scope():
        model = thin()
        model.compile("sgd", "sparse_categorical_crossentropy")
    clips = random_clips((4, 2, 32, 32, 3)).astype("float32")
    clips[:2] *= 0.2  # each replica sees another half
    model.fit(clips, np.arange(4) % 3, batch_size=4, epochs=2, verbose=0)
    plain = thin()
    different = 0
    for target, source in zip(plain.variables, model.variables, strict=True):
        copies = [c.numpy() for c in source.value.values]
        different += not np.array_equal(*copies)
        target.assign(np.mean(copies, axis=0))
    assert different > 10  # else the test would show nothing

    path = export(model, tmp_path, verify=False, **SMALLER)
    clips = random_clips((2, 3, 40, 40, 3))
    outputs = video_classifier(plain, **SMALLER)(clips, training=False)
    got = load_exported(path)(clips)
    np.testing.assert_allclose(got["logits"], outputs["logits"], atol=1e-5)
    np.testing.assert_allclose(got["scores"], outputs["predictions"], atol=1e-5)


def test_export_inside_a_strategy_scope_is_refused(two_replicas, tmp_path):
    with two_replicas.scope(), pytest.raises(RuntimeError, match="call it outside"):
        export(mini(), tmp_path, **QUICK)


# --- what lies in the directory ------------------------------------------------------


def test_golden_signatures(exported):
    signatures = tf.saved_model.load(str(exported)).signatures
    assert {
        name: {
            end: {key: (t.dtype.name, tuple(t.shape)) for key, t in tensors.items()}
            for end, tensors in (
                ("inputs", function.structured_input_signature[1]),
                ("outputs", function.structured_outputs),
            )
        }
        for name, function in signatures.items()
    } == GOLDEN


def test_the_record_lists_the_signatures(loaded):
    listed = loaded.record["signatures"]
    assert tuple(listed) == loaded.signatures == tuple(GOLDEN)
    assert listed["jpeg"]["inputs"] == {
        "jpeg": {"dtype": "string", "shape": [None, None]}
    }
    for name, ends in GOLDEN.items():
        assert set(listed[name]["outputs"]) == set(ends["outputs"])
    assert zoo.info("t_resnet_tiny").signatures == loaded.signatures


def test_labels_are_an_asset(exported):
    text = (exported / "assets" / "labels.txt").read_text("utf-8")
    assert text.splitlines() == list(LABELS)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], str(exported))
    assert [asset.filename for asset in graph.asset_file_def] == ["labels.txt"]


def test_weights_are_stored_once(exported, model):
    size = sum(v.value.numpy().nbytes for v in model.variables)
    stored = sum(p.stat().st_size for p in (exported / "variables").iterdir())
    assert size < stored < 1.05 * size
    names = [
        name
        for name, _ in tf.train.list_variables(exported / "variables" / "variables")
    ]
    assert len([n for n in names if n.endswith("VARIABLE_VALUE")]) == len(model.weights)


def test_record(loaded, model):
    record = loaded.record
    weights = hashlib.sha256(b"".join(v.numpy().tobytes() for v in variables(model)))
    assert record["weights"]["sha256"] == weights.hexdigest()
    labels = hashlib.sha256("\n".join(LABELS).encode()).hexdigest()
    assert record["labels_sha256"] == labels
    assert record["labels"] == list(LABELS)
    view = record["frames"], record["shorter_side"], record["flip"], record["top_k"]
    assert view == (4, 64, True, 5)
    assert record["versions"]["tensorflow"] == tf.__version__
    assert record["activation"] == "softmax" and record["name"] == "t_resnet_tiny"


def variables(model):
    return video_classifier(model, **SMALL).variables


def test_warmup_requests_are_some_that_run(exported, loaded):
    """Read by the official definitions, as TensorFlow Serving reads them."""
    file = exported / "assets.extra" / "tf_serving_warmup_requests"
    records = list(tf.data.TFRecordDataset(str(file)).as_numpy_iterator())
    assert max(map(len, records)) < 2000
    logs = [PredictionLog.FromString(record) for record in records]
    requests = [log.predict_log.request for log in logs]
    specs = [(x.model_spec.name, x.model_spec.signature_name) for x in requests]
    assert specs == [("t_resnet_tiny", "serving_default"), ("t_resnet_tiny", "jpeg")]
    clips = tf.make_ndarray(requests[0].inputs["clips"])
    assert clips.shape == (1, 4, 64, 85, 3) and (clips == 128).all()
    files = tf.make_ndarray(requests[1].inputs["jpeg"])
    assert files.shape == (1, 4)
    frame = tf.io.decode_jpeg(files[0, 3]).numpy()
    assert frame.shape == (64, 85, 3) and (frame == 128).all()
    np.testing.assert_array_equal(loaded(clips)["scores"], loaded.jpeg(files)["scores"])


def test_a_contract_adds_provenance_and_limits(tmp_path):
    contract = Contract(
        ["yes", "no"], 2, 8, top_k=1, max_pixels=400, provenance={"trained on": "x"}
    )
    path = publish(mini(), tmp_path, contract, name="other", verify=False)
    assert path == tmp_path / "other" / "1"
    got = load_exported(path)
    assert got.record["provenance"] == {"trained on": "x"}
    assert got(random_clips((1, 4, 10, 10, 3)))["labels"].shape == (1, 1)
    with pytest.raises(ValueError, match="at most 400 pixels may be sent"):
        got(random_clips((1, 5, 10, 10, 3)))


def test_limits_of_frames(tmp_path):
    contract = Contract(["yes", "no"], 2, 8, max_frames=6, features=("logits",))
    got = load_exported(publish(mini(), tmp_path, contract, verify=False))
    assert got(random_clips((2, 3, 9, 9, 3)))["scores"].shape == (2, 2)
    for run in (got, got.features):
        with pytest.raises(ValueError, match=r"at most 6 frames.*\[1 7 9 9 3\]"):
            run(random_clips((1, 7, 9, 9, 3)))
    with pytest.raises(ValueError, match=r"at most 6 frames.*\[7 1 9 9 3\]"):
        got.raw(np.zeros((7, 1, 9, 9, 3)))


def test_limits_that_no_clip_keeps(tmp_path):
    contract = Contract(["yes", "no"], 2, 8, max_view_pixels=127)
    with pytest.raises(ValueError, match=r"2 frames of 8 x 8 are 128.*at most 127"):
        publish(mini(), tmp_path, contract, verify=False)
    assert listing(tmp_path) == []


# --- wrong arguments, wrong inputs, wrong folders ------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"labels": ["a"]}, "2 classes, got 1 labels.*one per class"),
        ({"labels": "ab"}, "sequence of names, got the string 'ab'"),
        ({"labels": ["a", ""]}, "names, not empty; got ''"),
        ({"labels": ["a", 3]}, "names, not empty; got 3"),
        ({"labels": ["a", "b\nc"]}, r"names of one line, got 'b\\nc'"),
        ({"name": "../x"}, "letters, digits and _ . - are accepted, got '../x'"),
        ({"version": 0}, "at least 1, got 0"),
        ({"version": "1"}, "at least 1, got '1'"),
        ({"top_k": 0}, "top_k must be an integer of at least 1, got 0"),
        ({"frames": 2.0}, "frames must be an integer of at least 1, got 2.0"),
        ({"out_dir": "gs://bucket/models"}, "local folder, got 'gs://bucket/models'"),
    ],
)
def test_wrong_arguments(tmp_path, arguments, message):
    arguments = {"out_dir": tmp_path, **QUICK, **arguments}
    with pytest.raises(ValueError, match=message):
        export(mini(), **arguments)
    assert listing(tmp_path) == []


def test_only_classifiers_are_exported(tmp_path):
    with pytest.raises(TypeError, match="takes a keras.Model, got str"):
        export("t_resnet50", tmp_path)
    with pytest.raises(ValueError, match="has no endpoint 'logits'"):
        export(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), tmp_path)


def test_without_labels_classes_are_numbered_and_that_is_said(tmp_path, caplog):
    path = export(mini(), tmp_path, **{**QUICK, "labels": ()})
    assert "without labels: its 2 classes are called class_0 to class_1" in caplog.text
    got = load_exported(path)(random_clips((1, 1, 4, 4, 3)))
    assert set(got["labels"][0]) == {"class_0", "class_1"}


@pytest.mark.parametrize(
    "clips, message",
    [
        (np.zeros((1, 0, 8, 8, 3), "uint8"), r"no axis of length 0.*: \[1 0 8 8 3\]"),
        (np.zeros((0, 1, 8, 8, 3), "uint8"), r"no axis of length 0.*: \[0 1 8 8 3\]"),
        (np.zeros((1, 1, 8, 0, 3), "uint8"), r"no axis of length 0.*: \[1 1 8 0 3\]"),
        (
            np.zeros((1, 1, 1, 9999, 3), "uint8"),
            r"too large.*10000 remain.*\[1279872",
        ),
        (np.zeros((4, 8, 8, 3), "uint8"), r"uint8 of shape \(4, 8, 8, 3\).*\[None\]"),
        (np.zeros((1, 1, 8, 8, 1), "uint8"), r"must be uint8 \[batch, frames"),
        (np.zeros((1, 1, 8, 8, 3)), "must be uint8.*got float64"),
    ],
)
def test_wrong_inputs(exported_mini, clips, message):
    with pytest.raises(ValueError, match=message):
        exported_mini(clips)


@pytest.mark.parametrize(
    ("rgb", "message"),
    [
        (np.full((1, 1, 8, 8, 3), np.nan), "`rgb` must be finite and within 0-255"),
        (np.full((1, 1, 8, 8, 3), 255.5), r"0-255; got least and most: \[255.5\]"),
        (np.full((1, 1, 8, 8, 3), -1.0), r"0-255; got least and most: \[-1\]"),
        (np.zeros((1, 1, 101, 100, 3)), "at most 10000 pixels may be sent, all of whi"),
        (np.zeros((1, 0, 8, 8, 3)), r"no axis of length 0.*\[1 0 8 8 3\]"),
        (np.zeros((1, 1, 8, 8, 3), "uint8"), "rgb must be float32.*got uint8"),
    ],
)
def test_wrong_raw_inputs(exported_mini, rgb, message):
    with pytest.raises(ValueError, match=message):
        exported_mini.raw(rgb)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 41.0])
def test_flow_is_finite_and_in_pixels(value):
    flow = np.zeros((1, 1, 2, 2, 20), "float32")
    VALUES["flow"](flow)
    flow[0, 0, 0, 0, 0] = value * flow.size
    with pytest.raises(tf.errors.InvalidArgumentError, match="finite and in pixels"):
        VALUES["flow"](flow)


def test_a_signature_that_an_export_lacks(exported_mini):
    with pytest.raises(ValueError, match="no signature 'features', but serving_defau"):
        exported_mini.features(random_clips((1, 1, 8, 8, 3)))
    with pytest.raises(ValueError, match="takes rgb; got flow"):
        exported_mini.raw(flow=np.zeros((1, 1, 8, 8, 20)))


@pytest.fixture(scope="module")
def exported_mini(tmp_path_factory):
    contract = Contract(("yes", "no"), 2, 8, max_view_pixels=10_000)
    folder = tmp_path_factory.mktemp("mini")
    return load_exported(publish(mini(), folder, contract, verify=False))


def test_folders_without_an_export(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist.*writes one"):
        load_exported(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="neither saved_model.pb nor"):
        load_exported(tmp_path)
    export(mini(), tmp_path, **QUICK)
    with pytest.raises(FileNotFoundError, match="holds some; take one: .*mini"):
        load_exported(tmp_path)


@pytest.mark.parametrize(
    "name", ["saved_model.pb", "variables/variables.index", "variables/*data*"]
)
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_damaged_exports(tmp_path, name, damage):
    path = export(mini(), tmp_path, **QUICK)
    (file,) = path.glob(name)
    if damage == "cut":
        os.truncate(file, file.stat().st_size // 2)
    else:
        file.unlink()
    with pytest.raises((ValueError, FileNotFoundError), match="damaged|no export"):
        load_exported(path)


def test_savedmodels_of_others(tmp_path):
    module = tf.Module()
    spec = tf.TensorSpec((None,), name="x")
    module.f = tf.function(lambda x: {"y": x}, input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path), signatures=module.f)
    with pytest.raises(ValueError, match=r"takes \['x'\], expected are \['clips'\]"):
        load_exported(tmp_path)


def test_record_is_json_with_readable_labels(exported):
    text = (exported / "assets.extra" / "zoo.json").read_text("utf-8")
    assert json.loads(text)["labels"][0] == LABELS[0]
    assert "Fußgänger" in text
