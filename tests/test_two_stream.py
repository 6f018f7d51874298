"""Two towers, two losses, one answer; and two trained streams that become one net."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from tests.test_models import clip, flow, given, trained
from tests.weight_files import write_legacy_h5
from zoo.models.resnet import STEMS
from zoo.weights import adaptation, keras_applications, lookup
from zoo.weights.transfer import Weights, transfer

NAME = "two_stream_resnet26_tiny"
VGGS = "two_stream_vgg_tiny"  # of fewer layers, which are traced in less time


@pytest.fixture(scope="module")
def streams():
    """A trained appearance stream and a trained motion stream of four classes."""
    names = {"appearance": "resnet26_tiny", "motion": "motion_resnet26_tiny"}
    return {k: trained(zoo.load(v, num_classes=4)) for k, v in names.items()}


@pytest.fixture(scope="module")
def vggs():
    names = {"appearance": "vgg_tiny", "motion": "motion_vgg_tiny"}
    return {k: trained(zoo.load(v, num_classes=4)) for k, v in names.items()}


def logits(model, *shape):
    return zoo.features(model, ["logits"])(given(model, *shape))["logits"].numpy()


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


class TestLateFusion:
    @pytest.mark.parametrize("kind", ["resnet26", "vgg"])
    def test_is_the_mean_of_the_streams(self, kind, streams, vggs):
        trained_streams = {"resnet26": streams, "vgg": vggs}[kind]
        both = zoo.load(f"two_stream_{kind}_tiny", weights=trained_streams)
        a, m = (logits(trained_streams[k]) for k in ("appearance", "motion"))
        np.testing.assert_allclose(logits(both), (a + m) / 2, rtol=1e-5, atol=1e-4)

    def test_weights_of_the_streams(self, streams):
        """HMDB51 (5.5.3): the motion stream counts three times."""
        both = zoo.load(NAME, weights=streams, stream_weights=(1, 3))
        a, m = (logits(streams[k]) for k in ("appearance", "motion"))
        np.testing.assert_allclose(logits(both), (a + 3 * m) / 4, rtol=1e-5, atol=1e-4)
        numpy = zoo.load(NAME, weights=streams, stream_weights=[1, np.float32(3)])
        np.testing.assert_array_equal(logits(numpy), logits(both))

    @pytest.mark.parametrize(
        "weights",
        [(1, -1), 3, None, np.array([1, 3]), (1, np.nan), (np.inf, 1), (True, 1), "13"],
    )
    def test_other_weights_are_refused(self, weights):
        message = r"stream_weights must be a pair of positive numbers such as \(1, 3\)"
        with pytest.raises(ValueError, match=message):
            zoo.load(NAME, stream_weights=weights)

    def test_towers_return_raw_scores(self, streams):
        outputs = zoo.load(NAME, weights=streams)(given(zoo.load(NAME)))
        for tower, stream in streams.items():
            scores = outputs[tower].numpy().mean(axis=(1, 2, 3))
            np.testing.assert_allclose(scores, logits(stream), rtol=1e-5, atol=1e-4)


class TestLoss:
    """A loss per tower and position, with the label of the clip (4.3.5)."""

    @pytest.fixture
    def model(self, streams):
        model = zoo.load(NAME, weights=streams)
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    def expected(self, outputs, labels, weights=(1, 1, 1)):
        losses = []
        for tower in ("appearance", "motion"):
            chosen = log_softmax(outputs[tower].numpy())
            chosen = [chosen[i, ..., label] for i, label in enumerate(labels)]
            losses.append([-c.sum() for c in chosen])
        return np.mean(np.sum(losses, axis=0) * np.array(weights))

    # 5 chunks of one position, and 3 chunks of 1 x 2 positions.
    @pytest.mark.parametrize("shape", [(3, 5, 64, 64), (3, 3, 64, 240)])
    def test_is_summed_over_towers_and_positions(self, model, shape):
        x, labels = given(model, *shape), np.array([1, 3, 0])
        outputs = model(x)
        found = model.compute_loss(x, labels, outputs)
        np.testing.assert_allclose(found, self.expected(outputs, labels), rtol=1e-5)

    def test_one_hot_labels_and_sample_weights(self, streams, model):
        x, labels = given(model, 3), np.array([1, 3, 0])
        outputs, weights = model(x), np.array([0.5, 0, 2])
        expected = self.expected(outputs, labels, weights)
        found = model.compute_loss(x, labels, outputs, weights)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        dense = zoo.load(NAME, weights=streams)
        dense.compile("sgd", "categorical_crossentropy")
        found = dense.compute_loss(x, np.eye(4)[labels], outputs, weights)
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    def test_raw_scores_take_a_loss_of_logits(self, streams, model):
        raw = zoo.load(NAME, weights=streams, classifier_activation=None)
        raw.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        x, labels = given(raw, 3), np.array([1, 3, 0])
        np.testing.assert_allclose(
            raw.compute_loss(x, labels, raw(x)),
            self.expected(model(x), labels),
            rtol=1e-5,
        )

    def test_fit_logs_both_losses_and_the_accuracy_of_the_average(self, model):
        x = given(model, 4)
        answers = np.argmax(model(x)["predictions"], axis=-1)
        logs = model.evaluate(x, answers, verbose=0, return_dict=True)
        assert logs["accuracy"] == 1
        total = logs["appearance_loss"] + logs["motion_loss"]
        assert logs["loss"] == pytest.approx(total, rel=1e-5)
        history = model.fit(x, answers, epochs=2, verbose=0).history
        assert set(history) == {"loss", "accuracy", "appearance_loss", "motion_loss"}

    @pytest.mark.parametrize("compiled", ["auto", True])
    def test_losses_of_the_towers_are_means_over_clips(self, vggs, compiled):
        """Whatever the sizes of the batches, and whether they are known beforehand."""
        x, y = given(zoo.load(VGGS), 6), np.array([0, 1, 2, 3, 0, 1])
        weights = np.array([1, 2, 0.5, 1, 0, 3], "float32")
        model = self.compiled(vggs, jit_compile=compiled)
        expected = model.evaluate(x, y, 6, 0, weights, return_dict=True)
        by_clip = [
            model.compute_loss(clip, label, model(clip), weight)
            for clip, label, weight in tf.data.Dataset.from_tensor_slices(
                (x, y, weights)
            ).batch(1)
        ]
        assert expected["loss"] == pytest.approx(np.mean(by_clip), rel=1e-4)
        batches = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(4)
        for arguments in ((x, y, 4, 0, weights), (batches, None, None, 0)):
            found = self.compiled(vggs).evaluate(*arguments, return_dict=True)
            total = found["appearance_loss"] + found["motion_loss"]
            assert found["loss"] == pytest.approx(total, rel=1e-5)
            assert found == pytest.approx(expected, rel=1e-4)

    def test_losses_of_the_towers_on_two_devices(self, vggs, two_replicas):
        x, y = given(zoo.load(VGGS), 6), np.array([0, 1, 2, 3, 0, 1])
        expected = self.compiled(vggs).evaluate(x, y, 6, 0, return_dict=True)
        with two_replicas.scope():
            model = self.compiled(vggs)
        found = model.evaluate(x, y, 4, 0, return_dict=True)
        assert found == pytest.approx(expected, rel=1e-4)
        logs = model.fit(x, y, 4, verbose=0).history
        total = logs["appearance_loss"][0] + logs["motion_loss"][0]
        assert logs["loss"][0] == pytest.approx(total, rel=1e-4)

    def test_losses_of_the_towers_in_half_precision(self, vggs, mixed_bfloat16):
        x, y = given(zoo.load(VGGS), 6), np.array([0, 1, 2, 3, 0, 1])
        found = self.compiled(vggs).evaluate(x, y, 4, 0, return_dict=True)
        total = found["appearance_loss"] + found["motion_loss"]
        assert found["loss"] == pytest.approx(total, rel=1e-4)

    def compiled(self, vggs, loss="sparse_categorical_crossentropy", **options):
        model = zoo.load(VGGS, weights=vggs)
        model.compile("sgd", loss, metrics=["accuracy"], **options)
        return model

    def test_weights_and_losses_of_the_towers(self, vggs, tmp_path):
        x, y = given(zoo.load(VGGS), 3), np.array([1, 3, 0])
        plain = self.compiled(vggs).evaluate(x, y, verbose=0, return_dict=True)
        weights = {"appearance": 0.25, "motion": 2.0}
        expected = 0.25 * plain["appearance_loss"] + 2 * plain["motion_loss"]
        one = "sparse_categorical_crossentropy"
        object_ = keras.losses.SparseCategoricalCrossentropy()
        for loss in (one, object_, {"motion": object_, "appearance": one}):
            model = self.compiled(vggs, loss, loss_weights=weights)
            found = model.evaluate(x, y, verbose=0, return_dict=True)
            assert found == pytest.approx({**plain, "loss": expected}, rel=1e-5)
        model.save(tmp_path / "m.keras")
        again = keras.models.load_model(tmp_path / "m.keras")
        found = again.evaluate(x, y, verbose=0, return_dict=True)
        assert found == pytest.approx({**plain, "loss": expected}, rel=1e-5)
        half = self.compiled(vggs, {"motion": one, "appearance": one}, loss_weights=0.5)
        assert half.evaluate(x, y, verbose=0)[0] == pytest.approx(plain["loss"] / 2)

    def test_each_tower_learns_by_its_own_loss_alone(self, streams):
        """No gradient of the motion stream's loss reaches the appearance stream."""
        model = zoo.load(NAME, weights=streams)
        x = given(model, 2)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x, training=True)["motion"])
        variables = {v.path: v.value for v in model.trainable_variables}
        gradients = tape.gradient(loss, variables)
        assert all(
            (gradient is None) == path.startswith("appearance_")
            for path, gradient in gradients.items()
        )


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda x: x["rgb"], r"takes a dict of clips \{'rgb', 'flow'\}; got"),
            (lambda x: [x["rgb"], x["flow"]], "takes a dict of clips .* got list"),
            (lambda x: {"rgb": x["rgb"]}, r"takes a dict .* got \['rgb'\]"),
            (lambda x: {**x, "audio": x["rgb"]}, r"got \['rgb', 'flow', 'audio'\]"),
            (
                lambda x: {**x, "flow": x["flow"][:, :3]},
                r"equal batch, length .* rgb is \(2, 5, 64, 64, 3\), flow is \(2, 3,",
            ),
            (
                lambda x: {**x, "rgb": x["rgb"][:, :, :60]},
                r"rgb is \(2, 5, 60, 64, 3\), flow is \(2, 5, 64, 64, 20\)",
            ),
            (
                lambda x: {"rgb": x["flow"], "flow": x["rgb"]},
                r"takes as 'rgb' clips of 3 channels, .* RGB, 0-255.* got shape .*20\)",
            ),
            (
                lambda x: {**x, "flow": x["flow"][..., :2]},
                r"takes as 'flow' clips of 20 channels, .* interleaved u, v .*, 2\)",
            ),
            (
                lambda x: {**x, "flow": x["flow"][0]},
                r"takes as 'flow' clips of .* got shape \(5, 64, 64, 20\)",
            ),
            (lambda x: {"rgb": x["rgb"]}, "flow: .*, 20. optical flow in pixels, u ri"),
            (lambda x: {**x, "flow": np.nan * x["flow"]}, "holds NaN or infinite val"),
            (
                lambda x: {**x, "flow": 127.5 + x["flow"]},
                "takes flow in pixels, .* looks like 8-bit codes. Decode them first",
            ),
        ],
    )
    def test_is_named(self, change, message):
        model = zoo.load(NAME)
        with pytest.raises(ValueError, match=message):
            model(change(given(model)))

    def test_is_named_while_training(self):
        model = zoo.load(NAME)
        model.compile("sgd", "sparse_categorical_crossentropy")
        x = {"rgb": clip(2, 5), "flow": flow(2, 4)}
        with pytest.raises(ValueError, match="equal batch, length and size"):
            model.fit(x, np.zeros(2), verbose=0)

    @pytest.mark.parametrize(
        ("y", "weights", "message"),
        [
            (None, None, r"needs labels y, one array for all towers .* got NoneType"),
            ({"motion": 0, "appearance": 0}, None, r"got \['motion', 'appearance'\]"),
            (0, {"motion": 1}, r"needs sample_weight, one array .* got \['motion'\]"),
        ],
    )
    def test_labels_are_plain(self, y, weights, message):
        model = zoo.load(NAME)
        model.compile("sgd", "sparse_categorical_crossentropy")
        y, weights = (
            keras.tree.map_structure(
                lambda value: None if value is None else np.full(2, value), tree
            )
            for tree in (y, weights)
        )
        with pytest.raises(ValueError, match=message):
            model.fit(given(model), y, sample_weight=weights, verbose=0)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                {"loss": {"predictions": "mse"}},
                r"loss of .* each of appearance, motion",
            ),
            ({"loss": ["mse", "mse"]}, r"one for all towers .* got \['mse', 'mse'\]"),
            (
                {"loss": "mse", "loss_weights": {"motion": 1}},
                r"loss_weights of .* dict of one for each .* got \['motion'\]",
            ),
            ({"loss": "mse", "loss_weights": (1, 2)}, r"got \(1, 2\)"),
        ],
    )
    def test_losses_are_of_the_towers(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            zoo.load(NAME).compile("sgd", **arguments)

    @pytest.mark.parametrize("compiled", [False, True])
    @pytest.mark.parametrize("name", [NAME, "st_mulnet26_tiny", "fusion_vgg_tiny"])
    def test_unequal_lengths_that_only_a_run_can_know(self, name, compiled):
        """One frame must not be taken for many, nor many for one."""
        options = {"pooling": "2d"} if name == "fusion_vgg_tiny" else {}
        model = zoo.load(name, **options)
        graph = of_unknown_sizes(model, compiled)
        message = None if compiled else "streams_of_different_size"
        x = given(model)
        np.testing.assert_allclose(
            graph(x)["predictions"], model(x)["predictions"], rtol=1e-4, atol=1e-5
        )
        for a, m in ((5, 1), (1, 5)):
            with pytest.raises(tf.errors.InvalidArgumentError, match=message):
                graph({"rgb": clip(2, a), "flow": flow(2, m)})

    @pytest.mark.parametrize(
        ("name", "options", "endpoint"),
        [
            ("st_mulnet26_tiny", {}, "appearance/res3"),
            ("st_resnet26_tiny", {}, "appearance/res3"),
            *(
                ("fusion_vgg_tiny", {"method": method, "pooling": "2d"}, "fusion_relu5")
                for method in ("sum", "max", "conv", "bilinear")
            ),
        ],
    )
    def test_unequal_lengths_in_parts_of_a_network(self, name, options, endpoint):
        part = zoo.features(zoo.load(name, **options), [endpoint])
        graph = of_unknown_sizes(part)
        for a, m in ((5, 1), (1, 5)):
            with pytest.raises(tf.errors.InvalidArgumentError, match="different_size"):
                graph({"rgb": clip(2, a), "flow": flow(2, m)})


def of_unknown_sizes(model, compiled=None):
    """The model's graph, which knows nothing of its inputs but their channels."""
    spec = {
        "rgb": tf.TensorSpec([None] * 4 + [3], tf.uint8),
        "flow": tf.TensorSpec([None] * 4 + [20], tf.float32),
    }
    return tf.function(model, input_signature=[spec], jit_compile=compiled)


@pytest.mark.parametrize("imports", ["keras, zoo", "zoo.models, keras"])
def test_a_saved_file_is_read_by_a_fresh_process(streams, tmp_path, imports):
    model = zoo.load(NAME, weights=streams)
    model.save(tmp_path / "m.keras")
    code = f"import {imports}; keras.models.load_model('m.keras')"
    environment = {**os.environ, "PYTHONPATH": str(Path(zoo.__file__).parents[1])}
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment
    )


class TestWarmStart:
    def test_streams_from_files_and_folders(self, streams, tmp_path):
        """From wherever single networks load, each stream by itself."""
        expected = logits(zoo.load(NAME, weights=streams))
        streams["appearance"].save(tmp_path / "a.keras")
        streams["motion"].save_weights(tmp_path / "m.weights.h5")
        paths = {"appearance": tmp_path / "a.keras"}
        paths["motion"] = str(tmp_path / "m.weights.h5")
        np.testing.assert_array_equal(logits(zoo.load(NAME, weights=paths)), expected)

    def test_a_stream_from_a_network_of_two(self, streams):
        both = zoo.load(NAME, weights=streams)
        parts = {"appearance": both, "motion": streams["motion"]}
        again = zoo.load(NAME, weights=parts)
        np.testing.assert_array_equal(logits(again), logits(both))

    def test_motion_from_colour(self, streams):
        """The first layer answers to a grey pattern in any field (spec of the mean)."""
        motion = zoo.load("motion_resnet26_tiny", weights=streams["appearance"])
        kernel = streams["appearance"].get_layer("conv1").get_weights()[0]
        adapted = motion.get_layer("conv1").get_weights()[0]
        np.testing.assert_allclose(
            adapted, np.repeat(kernel.mean(2)[:, :, None], 20, 2)
        )
        np.testing.assert_array_equal(
            motion.get_layer("res5b_branch2b").get_weights()[0],
            streams["appearance"].get_layer("res5b_branch2b").get_weights()[0],
        )

    def test_rules_of_the_first_layer(self):
        kernel = np.arange(2 * 2 * 3 * 4, dtype="float32").reshape(2, 2, 3, 4)
        tiled = adaptation.flow_kernel(kernel, "tiled")
        order = [0, 1, 2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0, 1]
        np.testing.assert_array_equal(tiled, kernel[:, :, order])
        with pytest.raises(ValueError, match="'sum' .* accepted are mean, tiled"):
            adaptation.flow_kernel(kernel, "sum")

    def test_other_classes_start_anew(self, streams, caplog):
        with caplog.at_level("WARNING", logger="absl"):
            model = zoo.load(NAME, weights=streams, num_classes=7)
        assert model.output["predictions"].shape == (None, 7)
        assert "new classifier appearance_fc, 4 -> 7 classes" in caplog.text
        assert "new classifier motion_fc, 4 -> 7 classes" in caplog.text

    def test_streams_of_different_classes(self, streams):
        other = zoo.load("motion_resnet26_tiny", num_classes=5)
        parts = {**streams, "motion": other}
        with pytest.raises(
            ValueError, match="different numbers of classes, .*: 4.*: 5"
        ):
            zoo.load(NAME, weights=parts)
        assert zoo.load(NAME, weights=parts, num_classes=3)

    def test_streams_of_different_stems(self, streams):
        other = zoo.load("motion_resnet26_tiny", num_classes=4, stem="keras")
        with pytest.raises(ValueError, match="different stems, .*'caffe'.*'keras'"):
            zoo.load(NAME, weights={**streams, "motion": other})
        both = {k: zoo.load(v.name, stem="keras") for k, v in streams.items()}
        model = zoo.load(NAME, weights=both)
        assert model.get_layer("motion_pool1").padding == STEMS["keras"].pool_padding

    def test_a_released_motion_stream_beside_any_of_colour(self, streams, tmp_path):
        """Stems that differ in the zero of flow alone are one, that of motion."""
        motion = zoo.load("motion_resnet26_tiny", num_classes=4, stem="release")
        model = zoo.load(NAME, weights={**streams, "motion": motion})
        still = {k: v[:, :1] for k, v in given(model).items()}
        still["flow"] = np.zeros_like(still["flow"])
        normalized = keras.Model(
            model.input, model.get_layer("motion_flow_normalization").output
        )
        np.testing.assert_array_equal(normalized(still), -0.5)
        model.save(tmp_path / "m.keras")
        again = zoo.load(NAME, weights=tmp_path / "m.keras")
        assert again.get_layer("motion_flow_normalization").offset == -0.5

    def test_zero_of_flow_is_that_of_the_weights(self, tmp_path):
        with pytest.raises(ValueError, match="vgg_tiny sees no flow: leave out flow_"):
            zoo.load("vgg_tiny", flow_offset=-0.5)
        for name in ("motion_vgg_tiny", "two_stream_vgg_tiny", "fusion_vgg_tiny"):
            model = zoo.load(name, flow_offset=-0.5)
            offsets = [x.offset for x in model.layers if hasattr(x, "offset")]
            assert offsets == [-0.5]

    @pytest.mark.parametrize(
        ("name", "weights", "message"),
        [
            (NAME, {"appearance": None}, "has the streams appearance, motion, weights"),
            (NAME, {}, r"weights were given for \(none\)"),
            ("resnet26_tiny", {"appearance": 1}, r"has the streams \(none\)"),
            (NAME, {"appearance": 1, "motion": 2}, "weights must be None, a name"),
        ],
    )
    def test_wrong_dicts(self, name, weights, message):
        with pytest.raises(ValueError, match=message):
            zoo.load(name, weights=weights)

    def test_wrong_stream(self, streams, vggs):
        with pytest.raises(ValueError, match="have no place in it: motion_conv"):
            zoo.load(NAME, weights={**streams, "motion": vggs["motion"]})
        with pytest.raises(ValueError, match="have other shapes: appearance_conv1"):
            zoo.load(NAME, weights={**streams, "appearance": streams["motion"]})

    def test_broken_weights_change_nothing(self, streams):
        target = zoo.load("motion_resnet26_tiny", num_classes=4)
        before = target.get_weights()
        layers = {"conv1": [np.full((7, 7, 3, 8), np.nan)]}
        with pytest.raises(ValueError, match="it needs are missing"):
            transfer(Weights("broken", layers), target)
        for a, b in zip(before, target.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_imagenet_starts_both_streams(monkeypatch, tmp_path):
    """weights="imagenet" and "imagenet_tiled", but for the download itself."""
    keras.utils.set_random_seed(1)
    theirs = keras.applications.ResNet50(weights=None, classifier_activation=None)
    path = write_legacy_h5(theirs, tmp_path / "resnet50.h5")
    monkeypatch.setattr(lookup, "locate", lambda record, explicit: path)
    colour = theirs.get_layer("conv1_conv").get_weights()[0][:, :, ::-1]
    for weights, rule in (("imagenet", "mean"), ("imagenet_tiled", "tiled")):
        model = zoo.load("st_mulnet50", weights=weights, num_classes=4)
        found = {s: model.get_layer(f"{s}_conv1") for s in ("appearance", "motion")}
        found = {stream: layer.get_weights()[0] for stream, layer in found.items()}
        np.testing.assert_array_equal(found["appearance"], colour)
        expected = adaptation.flow_kernel(colour, rule)
        np.testing.assert_allclose(found["motion"], expected, rtol=1e-6)


@pytest.mark.slow
def test_vgg16_of_keras_applications():
    """Random weights; the largest score apart by 1e-4 at most."""
    keras.utils.set_random_seed(1)
    theirs = keras.applications.VGG16(weights=None, classifier_activation=None)
    for layer in theirs.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            rng = np.random.default_rng(len(layer.name))
            layer.set_weights([1.4 * kernel, rng.normal(0, 1, bias.shape)])
    ours = zoo.load("vgg16", classifier_activation=None, dropout=0)
    transfer(keras_applications.convert(theirs), ours)
    image = (
        np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3)).astype("float32")
    )
    prepared = keras.applications.vgg16.preprocess_input(image.copy())
    expected = theirs.predict(prepared, verbose=0)
    found = ours.predict(image[:, None], verbose=0)
    scale = np.abs(expected).max()
    assert np.ptp(expected, axis=1).min() > 0.01 * scale
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-4)
