"""Optimised networks: the same answers with fewer layers, whatever the family."""

import keras
import numpy as np
import pytest

import zoo
from tests.test_models import given
from zoo import layers
from zoo.exports.optimize import Report, optimize, optimized
from zoo.models.plain_rgb import network_of, plain_rgb
from zoo.models.testing import video_classifier

TINY = [name for name in zoo.list_models() if name.endswith("_tiny")]
DETECTORS = [name for name in TINY if zoo.info(name).task == "detection"]
# Normalisations: conv1, and per residual unit three, a fourth in the first of a stage.
ONE_UNIT, TWO_UNITS = 1 + 4 * 4, 1 + 4 * 7
REPORTS = {
    "resnet_tiny": Report(ONE_UNIT),
    "t_resnet_tiny": Report(ONE_UNIT),
    "resnet26_tiny": Report(TWO_UNITS),
    "motion_resnet26_tiny": Report(TWO_UNITS),
    "two_stream_resnet26_tiny": Report(2 * TWO_UNITS),
    "st_resnet26_tiny": Report(2 * TWO_UNITS),
    "st_mulnet26_tiny": Report(2 * TWO_UNITS),
    "vgg_tiny": Report(dropped=2),
    "motion_vgg_tiny": Report(dropped=2),
    "two_stream_vgg_tiny": Report(dropped=4),
    "fusion_vgg_tiny": Report(dropped=4),
    "rfcn_tiny": Report(ONE_UNIT),
    "detect_track_tiny": Report(ONE_UNIT),
}


def used(model):
    """Weights and statistics that no initialiser leaves behind."""
    rng = np.random.default_rng(1)
    for v in model.variables:
        if "variance" in v.path:
            v.assign(rng.uniform(0.3, 2, v.shape))
        elif "gamma" in v.path:  # some channels are turned around
            v.assign(rng.uniform(0.5, 1, v.shape) * rng.choice([-1, 1], v.shape))
        elif "/bias" in v.path or "mean" in v.path or "beta" in v.path:
            v.assign(rng.normal(0, 0.1, v.shape))
        elif v.path.endswith("_scale/scale"):
            v.assign(rng.normal(0, 0.5, v.shape))
    return model


def outputs_of(model, x):
    found = model(x, training=False)
    found = found if isinstance(found, dict) else {"predictions": found}
    return {name: np.asarray(value, "float64") for name, value in found.items()}


def require_same(model, other, x, relative=1e-9):
    expected, found = outputs_of(model, x), outputs_of(other, x)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert value.std() > 0, name
        scale = max(1.0, np.abs(value).max())
        np.testing.assert_allclose(
            found[name], value, rtol=0, atol=relative * scale, err_msg=name
        )


def check_structure(name):
    """A model, its optimised form, both compared in all but their answers."""
    model = used(zoo.load(name))
    result, report = optimize(model)
    assert report == REPORTS[name]
    assert type(result) is type(model) and result.name == model.name
    assert not [x for x in result.layers if hasattr(x, "norm")]
    assert model.count_params() - result.count_params() == sum(
        3 * x.filters for x in model.layers if hasattr(x, "norm")
    )
    endpoints = zoo.info(name).endpoints
    assert set(zoo.features(result, endpoints).output) == set(endpoints)
    return model, result


@pytest.mark.parametrize("name", [name for name in TINY if name not in DETECTORS])
def test_every_classifier_answers_the_same(name, float64):
    """Exactly, but for rounding: float64, odd sizes, statistics of some training."""
    model, result = check_structure(name)
    require_same(model, result, given(model, 1, 5, 39, 55))


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_answers_the_same(name):
    model, result = check_structure(name)
    require_same(model, result, given(model, 1, 2, 71, 95), relative=1e-4)


def test_the_released_unit(float64):
    """A normalisation behind a sum goes into both of its convolutions."""
    model = used(zoo.load("t_resnet_tiny", unit="release"))
    result, report = optimize(model)
    assert report == Report(folded=ONE_UNIT, scaled=4)
    require_same(model, result, given(model, 2, 5, 39, 55))
    convolution = result.get_layer("res2a_branch2b")
    assert convolution.use_bias and not model.get_layer("res2a_branch2b").use_bias
    assert isinstance(result.get_layer("bn2a_branch2b"), keras.layers.Identity)


def test_networks_of_videos(float64):
    """A model in a model, called twice: on frames and on their mirror images."""
    network = video_classifier(used(zoo.load("resnet_tiny")), 2, 32)
    result, report = optimize(network)
    assert report == Report(ONE_UNIT)
    frames = np.random.default_rng(0).integers(0, 256, (1, 3, 40, 50, 3), "uint8")
    require_same(network, result, frames, relative=1e-6)


def test_networks_of_their_own_flow():
    """Models in models in models: classes stay, what was compiled does not."""
    model = used(zoo.load("two_stream_resnet26_tiny"))
    model.compile("adam", "sparse_categorical_crossentropy")
    whole = plain_rgb(model, "tvl1_fast")
    result, report = optimize(whole)
    assert report == Report(2 * TWO_UNITS)
    assert result.get_layer("flow_stack").get_config() == (
        whole.get_layer("flow_stack").get_config()
    )
    inner = network_of(result)
    assert isinstance(inner.get_layer("motion_conv1"), layers.FoldedConv)
    assert type(inner) is type(model) and model.compiled and not inner.compiled
    for value, alone in zip(
        inner.get_weights(), optimized(model).get_weights(), strict=True
    ):
        np.testing.assert_array_equal(value, alone)


def test_saved_and_loaded_and_in_half_precision(mixed_bfloat16, tmp_path):
    model = used(zoo.load("st_resnet26_tiny", classifier_activation=None))
    result = optimized(model)
    x = given(model, 1, 5, 32, 32)
    result.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    require_same(result, again, x, relative=0)
    policies = [{x.name: x.compute_dtype for x in m.layers} for m in (model, again)]
    assert policies[0] == policies[1]
    require_same(model, result, x, relative=2**-5)


def test_the_model_itself_is_not_changed():
    model = used(zoo.load("vgg_tiny"))
    model.compile("adam", "sparse_categorical_crossentropy")
    before = model.get_weights()
    result = optimized(model)
    result.set_weights([0 * w for w in result.get_weights()])
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert model.compiled and not result.compiled


def kerasy(x, norm, twice=False, **options):
    """A dense layer and a normalisation, and whether others read the dense layer."""
    inputs = keras.Input((None, None, None, 3))
    y = keras.layers.Dense(4, name="dense", **options)(inputs)
    outputs = [norm(y), y] if twice else norm(y)
    model = used(keras.Model(inputs, outputs))
    result, report = optimize(model)
    expected, found = (keras.tree.flatten(m(x)) for m in (model, result))
    for value, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, value, atol=1e-10)
    return report


@pytest.mark.parametrize(
    ("expected", "options"),
    [
        (Report(folded=1), {}),
        (Report(folded=1), {"use_bias": False}),
        (Report(scaled=1), {"activation": "relu"}),
        (Report(scaled=1), {"twice": True}),
    ],
)
def test_normalisations_that_stand_alone(expected, options, float64):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 3))
    plain = keras.layers.BatchNormalization(scale=False, center=False)
    assert kerasy(x, layers.SubBatchNormalization(), **options) == expected
    assert kerasy(x, keras.layers.BatchNormalization(), **options) == expected
    assert kerasy(x, plain, **options) == expected


def test_normalisations_of_other_axes_are_left_and_counted(float64):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 3))
    inputs = keras.Input((3, 4, 5, 3))
    outputs = keras.layers.BatchNormalization(axis=1)(inputs)
    model = used(keras.Model(inputs, outputs))
    result, report = optimize(model)
    assert report == Report(left=1)
    np.testing.assert_allclose(result(x), model(x), atol=1e-12)
    assert "1 left as they are" in str(report)


def test_what_has_no_layers_is_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(TypeError, match="functional keras.Model.* got Own"):
        optimized(Own())
