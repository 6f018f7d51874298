"""T-ResNet against its equations, written out in NumPy (thesis 7.3)."""

import keras
import numpy as np
import pytest

import zoo
from tests import references
from tests.test_models import clip, trained


def normalize(x, layer):
    gamma, beta, mean, variance = (w.astype("float64") for w in layer.get_weights())
    return gamma * (x - mean) / np.sqrt(variance + layer.epsilon) + beta


def unit_in_numpy(model, unit, x, kind):
    """Eq. 7.1-7.6 for unit "2a" (with projection) of `model`, layer by layer."""
    get = model.get_layer
    w1, w2, w3, w0 = (
        get(f"res{unit}_branch{b}").get_weights()[0] for b in ("2a", "2b", "2c", "1")
    )

    def norm(branch):
        layer = {layer.name: layer for layer in model.layers}.get(f"bn{unit}_{branch}")
        return layer or get(f"res{unit}_{branch}").norm

    wt, bt = get(f"conv_time_res{unit}_branch2b").get_weights()
    scale, bias = get(f"conv_time_res{unit}_branch2b_scale").get_weights()

    def f(x):
        return np.maximum(x, 0)

    x1 = references.spatial_conv(x, w1)
    a = f(normalize(x1, norm("branch2a")))
    s = references.spatial_conv(a, w2, padding=1)
    if kind == "thesis":
        xt = references.temporal_conv(a, wt, bt, padding=1)
        y = f(xt) * scale + bias + f(normalize(s, norm("branch2b")))
    else:
        pre = f(normalize(a, get(f"conv_time_res{unit}_branch2b_bn")))
        xt = references.temporal_conv(pre, wt, bt, padding=1)
        y = f(normalize(s + scale * xt + bias, norm("branch2b")))
    y = normalize(references.spatial_conv(y, w3), norm("branch2c"))
    shortcut = normalize(references.spatial_conv(x, w0), norm("branch1"))
    return f(shortcut + y)


@pytest.mark.parametrize("kind", ["thesis", "release"])
def test_unit_equals_its_equation(kind):
    model = trained(zoo.load("t_resnet_tiny", unit=kind))
    maps = zoo.features(model, ["pool1", "res2"])(clip(1, 4, 40, 32))
    x = maps["pool1"].numpy().astype("float64")
    expected = unit_in_numpy(model, "2a", x, kind)
    np.testing.assert_allclose(maps["res2"], expected, rtol=1e-4, atol=1e-4)


def test_first_and_third_unit_of_every_stage():
    names = [layer.name for layer in zoo.load("t_resnet50").layers]
    found = [n for n in names if n.startswith("conv_time") and n.endswith("_sum")]
    expected = [f"conv_time_res{s}{u}_branch2b_sum" for s in (2, 3, 4, 5) for u in "ac"]
    assert found == expected
    deep = [layer.name for layer in zoo.load("t_resnet101").layers]
    assert {f"conv_time_res{u}_branch2b_sum" for u in ("4b2", "3b2")} <= set(deep)
    assert "conv_time_res4b4_branch2b_sum" not in deep


def test_classifies_the_maximum_over_time():
    """Eq. 7.7: average in space first, then the maximum over all frames."""
    model, x = trained(zoo.load("t_resnet_tiny")), clip(2, 6)
    maps = zoo.features(model, ["res5", "pool5_time"])(x)
    expected = maps["res5"].numpy().mean(axis=(2, 3)).max(axis=1)
    np.testing.assert_allclose(maps["pool5_time"][:, 0, 0, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("unit", ["thesis", "release"])
class TestStartsFromTheSpatialNetwork:
    def test_scale_zero_is_the_spatial_network(self, unit):
        spatial = trained(zoo.load("resnet_tiny", num_classes=5))
        still = np.repeat(clip(2, 1), 6, axis=1)
        time = zoo.load("t_resnet_tiny", weights=spatial, unit=unit, temporal_scale=0.0)
        assert time.output_shape == (None, 5)
        # The release's unit rounds differently: its normalisation is not fused.
        tolerance = {"thesis": 0, "release": 1e-4}[unit]
        np.testing.assert_allclose(
            time(still), spatial(still[:, :1]), rtol=0, atol=tolerance
        )

    def test_small_scale_barely_disturbs(self, unit):
        spatial = trained(zoo.load("resnet_tiny"))
        still = np.repeat(clip(2, 1), 6, axis=1)
        time = zoo.load("t_resnet_tiny", weights=spatial, unit=unit)
        difference = np.abs(time(still) - spatial(still)).max()
        assert 0 < difference < 0.02

    def test_new_head_for_other_classes(self, unit):
        spatial = trained(zoo.load("resnet_tiny"))
        time = zoo.load("t_resnet_tiny", spatial, num_classes=3, unit=unit)
        assert time.output_shape == (None, 3)
        np.testing.assert_array_equal(
            time.get_layer("res4a_branch2b").get_weights()[0],
            spatial.get_layer("res4a_branch2b").get_weights()[0],
        )


def test_order_of_frames_matters_only_with_time():
    x = clip(1, 6)
    for name, differs in (("resnet_tiny", False), ("t_resnet_tiny", True)):
        scores = zoo.features(trained(zoo.load(name)), ["logits"])
        change = np.abs(scores(x)["logits"] - scores(x[:, ::-1])["logits"]).max()
        assert (change > 1e-3) == differs


def test_valid_padding_shortens_the_clip():
    """7.3.2: two frames less at each of the four units; nine frames leave one."""
    model = trained(zoo.load("t_resnet_tiny", temporal_padding="valid"), frames=9)
    with pytest.raises(ValueError, match="a clip of 2 frames is shorter than"):
        model(clip(1, 8))
    maps = zoo.features(model, ["res2", "res5"])(clip(1, 9))
    assert maps["res2"].shape[1] == 7
    assert maps["res5"].shape[1] == 1


def test_average_over_time():
    model = trained(zoo.load("t_resnet_tiny", temporal_pooling="average"))
    maps = zoo.features(model, ["pool5", "logits"])(clip(2, 6))
    kernel, bias = model.get_layer("fc").get_weights()
    pooled = maps["pool5"].numpy().mean(axis=(1, 2, 3))
    np.testing.assert_allclose(maps["logits"], pooled @ kernel + bias, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unit": "paper"}, "Unknown unit 'paper'; accepted are thesis, release"),
        ({"stem": "torch"}, "Unknown stem 'torch'; accepted are caffe, keras"),
        ({"temporal_padding": "full"}, "must be 'same' or 'valid', got 'full'"),
        ({"temporal_pooling": "sum"}, "accepted are max, average"),
        ({"time": 3}, "has no option 'time'; it has unit='thesis'"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        zoo.load("t_resnet_tiny", **options)


def test_learns_from_the_second_order_of_frames():
    """One step of training changes the temporal kernels: they are not cut off."""
    model = zoo.load("t_resnet_tiny")
    before = model.get_layer("conv_time_res2a_branch2b").get_weights()[0]
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    model.fit(clip(4, 4, 32, 32), np.arange(4), verbose=0)
    after = model.get_layer("conv_time_res2a_branch2b").get_weights()[0]
    assert np.abs(after - before).max() > 0
