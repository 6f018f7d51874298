"""What every registered model must do; a new model is tested once it is registered."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from zoo.models.testing import video_classifier
from zoo.understanding import multiply_adds, parameters, receptive_fields

TINY = zoo.list_models("*_tiny")
LARGE = [name for name in zoo.list_models() if name not in TINY]


def clip(batch=2, frames=5, height=64, width=64):
    shape = (batch, frames, height, width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype="uint8")


def trained(model, frames=4):
    """Random affine weights everywhere, and statistics as training leaves them."""
    rng = np.random.default_rng(1)
    norms = [getattr(layer, "norm", layer) for layer in model.layers]
    norms = [layer for layer in norms if hasattr(layer, "moving_variance")]
    for layer in norms:
        layer.gamma.assign(rng.normal(1, 0.1, layer.gamma.shape))
        layer.beta.assign(rng.normal(0, 0.1, layer.beta.shape))
        layer.momentum = 0.0
    for layer in model.layers:
        if layer.name.endswith("_scale"):
            layer.set_weights([rng.normal(0.5, 0.1, w.shape) for w in layer.weights])
        elif layer.name.startswith("conv_time") and hasattr(layer, "kernel"):
            layer.set_weights([rng.normal(0, 0.2, w.shape) for w in layer.weights])
    head = model.get_layer("fc")
    head.set_weights([rng.normal(0, 0.2, w.shape) for w in head.weights])
    model(clip(4, frames), training=True)
    for layer in norms:
        layer.momentum = 0.95
    return model


@pytest.mark.parametrize("name", zoo.list_models())
def test_record_tells_the_truth(name):
    """Parameters, multiply-adds, receptive fields and endpoints, recomputed."""
    info, model = zoo.info(name), zoo.load(name)
    assert parameters(model) == info.parameters
    clip_shape = (*info.clip, 3)
    giga = multiply_adds(model, clip_shape) / 1e9
    assert giga == pytest.approx(info.multiply_adds, rel=2e-3)
    fields = receptive_fields(model)
    assert info.receptive_field == {e: fields[e] for e in info.receptive_field}
    assert info.receptive_field
    outputs = zoo.features(model, info.endpoints).output
    assert set(outputs) == set(info.endpoints)
    assert model.name == name
    assert [tensor.name for tensor in model.inputs] == list(info.inputs)
    assert model.output_shape == (None, info.num_classes)


def test_receptive_fields_of_the_thesis():
    """483 pixels at the last convolution (7.3.2); 17 frames there for 50 layers."""
    assert receptive_fields(zoo.load("t_resnet50"))["res5"] == (17, 483)
    per_frame = multiply_adds(zoo.load("resnet50"), (1, 224, 224, 3))
    assert per_frame == 3_857_973_248  # "3.8 billion multiply-add" (4.4.1)


@pytest.mark.parametrize("name", TINY)
class TestTiny:
    def test_any_size_in_one_graph(self, name):
        model = trained(zoo.load(name))
        spec = tf.TensorSpec([None] * 4 + [3], tf.uint8)
        graph = tf.function(model, input_signature=[spec])
        for shape in ((2, 5, 64, 64), (1, 1, 33, 91), (3, 2, 130, 66), (1, 9, 250, 40)):
            y = graph(clip(*shape))
            assert y.shape == (shape[0], 8)
            np.testing.assert_allclose(tf.reduce_sum(y, -1), 1, atol=1e-5)
            np.testing.assert_allclose(y, model(clip(*shape)), atol=1e-4)

    def test_dtype_and_batch_do_not_matter(self, name):
        model, x = trained(zoo.load(name)), clip(3)
        y = model(x)
        np.testing.assert_array_equal(model(x.astype("float32")), y)
        for i in range(3):
            np.testing.assert_allclose(model(x[i : i + 1])[0], y[i], atol=1e-5)

    def test_every_weight_gets_a_gradient(self, name):
        model = trained(zoo.load(name))
        with tf.GradientTape() as tape:
            y = model(clip(), training=True)
            loss = -tf.reduce_sum(tf.math.log(y[:, 3]))
        variables = [v.value for v in model.trainable_variables]
        for variable, gradient in zip(
            model.trainable_variables, tape.gradient(loss, variables), strict=True
        ):
            assert gradient is not None, variable.path
            assert np.isfinite(gradient).all(), variable.path
            assert np.any(gradient), variable.path

    def test_scores_are_averaged_before_the_softmax(self, name):
        """Fully convolutional testing: 64 x 230 pixels give more than one position."""
        model, x = trained(zoo.load(name)), clip(1, 3, 64, 250)
        found = zoo.features(model, ["pool5", "logits", "predictions"])(x)
        maps = found["pool5"].numpy()
        assert maps.shape[3] > 1
        if name.startswith("t_"):
            maps = maps.max(axis=1)
        kernel, bias = model.get_layer("fc").get_weights()
        scores = (maps @ kernel + bias).reshape(-1, 8).mean(axis=0)
        np.testing.assert_allclose(found["logits"][0], scores, atol=1e-4)
        np.testing.assert_allclose(
            found["predictions"], keras.ops.softmax(scores[None]), atol=1e-5
        )

    def test_files(self, name, tmp_path):
        model, x = trained(zoo.load(name)), clip()
        model.save(tmp_path / "m.keras")
        model.save_weights(tmp_path / "m.weights.h5")
        again = keras.models.load_model(tmp_path / "m.keras")
        np.testing.assert_array_equal(again(x), model(x))
        for path in ("m.keras", "m.weights.h5"):
            loaded = zoo.load(name, weights=tmp_path / path)
            np.testing.assert_array_equal(loaded(x), model(x))
        features = zoo.features(again, ["res4"])(x)["res4"]
        np.testing.assert_array_equal(
            features, zoo.features(model, ["res4"])(x)["res4"]
        )

    def test_mixed_precision(self, name, mixed_bfloat16):
        model = zoo.load(name)
        y = model(clip())
        assert y.dtype == tf.float32
        assert model.get_layer("res3a_branch2a").compute_dtype == "bfloat16"
        keras.config.set_dtype_policy("float32")
        full = zoo.load(name, weights=model)(clip())
        np.testing.assert_allclose(y, full, atol=0.05)

    def test_xla_equals_the_plain_graph(self, name):
        model, x = trained(zoo.load(name)), clip()
        compiled = tf.function(model, jit_compile=True)
        np.testing.assert_allclose(compiled(x), model(x), atol=1e-5)

    def test_two_replicas_train_like_one(self, name, two_replicas, float64):
        """In double precision, so that rounding cannot hide or feign a difference."""

        def train(scope):
            keras.utils.set_random_seed(0)
            with scope:
                model = zoo.load(name, sub_batch=2)
                model.compile(
                    keras.optimizers.SGD(0.01, momentum=0.9),
                    "sparse_categorical_crossentropy",
                )
            data = tf.data.Dataset.from_tensor_slices((clip(8, 3, 32, 32), range(8)))
            data = data.batch(4, drop_remainder=True)
            history = model.fit(data, epochs=2, shuffle=False, verbose=0).history
            return history["loss"], model.get_weights()

        one, two = train(tf.device("CPU:0")), train(two_replicas.scope())
        np.testing.assert_allclose(two[0], one[0], rtol=1e-6)  # a float32 metric
        for a, b in zip(two[1], one[1], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-9)

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ((5, 64, 64, 3), "Expected shape .None, None, None, None, 3"),
            ((1, 5, 64, 64, 4), "expected shape=.None, None, None, None, 3"),
            ((1, 5, 64, 64, 1), "takes RGB frames, 3 channels, got shape .1, 5, 64"),
            ((2, 1, 5, 64, 64, 3), "expected shape=.None, None, None, None, 3"),
            ((1, 0, 64, 64, 3), "empty clip, shape .1, 0, 64, 64, 3"),
            ((1, 5, 2, 64, 3), "frames of 1 x 32 are smaller than the window of 3"),
        ],
    )
    def test_wrong_shape_is_named(self, name, shape, message):
        model = zoo.load(name)
        with pytest.raises(ValueError, match=message):
            model(np.zeros(shape, "uint8"))

    def test_wrong_type_is_named(self, name):
        with pytest.raises(ValueError, match="could not convert string to float"):
            zoo.load(name)(np.full((1, 1, 8, 8, 3), "red"))


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_large_models_run(name):
    model = trained(zoo.load(name, num_classes=5))
    y = model.predict(clip(1, 2, 96, 64), verbose=0)
    assert y.shape == (1, 5)
    assert np.isfinite(y).all()


def test_tiny_models_are_tiny():
    assert TINY
    assert all(zoo.info(name).parameters < 1e6 for name in TINY)


class TestVideoClassifier:
    def test_any_length_gives_the_average_of_view_and_mirror(self):
        model, x = trained(zoo.load("t_resnet_tiny")), clip(2, 16, 32, 40)
        found = video_classifier(model, frames=8, shorter_side=32)(x)
        scores = zoo.features(model, ["logits"])
        view = x[:, 1::2].astype("float32")
        expected = (scores(view)["logits"] + scores(view[:, :, :, ::-1])["logits"]) / 2
        np.testing.assert_allclose(found["logits"], expected, atol=1e-4)
        np.testing.assert_allclose(
            found["predictions"], keras.ops.softmax(expected), atol=1e-5
        )

    def test_without_mirror(self):
        model, x = trained(zoo.load("resnet_tiny")), clip(1, 4, 32, 32)
        found = video_classifier(model, frames=4, shorter_side=32, flip=False)(x)
        np.testing.assert_allclose(found["predictions"], model(x), atol=1e-6)

    def test_one_frame_of_one_pixel(self):
        model = video_classifier(zoo.load("t_resnet_tiny"), 4, 64)
        assert np.isfinite(model(clip(1, 1, 1, 1))["predictions"]).all()
