"""What speaks for a class: slopes, completeness, planted places, what is refused."""

import keras
import numpy as np
import pytest

import zoo
from tests.test_models import TINY, given, trained
from zoo.layers import FlowNormalization, RGBNormalization
from zoo.models.inputs import video_input
from zoo.models.testing import alone_or_all
from zoo.understanding.attribution import (
    METHODS,
    empty_clip,
    grad_cam,
    gradient_x_input,
    integrated_gradients,
)
from zoo.understanding.views import View


def one(model, *shape):
    """A random clip of a model, {kind: [T, H, W, C]}."""
    x = given(model, 1, *shape)
    x = x if isinstance(x, dict) else {model.input.name: x}
    return {kind: value[0] for kind, value in x.items()}


def scorer(model):
    """A function of a clip to its raw scores."""
    logits = zoo.features(model, ["logits"])

    def score(clip):
        x = alone_or_all({kind: value[None] for kind, value in clip.items()})
        return logits(x)["logits"][0].numpy()

    return score


def planted(maps, classifier, name="planted"):
    """A network of frames: maps of channels, their mean, a linear classifier."""
    rgb = video_input("rgb")
    x = RGBNormalization((128.0,) * 3, name="rgb_normalization")(rgb)
    x = maps(x)
    x = keras.layers.GlobalAveragePooling3D(name="mean")(x)
    dense = keras.layers.Dense(classifier.shape[1], use_bias=False, name="logits")
    x = keras.layers.Activation("softmax", name="predictions")(dense(x))
    dense.set_weights([classifier])
    return keras.Model(rgb, x, name=name)


def detectors(x):
    """Red over 128 and blue over 128, at every fourth pixel: [B, T, H/4, W/4, 2]."""
    colours = keras.layers.Dense(2, "relu", use_bias=False, name="colours")
    x = colours(x)
    colours.set_weights([np.array([[1.0, 0], [0, 0], [0, 1]])])
    return keras.layers.AveragePooling3D((1, 4, 4), name="res5")(x)


# --- slopes --------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "size"), [("vgg_tiny", 64), ("st_mulnet26_tiny", 32)])
def test_slopes_are_differences_of_scores(name, size, float64):
    """A pixel a bit further from the empty clip changes the score as its map says."""
    model = trained(zoo.load(name), 2, 32, clips=2)
    clip = {k: x.astype("float64") for k, x in one(model, 2, size, size).items()}
    empty = empty_clip(model, {k: x.shape for k, x in clip.items()})
    found, score = gradient_x_input(model, clip, 5), scorer(model)
    assert found.score == pytest.approx(score(clip)[5], rel=1e-12)
    for kind, values in found.maps.items():
        assert values.shape == (2, size, size)
        place = np.unravel_index(np.abs(values).argmax(), values.shape)
        ends = []
        for share in (-1e-5, 1e-5):
            near = {k: x.copy() for k, x in clip.items()}
            near[kind][place] += share * (clip[kind][place] - empty[kind][place])
            ends.append(score(near)[5])
        slope = (ends[1] - ends[0]) / 2e-5
        assert values[place] == pytest.approx(slope, rel=1e-3, abs=1e-9)


def test_of_a_square_both_methods_are_known(float64):
    """Score: mean of squares. The slope at the clip is twice the share of a pixel."""
    model = planted(keras.layers.Activation(lambda x: x * x), np.eye(3)[:, :2])
    clip = one(model, 2, 5, 6)["rgb"]
    share = (clip[..., 1] - 128.0) ** 2 / (2 * 5 * 6)
    found = integrated_gradients(model, clip, 1)
    np.testing.assert_allclose(found.maps["rgb"], share, rtol=1e-9)
    assert found.steps == 16 and found.gap < 1e-9
    found = gradient_x_input(model, clip, 1)
    np.testing.assert_allclose(found.maps["rgb"], 2 * share, rtol=1e-9)
    assert found.gap is None


# --- completeness --------------------------------------------------------------------


def test_integrated_gradients_sum_up_to_the_difference():
    model = trained(zoo.load("t_resnet_tiny"), 2, 32, clips=2)
    clip, score = one(model, 2, 32, 32), scorer(model)
    empty = empty_clip(model, {k: x.shape for k, x in clip.items()})
    difference = score(clip)[2] - score(empty)[2]
    found = integrated_gradients(model, clip, 2, tolerance=0.02)
    assert found.expected == pytest.approx(difference, rel=1e-4)
    assert found.total == pytest.approx(difference, rel=0.02)
    # A single slope does not.
    assert abs(gradient_x_input(model, clip, 2).total / difference - 1) > 0.1


def cubes():
    """Score: mean of cubes; n steps on the line give 1 - 1 / (4 n^2) of it."""
    return planted(keras.layers.Activation(lambda x: x**3), np.eye(3))


def test_more_steps_until_the_sum_is_right(caplog, float64):
    clip, done = np.full((1, 2, 2, 3), 138.0), []
    found = integrated_gradients(
        cubes(), clip, 0, tolerance=1e-4, report=lambda *x: done.append(x)
    )
    # Each place once: 16, then 32 more, then 96 more.
    assert done == [(16, 16), (48, 48), (144, 144)] and found.steps == 144
    assert found.expected == pytest.approx(1000)
    assert found.gap == pytest.approx(1 / (4 * 144**2))
    assert not caplog.records


def test_what_is_not_reached_is_said(caplog, float64):
    clip = np.full((1, 2, 2, 3), 138.0)
    found = integrated_gradients(cubes(), clip, 0, tolerance=1e-9)
    assert found.steps == 432 and found.gap == pytest.approx(1 / (4 * 432**2), rel=1e-4)
    assert "to 1000 after 432 steps; take the maps with care" in caplog.text


# --- Grad-CAM ------------------------------------------------------------------------


def test_the_planted_place_and_time_light_up():
    model = planted(detectors, np.float32([[1, -1], [-1, 1]]))
    clip = np.full((6, 32, 48, 3), 100, np.uint8)
    clip[1:3, 4:12, 8:16, 0] = 255  # red, for class 0
    clip[4, 20:28, 36:44, 2] = 255  # blue, for class 1
    for label, (times, rows, columns) in enumerate(
        [((1, 3), (4, 12), (8, 16)), ((4, 5), (20, 28), (36, 44))]
    ):
        found = grad_cam(model, clip, label)
        values = found.maps["rgb"]
        assert values.shape == (6, 32, 48) and values.min() == 0
        inside = np.zeros(values.shape, bool)
        inside[slice(*times), slice(*rows), slice(*columns)] = True
        assert values[inside].min() > 0
        assert inside[np.unravel_index(values.argmax(), values.shape)]
        # Interpolation reaches half a unit, 2 pixels, over the edge and no frame.
        spread = np.zeros(values.shape, bool)
        reach = [slice(low - 2, high + 2) for low, high in (rows, columns)]
        spread[slice(*times), reach[0], reach[1]] = True
        assert not values[~spread].any()
        expected = scorer(model)({"rgb": clip})[label]
        assert found.score == pytest.approx(expected, rel=1e-5)


def test_maps_of_units_shrunk_in_time_are_brought_to_the_frames():
    pool = keras.layers.AveragePooling3D((3, 1, 1), name="slow")
    model = planted(lambda x: pool(detectors(x)), np.float32([[1, -1], [-1, 1]]))
    clip = np.full((9, 8, 8, 3), 100, np.uint8)
    clip[3:6, ..., 0] = 255
    values = grad_cam(model, clip, 0, "slow").maps["rgb"][:, 4, 4]
    assert values.argmax() == 4
    np.testing.assert_allclose(values[:5], values[4:][::-1], rtol=1e-6)
    assert values[0] == 0 < values[2]


@pytest.mark.parametrize("name", TINY)
def test_every_tiny_model_is_explained(name):
    model = zoo.load(name)
    clip = one(model, 5, 64, 80)
    # Maps may be empty: nowhere does anything speak for a class. Not for all of them.
    for label in range(8):
        found = grad_cam(model, clip, label)
        assert set(found.maps) == set(clip)
        for values in found.maps.values():
            assert values.shape == (5, 64, 80)
            assert np.isfinite(values).all() and values.min() >= 0
        if any(values.any() for values in found.maps.values()):
            return
    raise AssertionError("no class has a map")


def test_both_streams_have_maps_of_their_own():
    """Of two streams that do not meet, each map follows its own input alone."""
    model = trained(zoo.load("two_stream_vgg_tiny"))
    clip = one(model, 1, 64, 64)
    other = {**clip, "flow": -clip["flow"]}
    first, second = (gradient_x_input(model, x, 0).maps for x in (clip, other))
    np.testing.assert_allclose(first["rgb"], second["rgb"], rtol=1e-4, atol=1e-6)
    assert np.abs(first["flow"] - second["flow"]).max() > 1e-3


# --- refused -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network():
    return zoo.load("two_stream_vgg_tiny")


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize(
    ("change", "label", "message"),
    [
        ({}, 8, "label must be of a class, 0 to 7, got 8"),
        ({}, -1, "0 to 7, got -1"),
        ({}, True, "0 to 7, got True"),
        ({"flow": None}, 0, "sees rgb and flow, got rgb"),
        ({"rgb": np.zeros((1, 2, 64, 64, 3))}, 0, "without the batch.*got shape"),
        ({"rgb": np.zeros((2, 64, 64, 4))}, 0, "rgb must be one clip"),
        ({"rgb": np.zeros((0, 64, 64, 3))}, 0, r"got shape \(0, 64"),
    ],
)
def test_bad_input(network, method, change, label, message):
    clip = {"rgb": np.zeros((2, 64, 64, 3)), "flow": np.zeros((2, 64, 64, 20))}
    clip = {k: x for k, x in {**clip, **change}.items() if x is not None}
    with pytest.raises(ValueError, match=message):
        method(network, clip, label)


def test_bad_endpoints_and_networks(network):
    clip = {"rgb": np.zeros((2, 64, 64, 3)), "flow": np.zeros((2, 64, 64, 20))}
    with pytest.raises(ValueError, match="no endpoint 'appearance_relu7'; the nearest"):
        grad_cam(network, clip, 0, "relu7")
    with pytest.raises(ValueError, match="appearance_logits .* holds no maps"):
        grad_cam(network, clip, 0, "logits")
    with pytest.raises(ValueError, match="tolerance must be above 0, got 0"):
        integrated_gradients(network, clip, 0, tolerance=0)
    nameless = planted(lambda x: x, np.eye(3))
    with pytest.raises(ValueError, match="none of the maps res5, relu5_3, relu5; name"):
        grad_cam(nameless, np.zeros((2, 8, 8, 3)), 0)
    flow = video_input("flow")
    x = keras.layers.GlobalAveragePooling3D(name="logits")(FlowNormalization()(flow))
    still = keras.Model(flow, x)
    assert not empty_clip(still, {"flow": (1, 2, 2, 20)})["flow"].any()
    with pytest.raises(ValueError, match="no layer RGBNormalization"):
        empty_clip(still, {"rgb": (1, 2, 2, 3)})


# --- views ---------------------------------------------------------------------------


def test_a_view_is_what_the_network_of_videos_sees():
    """Resized frames, displacements with them; the same scores as `zoo evaluate`."""
    from zoo.models.testing import video_classifier

    model = trained(zoo.load("two_stream_vgg_tiny"), clips=2)
    clip = one(model, 3, 96, 128)
    seen = View(model, 3, 64)(clip)
    assert {k: x.shape for k, x in seen.items()} == {
        "rgb": (3, 64, 85, 3),
        "flow": (3, 64, 85, 20),
    }
    network = video_classifier(model, 3, 64, flip=False)
    given = {"clips": clip["rgb"][None], "flow": clip["flow"][None]}
    expected = network(given)["logits"][0, 4]
    assert scorer(model)(seen)[4] == pytest.approx(float(expected), rel=1e-4)
    with pytest.raises(ValueError, match="cut or crop the video"):
        View(model, 3, 256)({"rgb": np.zeros((3, 8, 8000, 3))})
