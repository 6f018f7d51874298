"""What every registered detector must do; a new one is tested once it is registered."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from tests.detection_cases import calibrated, frames, targets
from zoo import layers
from zoo.understanding import multiply_adds, parameters, receptive_fields

NAMES = [n for n in zoo.list_models() if zoo.info(n).task == "detection"]
TINY = [name for name in NAMES if name.endswith("_tiny")]
MAPS = {"score_maps", "box_maps", "objectness", "anchor_deltas"}
BOXES = {"proposals", "proposal_mask", "class_scores", "box_deltas", "boxes"}
TRACKS = {"track_maps", "track_deltas"}


@pytest.fixture
def memory_returned():
    """Models are cyclic and large: unless collected, they add up to many gigabytes."""
    yield
    keras.utils.clear_session(free_memory=True)


@pytest.mark.parametrize("name", NAMES)
def test_record_tells_the_truth(name, zero_weights, memory_returned):
    """Parameters, multiply-adds, receptive fields and endpoints, recomputed."""
    info, model = zoo.info(name), zoo.load(name, frozen=False)
    assert parameters(model) == info.parameters
    maps = zoo.features(model, info.endpoints)
    assert multiply_adds(maps, info.clip) / 1e9 == pytest.approx(
        info.multiply_adds, rel=2e-3
    )
    fields = receptive_fields(maps)
    assert info.receptive_field == {e: fields[e] for e in info.receptive_field}
    assert set(maps.output) == set(info.endpoints)
    assert model.name == name
    assert model.num_classes == info.num_classes
    tracks = TRACKS if name.startswith("detect_track") else set()
    assert set(model.output) == MAPS | BOXES | tracks


def test_maps_of_the_thesis(zero_weights, memory_returned):
    """D_cls = k^2 (C + 1), D_reg = 4 k^2, 289 offsets at each of three layers."""
    model = zoo.load("detect_track_resnet50")
    channels = {e: x.shape[-1] for e, x in zoo.features(model, FILTERS).output.items()}
    assert channels == {**FILTERS, "rfcn_cls": 31 * 49}


FILTERS = {
    "res5": 2048,
    "rpn_cls": 15,
    "rpn_bbox": 60,
    "conv_new_1": 512,
    "rfcn_cls": 1519,
    "rfcn_bbox": 196,
    "corr3": 289,
    "corr4": 289,
    "corr5": 289,
    "rfcn_disp": 196,
}


def test_maps_of_the_release(zero_weights, memory_returned):
    """392 box maps, 81 offsets at conv3, 1443 channels before rfcn_disp (392)."""
    model = zoo.load("detect_track_resnet101", variant="release")
    found = zoo.features(model, ["rfcn_bbox", "corr3", "corr4", "rfcn_disp"]).output
    channels = {name: x.shape[-1] for name, x in found.items()}
    assert channels == {"rfcn_bbox": 392, "corr3": 81, "corr4": 289, "rfcn_disp": 392}
    assert model.get_layer("rfcn_disp").kernel.shape == (1443, 392)
    assert set(model.input) == {"rgb", "proposals"}
    assert not {"objectness", "anchor_deltas"} & set(model.output)


def test_frozen_as_in_the_release(zero_weights, memory_returned):
    model = zoo.load("rfcn_resnet50")
    trained = {v.path.split("/")[0] for v in model.trainable_variables}
    assert not any(n.startswith(("conv1", "res2")) for n in trained)
    assert {"res3a_branch1", "res5c_branch2c", "rpn_cls", "conv_new_1"} <= trained
    assert {v.name for v in model.trainable_variables} == {"kernel", "bias"}
    free = zoo.load("rfcn_tiny", frozen=False)
    assert len(free.trainable_variables) > len(
        zoo.load("rfcn_tiny").trainable_variables
    )


@pytest.mark.parametrize("name", TINY)
class TestTiny:
    def test_any_size_and_length_in_one_graph(self, name):
        model = zoo.load(name)
        spec = tf.TensorSpec([None] * 4 + [3], tf.uint8)
        graph = tf.function(model, input_signature=[spec])
        for shape in ((2, 2, (64, 80)), (1, 3, (97, 61)), (1, 1, (64, 64))):
            x = frames(*shape)
            y = graph(x)
            for key, value in model(x).items():
                close = {"rtol": 1e-3, "atol": 1e-3}
                assert y[key].shape == value.shape, key
                if key in MAPS | {"track_maps"}:  # others turn on the last bit
                    np.testing.assert_allclose(y[key], value, err_msg=key, **close)
            length = shape[1]
            assert y["boxes"].shape == (shape[0], length, 300, 4)
            if "track_deltas" in y:
                assert y["track_deltas"].shape == (shape[0], length - 1, 300, 4)

    def test_frames_do_not_see_each_other(self, name):
        """Detections of a frame are the same alone and in a clip."""
        model, x = zoo.load(name), frames(1, 2)
        both, alone = model(x), model(x[:, 1:])
        for key in MAPS:
            np.testing.assert_allclose(
                both[key][:, 1:], alone[key], rtol=1e-4, atol=1e-4, err_msg=key
            )

    def test_every_weight_gets_a_gradient(self, name):
        model = zoo.load(name, frozen=False)
        model.compile("sgd")
        x = frames()
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, targets(), model(x, training=True))
        variables = [v.value for v in model.trainable_variables]
        for variable, gradient in zip(
            model.trainable_variables, tape.gradient(loss, variables), strict=True
        ):
            assert gradient is not None, variable.path
            assert np.isfinite(gradient).all(), variable.path
            assert np.any(gradient), variable.path

    def test_files(self, name, tmp_path):
        model, x = zoo.load(name, num_classes=3), frames()
        model.compile("sgd", loss_weights={"class": 2.0})
        model.save(tmp_path / "m.keras")
        model.save_weights(tmp_path / "m.weights.h5")
        again = keras.models.load_model(tmp_path / "m.keras")
        assert type(again) is type(model)
        assert again.get_compile_config()["loss_weights"]["class"] == 2.0
        trained = [v.path for v in again.trainable_variables]
        assert trained == [v.path for v in model.trainable_variables]
        for loaded in (
            again,
            zoo.load(name, weights=tmp_path / "m.keras"),
            zoo.load(name, weights=tmp_path / "m.weights.h5"),
        ):
            assert loaded.num_classes == 3
            for key, value in model(x).items():
                np.testing.assert_array_equal(loaded(x)[key], value, err_msg=key)
        other = zoo.load(name, weights=model, num_classes=5)  # new classifier
        np.testing.assert_array_equal(other(x)["box_maps"], model(x)["box_maps"])
        assert other(x)["class_scores"].shape[-1] == 6

    def test_mixed_precision(self, name, mixed_bfloat16):
        model, x, y = calibrated(name), frames(), targets()
        outputs = model(x)
        assert {v.dtype for v in outputs.values()} == {tf.float32, tf.bool}
        convolutions = [x for x in model.layers if hasattr(x, "kernel_size")]
        assert {x.compute_dtype for x in convolutions} == {"bfloat16"}
        model.compile(keras.optimizers.SGD(1e-3))
        loss = model.train_on_batch(x, y, return_dict=True)["loss"]
        keras.config.set_dtype_policy("float32")
        full = zoo.load(name, weights=model)
        for key in MAPS:
            value = full(x)[key]
            apart = np.abs(outputs[key] - value).max() / np.abs(value).max()
            assert apart < 0.1, key
        assert np.isfinite(loss)

    def test_wrong_targets_are_named(self, name):
        model, x, good = zoo.load(name), frames(), targets()
        model.compile("sgd")
        outputs = model(x)
        without = {k: v for k, v in good.items() if k != "tracks"}
        for wrong, message in (
            (None, "needs targets, a dict of boxes.*NoneType"),
            (without, r"\['boxes', 'labels'\]"),
            ({**good, "labels": good["labels"][..., :2]}, r"\(2, 2, 2\)"),
            ({**good, "boxes": good["boxes"][..., :3]}, r"\(2, 2, 3, 3\)"),
        ):
            with pytest.raises(ValueError, match=message):
                model.compute_loss(x, wrong, outputs)
        with pytest.raises(ValueError, match="brings its own loss.*'mse'"):
            model.compile("sgd", loss="mse")
        with pytest.raises(ValueError, match="weights of tracking"):
            model.compile("sgd", loss_weights={"tracking": 1.0})

    def test_wrong_options_are_named(self, name):
        for options, message in (
            ({"classifier_activation": None}, "accepted are softmax"),
            ({"variant": "thsis"}, "accepted are thesis, release"),
            ({"num_classes": 0}, "num_classes must be a positive integer"),
            ({"heads": None}, "no option 'heads'; it has stem='caffe'"),
        ):
            with pytest.raises(ValueError, match=message):
                zoo.load(name, **options)


def test_two_replicas_train_like_one(two_replicas):
    start = calibrated("detect_track_tiny")

    def train(scope):
        with scope:
            model = zoo.load("detect_track_tiny", weights=start)
            model.compile(keras.optimizers.SGD(1e-2, momentum=0.9))
        x, y = frames(4, size=(64, 80)), targets(4)
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
        history = model.fit(data, epochs=2, shuffle=False, verbose=0).history
        return history, model.get_weights()

    one, two = train(tf.device("CPU:0")), train(two_replicas.scope())
    for key, values in one[0].items():
        np.testing.assert_allclose(two[0][key], values, rtol=1e-3, err_msg=key)
    for a, b in zip(two[1], one[1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_uncompiled_models_stay_so_in_files(tmp_path):
    zoo.load("rfcn_tiny").save(tmp_path / "m.keras")
    assert not keras.models.load_model(tmp_path / "m.keras").compiled


def test_objective_is_the_weighted_sum_of_its_terms():
    model, x, y = zoo.load("detect_track_tiny", frozen=False), frames(), targets()
    weights = {"rpn_class": 2.0, "track": 0.5, "box": 0.0}
    model.compile(keras.optimizers.SGD(0.0), loss_weights=weights)
    logs = model.evaluate(x, y, batch_size=2, return_dict=True, verbose=0)
    assert set(logs) == {
        "loss", "proposal_recall", *(f"{term}_loss" for term in model.terms)
    }  # fmt: skip
    total = sum(weights.get(t, 1.0) * logs[f"{t}_loss"] for t in model.terms)
    assert logs["loss"] == pytest.approx(total, rel=1e-5)
    assert model.terms == ["rpn_class", "rpn_box", "class", "box", "track"]


def test_padding_of_frames_and_objects_changes_no_loss():
    """More room for objects, and objects of label -1, are nothing."""
    model, x, y = zoo.load("detect_track_tiny"), frames(), targets()
    model.compile("sgd")
    outputs = model(x)
    loss = float(model.compute_loss(x, y, outputs))
    wide = {
        "boxes": np.pad(y["boxes"], [(0, 0)] * 2 + [(0, 4), (0, 0)]),
        "labels": np.pad(y["labels"], [(0, 0)] * 2 + [(0, 4)], constant_values=-1),
        "tracks": np.pad(y["tracks"], [(0, 0)] * 2 + [(0, 4)], constant_values=-1),
    }
    assert float(model.compute_loss(x, wide, outputs)) == pytest.approx(loss, rel=1e-5)
    empty = {
        **y,
        "labels": np.full_like(y["labels"], -1),
        "tracks": y["tracks"] * 0 - 1,
    }
    background = float(model.compute_loss(x, empty, outputs))
    assert np.isfinite(background)
    none = {key: value[:, :, :0] for key, value in y.items()}
    assert float(model.compute_loss(x, none, outputs)) == pytest.approx(background)


def test_detection_starts_from_image_networks_and_tracking_from_detection():
    """Tracking starts from detection without changing it (8.5.2)."""
    trunk = zoo.load("resnet_tiny")
    detector = zoo.load("rfcn_tiny", weights=trunk)
    assert detector.num_classes == 4  # and not that of the images
    x = frames()
    np.testing.assert_allclose(
        zoo.features(detector, ["res3"])(x)["res3"],
        zoo.features(trunk, ["res3"])(x)["res3"],
        rtol=1e-5,
        atol=1e-5,
    )
    tracker = zoo.load("detect_track_tiny", weights=detector)
    for key, value in detector(x).items():
        np.testing.assert_allclose(tracker(x)[key], value, rtol=1e-5, err_msg=key)


class TestVariants:
    def test_release_reads_proposals(self):
        model = zoo.load("detect_track_tiny", variant="release")
        boxes = targets()["boxes"]
        x = {"rgb": frames(), "proposals": boxes}
        y = model(x)
        np.testing.assert_array_equal(y["proposals"], boxes)
        assert y["proposal_mask"].numpy()[0, 0].tolist() == [True, True, False]
        assert y["box_deltas"].shape == (2, 2, 3, 4)
        # Released files hold true deltas; boxes of whole pixels, half a pixel off.
        true = layers.BoxTransform(released=True)([boxes, y["box_deltas"]])
        np.testing.assert_allclose(y["boxes"], true, rtol=1e-5)
        model.compile(keras.optimizers.SGD(1e-3))
        assert model.terms == ["class", "box", "track"]
        assert np.isfinite(model.train_on_batch(x, targets(), return_dict=True)["loss"])

    def test_backward_tracks_are_those_of_the_reversed_clip(self):
        model = zoo.load("detect_track_tiny", backward=True)
        x = frames(1, 3)
        y, reverse = model(x), model(x[:, ::-1])
        np.testing.assert_allclose(
            y["back_track_maps"],
            reverse["track_maps"][:, ::-1],
            rtol=1e-4,
            atol=1e-5,
        )
        model.compile(keras.optimizers.SGD(1e-3))
        assert np.isfinite(
            model.train_on_batch(x, targets(1, 3), return_dict=True)["loss"]
        )

    def test_resnext_is_grouped_and_dilated(self, zero_weights, memory_returned):
        model = zoo.load("detect_track_resnext101")
        assert model.get_layer("resx31_conv2").kernel.shape == (3, 3, 32, 1024)
        assert model.get_layer("resx31_conv2").dilation_rate == 2
        assert model.get_layer("resx8_conv2").strides == 2
        assert not model.get_layer("resx3_conv3").trainable
        thesis = model.get_layer("rgb_normalization").mean
        release = zoo.load("detect_track_resnext101", variant="release")
        assert release.get_layer("rgb_normalization").mean == thesis[::-1]
        with pytest.raises(ValueError, match="stem"):
            zoo.load("detect_track_resnext101", stem="keras")


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if n not in TINY])
def test_large_models_run(name, quick_weights, memory_returned):
    y = zoo.load(name, num_classes=5)(frames(1, 2, (96, 128)))
    assert y["class_scores"].shape == (1, 2, 300, 6)
    assert np.isfinite(y["boxes"]).all()


def test_tiny_models_are_tiny():
    assert TINY
    assert all(zoo.info(name).parameters < 1e6 for name in TINY)
