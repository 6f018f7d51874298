"""What every registered model must do; a new model is tested once it is registered."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from zoo.models.testing import alone_or_all, inputs_of, video_classifier
from zoo.understanding import multiply_adds, parameters, receptive_fields

# Detectors have a suite of their own, tests/test_detectors.py.
NAMES = [n for n in zoo.list_models() if zoo.info(n).task == "classification"]
TINY = [name for name in NAMES if name.endswith("_tiny")]
LARGE = [name for name in NAMES if name not in TINY]


@pytest.fixture
def memory_returned():
    """Models are cyclic and large: unless collected, they add up to many gigabytes."""
    yield
    keras.utils.clear_session(free_memory=True)


def clip(batch=2, frames=5, height=64, width=64):
    shape = (batch, frames, height, width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype="uint8")


def flow(batch=2, frames=5, height=64, width=64):
    shape = (batch, frames, height, width, 20)
    return np.random.default_rng(1).normal(0, 5, shape).astype("float32")


def given(model, *shape):
    """What a model takes: frames, flow, or a dict of both, of [B, T, H, W]."""
    makers = {"rgb": clip, "flow": flow}
    return alone_or_all({kind: makers[kind](*shape) for kind in inputs_of(model)})


def changed(x, function):
    """An input with a function applied to its array or arrays."""
    return keras.tree.map_structure(function, x)


def answer(outputs):
    """Class probabilities, of a model of one tower or of several."""
    return outputs["predictions"] if isinstance(outputs, dict) else outputs


def plain(name):
    """Options that leave nothing random in training."""
    return {"dropout": 0.0} if "dropout" in zoo.info(name).options else {}


def grouped(name):
    """The same, and normalisation over pairs of clips."""
    groups = {"sub_batch": 2} if "sub_batch" in zoo.info(name).options else {}
    return {**plain(name), **groups}


def trained(model, frames=5, size=64, clips=4):
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
        elif layer.name.endswith(("fc", "fc8")):
            layer.set_weights([rng.normal(0, 0.2, w.shape) for w in layer.weights])
    if norms:
        model(given(model, clips, frames, size, size), training=True)
    for layer in norms:
        layer.momentum = 0.95
    return model


@pytest.mark.parametrize("name", NAMES)
def test_record_tells_the_truth(name, zero_weights, memory_returned):
    """Parameters, multiply-adds, receptive fields and endpoints, recomputed."""
    info, model = zoo.info(name), zoo.load(name)
    assert parameters(model) == info.parameters
    giga = multiply_adds(model, info.clip) / 1e9
    assert giga == pytest.approx(info.multiply_adds, rel=2e-3)
    fields = receptive_fields(model)
    assert info.receptive_field == {
        e: fields[e.replace("/", "_")] for e in info.receptive_field
    }
    assert info.receptive_field
    outputs = zoo.features(model, info.endpoints).output
    assert set(outputs) == set(info.endpoints)
    assert model.name == name
    assert set(inputs_of(model)) == set(info.inputs)
    assert answer(model.output).shape == (None, info.num_classes)


@pytest.mark.parametrize("name", NAMES)
def test_predecessors_exist_and_see_the_same(name):
    info = zoo.info(name)
    if isinstance(info.warm_start, dict):
        for stream, predecessor in info.warm_start.items():
            (seen,) = zoo.info(predecessor).inputs
            assert seen == {"appearance": "rgb", "motion": "flow"}[stream]
    elif info.warm_start:
        assert set(zoo.info(info.warm_start).inputs) == {"rgb"}


def test_receptive_fields_of_the_thesis():
    """483 pixels at the last convolution (7.3.2); 17 frames there for 50 layers."""
    assert receptive_fields(zoo.load("t_resnet50"))["res5"] == (17, 483)
    per_frame = multiply_adds(zoo.load("resnet50"), (1, 224, 224))
    assert per_frame == 3_857_973_248  # "3.8 billion multiply-add" (4.4.1)


@pytest.mark.parametrize("name", TINY)
class TestTiny:
    def test_any_size_in_one_graph(self, name):
        model = trained(zoo.load(name))
        spec = keras.tree.map_structure(
            lambda x: tf.TensorSpec([None] * 4 + [x.shape[-1]], x.dtype), given(model)
        )
        graph = tf.function(model, input_signature=[spec])
        for shape in ((2, 5, 64, 64), (1, 6, 33, 91), (3, 5, 130, 66), (1, 9, 250, 40)):
            x = given(model, *shape)
            y = answer(graph(x))
            assert y.shape == (shape[0], 8)
            np.testing.assert_allclose(tf.reduce_sum(y, -1), 1, atol=1e-5)
            np.testing.assert_allclose(y, answer(model(x)), atol=1e-4)

    def test_dtype_and_batch_do_not_matter(self, name):
        model = trained(zoo.load(name))
        x = given(model, 3)
        y = answer(model(x))
        again = changed(x, lambda a: a.astype("float32"))
        np.testing.assert_array_equal(answer(model(again)), y)
        for i in range(3):
            one = answer(model(changed(x, lambda a, i=i: a[i : i + 1])))
            np.testing.assert_allclose(one[0], y[i], atol=1e-5)

    def test_every_weight_gets_a_gradient(self, name):
        """By the loss that model.fit takes: of every tower, at every position."""
        model = trained(zoo.load(name, **plain(name)))
        model.compile("sgd", "sparse_categorical_crossentropy")
        x, labels = given(model), np.array([3, 5])
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, labels, model(x, training=True))
        variables = [v.value for v in model.trainable_variables]
        for variable, gradient in zip(
            model.trainable_variables, tape.gradient(loss, variables), strict=True
        ):
            assert gradient is not None, variable.path
            assert np.isfinite(gradient).all(), variable.path
            assert np.any(gradient), variable.path

    def test_scores_are_averaged_before_the_softmax(self, name):
        """Fully convolutional testing: 64 x 250 pixels give more than one position."""
        model = trained(zoo.load(name))
        x = given(model, 1, 5, 64, 250)
        outputs = model(x)
        logits = zoo.features(model, ["logits"])(x)["logits"]
        if isinstance(outputs, dict):
            towers = [outputs[tower].numpy() for tower in ("appearance", "motion")]
            assert all(scores.shape[3] > 1 for scores in towers)
            scores = np.mean([t.mean(axis=(1, 2, 3)) for t in towers], axis=0)
        else:
            last, head = ("pool5", "fc") if "resnet" in name else ("fc7", "fc8")
            maps = zoo.features(model, [last])(x)[last].numpy()
            assert maps.shape[3] > 1
            if name.startswith("t_"):
                maps = maps.max(axis=1)
            kernel, bias = model.get_layer(head).get_weights()
            scores = (maps @ kernel + bias).reshape(1, -1, 8).mean(axis=1)
        np.testing.assert_allclose(logits, scores, rtol=1e-5, atol=1e-4)
        expected = keras.ops.softmax(scores)
        np.testing.assert_allclose(answer(outputs), expected, atol=1e-5)

    def test_files(self, name, tmp_path):
        model = trained(zoo.load(name))
        x = given(model)
        y = answer(model(x))
        model.save(tmp_path / "m.keras")
        model.save_weights(tmp_path / "m.weights.h5")
        again = keras.models.load_model(tmp_path / "m.keras")
        assert type(again) is type(model)
        np.testing.assert_array_equal(answer(again(x)), y)
        for path in ("m.keras", "m.weights.h5"):
            loaded = zoo.load(name, weights=tmp_path / path)
            np.testing.assert_array_equal(answer(loaded(x)), y)
        endpoint = zoo.info(name).endpoints[3]
        np.testing.assert_array_equal(
            zoo.features(again, [endpoint])(x)[endpoint],
            zoo.features(model, [endpoint])(x)[endpoint],
        )

    def test_mixed_precision(self, name, mixed_bfloat16):
        model = zoo.load(name)
        x = given(model)
        outputs = model(x)
        assert all(y.dtype == tf.float32 for y in keras.tree.flatten(outputs))
        convolutions = [x for x in model.layers if hasattr(x, "kernel_size")]
        assert {x.compute_dtype for x in convolutions} == {"bfloat16"}
        keras.config.set_dtype_policy("float32")
        full = answer(zoo.load(name, weights=model)(x))
        np.testing.assert_allclose(answer(outputs), full, atol=0.05)

    def test_xla_equals_the_plain_graph(self, name):
        model = trained(zoo.load(name))
        x = given(model)
        compiled = tf.function(model, jit_compile=True)
        np.testing.assert_allclose(answer(compiled(x)), answer(model(x)), atol=1e-5)

    def test_wrong_shapes_are_named(self, name):
        model = zoo.load(name)
        kind = inputs_of(model)[0]
        channels = {"rgb": 3, "flow": 20}[kind]
        good = given(model)
        for shape, message in (
            (
                (5, 64, 64, channels),
                f"None, None, None, {channels}|of {channels} channels",
            ),
            (
                (2, 5, 64, 64, 4),
                f"None, None, None, None, {channels}|of {channels} channels",
            ),
            (
                (2, 1, 5, 64, 64, channels),
                f"None, None, None, None|of {channels} channels",
            ),
            ((2, 5, 1, 64, channels), "smaller than|equal batch"),
            ((2, 0, 64, 64, channels), "empty clip|equal batch|shorter than"),
        ):
            x = np.zeros(shape, "uint8")
            x = {**good, kind: x} if isinstance(good, dict) else x
            with pytest.raises(ValueError, match=message):
                model(x)

    def test_wrong_type_is_named(self, name):
        model = zoo.load(name)
        words = changed(given(model), lambda a: np.full(a.shape, "red"))
        with pytest.raises(ValueError, match="could not convert string to float"):
            model(words)


# Every layer is in one of these (of ST-ResNet, in ST-MulNet); tracing for two devices
# takes most of a minute.
REPLICATED = [
    name
    for name in TINY
    if name not in ("resnet_tiny", "resnet26_tiny", "st_resnet26_tiny")
    and not name.startswith(("motion", "two_stream"))
]


@pytest.mark.parametrize("name", REPLICATED)
def test_two_replicas_train_like_one(name, two_replicas, float64):
    """In double precision, so that rounding cannot hide or feign a difference."""

    def train(scope):
        keras.utils.set_random_seed(0)
        with scope:
            model = zoo.load(name, **grouped(name))
            model.compile(
                keras.optimizers.SGD(0.01, momentum=0.9),
                "sparse_categorical_crossentropy",
                metrics=["accuracy"],
            )
        x = given(model, 8, 5, *[64 if "vgg" in name else 32] * 2)
        data = tf.data.Dataset.from_tensor_slices((x, range(8)))
        data = data.batch(4, drop_remainder=True)
        history = model.fit(data, epochs=2, shuffle=False, verbose=0).history
        return history, model.get_weights()

    one, two = train(tf.device("CPU:0")), train(two_replicas.scope())
    for key, values in one[0].items():  # float32 metrics
        np.testing.assert_allclose(two[0][key], values, rtol=1e-6, err_msg=key)
    for a, b in zip(two[1], one[1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_large_models_run(name, quick_weights, memory_returned):
    smallest = 96 if "resne" in name or "mulnet" in name else 224
    model = trained(zoo.load(name, num_classes=5), size=smallest, clips=2)
    # Not in a graph, which takes longer than all else and is tested in small.
    y = answer(model(given(model, 1, 5, smallest, smallest), training=False))
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
