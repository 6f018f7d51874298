"""ST-ResNet and ST-MulNet against their equations and tables (thesis ch. 4 and 5)."""

from itertools import product

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from tests import references
from tests.test_models import answer, given, plain, trained
from zoo import layers
from zoo.models import st_mulnet
from zoo.models.st_mulnet import CONNECTIONS, TABLE_5_2, TABLE_5_3, TEMPORAL
from zoo.understanding import parameters, receptive_fields, strides

RESNET, MULNET = "st_resnet26_tiny", "st_mulnet26_tiny"


@pytest.fixture(scope="module")
def streams():
    names = {"appearance": "resnet26_tiny", "motion": "motion_resnet26_tiny"}
    return {k: trained(zoo.load(v, num_classes=4)) for k, v in names.items()}


def still(frames, size=64):
    """A clip that does not change, rgb and flow."""
    x = given(zoo.load(MULNET), 2, 1, size, size)
    return {k: np.repeat(v, frames, axis=1) for k, v in x.items()}


# --- a stage in NumPy ----------------------------------------------------------------


class Stage:
    """Stage 2 of a model, written out: what its units compute, in double precision."""

    def __init__(self, model):
        self.layers = {layer.name: layer for layer in model.layers}

    def convolve(self, name, x, shortcut=0.0):
        """BN(W x) + shortcut, W a spatial or a temporal kernel."""
        layer = self.layers[name]
        kernel, gamma, beta, mean, variance = (
            w.astype("float64") for w in layer.get_weights()
        )
        if kernel.ndim == 3:
            x = references.temporal_conv(x, kernel, padding=kernel.shape[0] // 2)
        else:
            x = references.spatial_conv(x, kernel, padding=kernel.shape[0] // 2)
        x = gamma * (x - mean) / np.sqrt(variance + layer.norm.epsilon) + beta
        return x + shortcut

    def residual(self, unit, x, shortcut):
        """x_l + F(x_l) where F may read something else than the shortcut."""
        a = relu(self.convolve(f"{unit}_branch2a", x))
        a = relu(self.convolve(f"{unit}_branch2b", a))
        time = self.layers.get(f"{unit}_branch2b_time")
        if time is not None:
            a = references.temporal_conv(a, *time.get_weights(), padding=1)
        return self.convolve(f"{unit}_branch2c", a, shortcut)

    def first(self, stream, x):
        """x^a or x^m: the sum before the nonlinearity of the first unit."""
        projected = self.convolve(f"{stream}_res2a_branch1", x)
        return self.residual(f"{stream}_res2a", x, projected)

    def second(self, stream, x, signal=None):
        y = relu(self.residual(f"{stream}_res2b", x if signal is None else signal, x))
        time = self.layers.get(f"{stream}_res2_time")
        if time is not None:
            y = references.temporal_conv(y, *time.get_weights(), padding=1)
        return y


def relu(x):
    return np.maximum(x, 0)


def stage_two(model, x):
    """(pool1, res2 or what follows it) of both streams, as the model computes them."""
    names = [layer.name for layer in model.layers]
    ends = [
        next(n for n in (f"{s}_res2_time", f"{s}_res2") if n in names)
        for s in ("appearance", "motion")
    ]
    pools = ["appearance_pool1", "motion_pool1"]
    maps = zoo.features(model, pools + ends)(x)
    inputs = [maps[name].numpy().astype("float64") for name in pools]
    return inputs, [maps[name].numpy() for name in ends]


def connected(stage, a, m, connection):
    """Table 5.2 and Fig. 5.1 by the book: both streams after stage 2."""
    x_a, x_m = stage.first("appearance", a), stage.first("motion", m)
    f_a, f_m = relu(x_a), relu(x_m)
    signal_a = signal_m = None
    if connection is not None:
        meet = {"add": np.add, "multiply": np.multiply}[connection.interaction]
        if connection.motion == "direct":
            f_m = relu(meet(x_m, f_a))
        if connection.appearance == "direct":
            f_a = relu(meet(x_a, f_m))
        if connection.appearance == "residual":
            signal_a = meet(x_a, f_m)
        if connection.motion == "residual":
            signal_m = meet(x_m, f_a)
    return stage.second("appearance", f_a, signal_a), stage.second(
        "motion", f_m, signal_m
    )


def assert_stage_equals(model, connection):
    x = given(model, 1, 5, 40, 36)
    (a, m), found = stage_two(model, x)
    expected = connected(Stage(model), a, m, connection)
    for y, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(y, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("row", CONNECTIONS)
def test_every_connection_equals_its_equation(row):
    model = trained(zoo.load(MULNET, connection=row, temporal="residual_average"))
    assert_stage_equals(model, CONNECTIONS[row])


@pytest.mark.parametrize("row", ["skip_average", "last_centre", "none"])
def test_places_of_the_temporal_filters(row):
    assert_stage_equals(
        trained(zoo.load(MULNET, temporal=row)), CONNECTIONS["residual_multiply"]
    )


def test_st_resnet_equals_equation_4_2():
    model = trained(zoo.load(RESNET))
    assert Stage(model).layers["motion_res2b_branch2a"].get_weights()[0].ndim == 3
    assert_stage_equals(model, CONNECTIONS["residual_add"])


def test_the_connections_differ():
    """Or the tests above could not tell the rows apart."""
    source = trained(zoo.load(MULNET))
    x, ends = given(source, 1, 3, 40, 36), ["appearance/res2", "motion/res2"]
    found = []
    for row in CONNECTIONS:
        model = zoo.load(MULNET, weights=source, connection=row)
        maps = zoo.features(model, ends)(x)
        found.append(np.concatenate([np.ravel(maps[end]) for end in ends]))
    apart = np.abs(np.array(found)[:, None] - np.array(found)).max(axis=-1)
    assert apart[~np.eye(len(found), dtype=bool)].min() > 1e-3


# --- gradients -----------------------------------------------------------------------


def test_the_gradient_of_the_gate_is_the_other_stream():
    """Eq. 5.6 and 5.7: each factor's gradient is the other's signal times that of F."""
    rng = np.random.default_rng(0)
    x, signal, upstream = rng.normal(size=(3, 2, 3, 4, 5, 6))
    x, signal = tf.Variable(x), tf.Variable(signal)
    gate = layers.CrossStream("multiply", dtype="float64")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(gate([x, signal]) * upstream)
    for_x, for_signal = tape.gradient(loss, [x, signal])
    np.testing.assert_allclose(for_x, upstream * signal.numpy(), rtol=1e-12)
    np.testing.assert_allclose(for_signal, upstream * x.numpy(), rtol=1e-12)


@pytest.mark.parametrize("name", [RESNET, MULNET])
def test_gradients_of_the_network_equal_finite_differences(name, float64):
    """Of both towers' scores, for both inputs, through gates and filters."""
    model = trained(zoo.load(name))
    rng = np.random.default_rng(1)
    x = {k: tf.Variable(v.astype("float64")) for k, v in given(model, 1, 3).items()}
    probe = {k: rng.normal(size=y.shape) for k, y in model(x).items()}

    def loss():
        return sum(tf.reduce_sum(probe[k] * y) for k, y in model(x).items())

    with tf.GradientTape() as tape:
        value = loss()
    for kind, gradient in tape.gradient(value, x).items():
        direction = rng.normal(size=gradient.shape)
        slope = tf.reduce_sum(gradient * direction)
        # Small, since max pooling and ReLU have corners everywhere.
        x[kind].assign_add(1e-7 * direction)
        up = loss()
        x[kind].assign_sub(2e-7 * direction)
        down = loss()
        x[kind].assign_add(1e-7 * direction)
        assert np.abs(gradient).max() > 0
        np.testing.assert_allclose(slope, (up - down) / 2e-7, rtol=1e-3)


# --- warm start ----------------------------------------------------------------------


def logits(model, x):
    return zoo.features(model, ["logits"])(x)["logits"].numpy()


@pytest.mark.parametrize(
    "row", [row for row in TEMPORAL if "centre" in row and "pool" not in row]
)
@pytest.mark.parametrize("connection", ["none", "residual_multiply"])
def test_centre_filters_leave_the_network_as_it_was(streams, row, connection):
    """Eq. 5.9 with [0, 1, 0], wherever the filters are injected: to 1e-6."""
    options = {"weights": streams, "connection": connection}
    before = zoo.load(MULNET, temporal="none", **options)
    after = zoo.load(MULNET, temporal=row, **options)
    assert parameters(after) > parameters(before)
    x = given(after)
    scale = np.abs(logits(before, x)).max()
    np.testing.assert_allclose(
        logits(after, x) / scale, logits(before, x) / scale, atol=1e-6
    )


def test_without_connections_and_filters_it_is_late_fusion(streams):
    plain_streams = zoo.load("two_stream_resnet26_tiny", weights=streams)
    model = zoo.load(MULNET, streams, connection="none", temporal="none")
    x = given(model)
    np.testing.assert_array_equal(logits(model, x), logits(plain_streams, x))
    again = zoo.load(MULNET, weights=plain_streams, temporal="residual_centre")
    same = zoo.load(MULNET, weights=streams, temporal="residual_centre")
    np.testing.assert_array_equal(logits(again, x), logits(same, x))


@pytest.mark.parametrize(
    ("name", "options", "reach"),
    [
        (RESNET, {}, 8),  # 17 chunks
        (MULNET, {"temporal": "residual_average"}, 4),  # 9 chunks
    ],
)
def test_averages_leave_constant_clips_as_they_were(streams, name, options, reach):
    """Inflated kernels (eq. 4.5) and averaging filters, away from the clip's ends."""
    interaction = "add" if name == RESNET else "multiply"
    static = zoo.load(
        MULNET, streams, connection=f"residual_{interaction}", temporal="none"
    )
    model = zoo.load(name, weights=streams, **options)
    frames = 2 * reach + 1
    x = still(frames)
    for tower in ("appearance", "motion"):
        expected = static(x)[tower].numpy()
        found = model(x)[tower].numpy()
        assert found.shape == expected.shape == (2, frames, 1, 1, 4)
        scale = np.abs(expected).max()
        middle = found[:, reach] / scale, expected[:, reach] / scale
        np.testing.assert_allclose(*middle, atol=1e-5)
        # At the ends zeros stand beside the clip and weaken the response.
        assert np.abs(found[:, 0] - expected[:, 0]).max() > 1e-2 * scale


def test_st_resnet_inflates_sixteen_kernels_of_its_streams(streams):
    """Section 4.4.1: "16 transformed temporal convolution layers"."""
    model = zoo.load(RESNET, weights=streams)
    inflated = [x for x in model.layers if isinstance(x, layers.TemporalConvNorm)]
    assert len(inflated) == 16
    for layer in inflated:
        stream, name = layer.name.split("_", 1)
        kernel = streams[stream].get_layer(name).get_weights()[0]
        for tap in layer.get_weights()[0]:
            np.testing.assert_allclose(tap, kernel[0, 0] / 3, rtol=1e-6)
        assert name[4:] in ("b_branch2a", "b_branch2c")
    connections = [x for x in model.layers if isinstance(x, layers.CrossStream)]
    assert len(connections) == 4  # "4 residual connections between the streams"


def test_st_resnet_star_starts_from_st_resnet(streams):
    first = zoo.load(RESNET, weights=streams)
    star = zoo.load(RESNET, weights=first, temporal_pooling="res5")
    x = given(star, 1, 11)
    assert star(x)["appearance"].shape[1] == 4  # Table 4.1: 11 chunks, 4 predictions
    assert parameters(star) == parameters(first)
    maps = zoo.features(star, ["motion/res5", "motion/pool5"])(x)
    res5 = maps["motion/res5"].numpy()
    windows = [res5[:, t : t + 5].max(axis=1) for t in (0, 2, 4, 6)]
    expected = np.stack(windows, axis=1).mean(axis=(2, 3), keepdims=True)
    np.testing.assert_allclose(maps["motion/pool5"], expected, rtol=1e-5, atol=1e-5)


# --- tables --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "row"),
    [("connection", row) for row in TABLE_5_2] + [("temporal", r) for r in TEMPORAL],
)
def test_every_row_of_tables_5_2_and_5_3_builds_and_trains(option, row):
    model = zoo.load(MULNET, **plain(MULNET), **{option: row})
    # Eagerly: that graphs train alike is tested with the other models.
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    before = [v.numpy() for v in model.trainable_variables]
    x = given(model, 2, 4, 32, 32)
    history = model.fit(x, np.array([1, 2]), verbose=0).history
    assert np.isfinite(history["loss"]).all()
    after = [v.numpy() for v in model.trainable_variables]
    still = [
        v.path
        for v, a, b in zip(model.trainable_variables, before, after, strict=True)
        if np.array_equal(a, b)
    ]
    assert not still


def test_the_tables_are_those_of_the_thesis():
    assert len(TABLE_5_2) == 7 and len(TABLE_5_3) == 9
    assert set(TABLE_5_3) <= set(TEMPORAL)
    combined = [
        f"{place}_{filter}{pool}"
        for place, filter, pool in product(
            ("last", "skip", "residual"), ("average", "centre"), ("", "_pool")
        )
    ]
    assert set(combined) | {"none", "pool"} == set(TEMPORAL)


@pytest.mark.parametrize(
    ("row", "units"),
    [
        ("residual_centre", ["res2b_branch2b", "res3b_branch2b", "res4b_branch2b",
                             "res5b_branch2b"]),
        ("last_centre", ["res5b_branch2b"]),
        ("skip_centre", ["res2", "res3", "res4", "res5"]),
    ],
)  # fmt: skip
def test_places_of_table_5_1(row, units, zero_weights):
    model = zoo.load("st_mulnet50", temporal=row)
    found = [x.name for x in model.layers if isinstance(x, layers.TemporalConv)]
    expected = [f"{s}_{u}_time" for s in ("appearance", "motion") for u in units]
    assert sorted(found) == sorted(expected)
    widths = {"res2b": 64, "res3b": 128, "res4b": 256, "res5b": 512}
    for name in found:
        channels = model.get_layer(name).kernel.shape[-1]
        unit = name.split("_")[1]
        assert channels == widths.get(unit, 256 * 2 ** (int(unit[3]) - 2))


def test_released_filters_of_resnet152_are_two_per_stream(zero_weights):
    """Spec of the release: the pattern meets res2b and res5b of 152 layers only."""

    def filtered(variant):
        model = zoo.load("st_mulnet50_152", variant=variant)
        names = [x.name for x in model.layers if isinstance(x, layers.TemporalConv)]
        return sorted(n for n in names if n.startswith("motion_"))

    assert filtered("release") == [f"motion_res{u}_branch2b_time" for u in ("2b", "5b")]
    assert filtered("thesis") == [
        f"motion_res{u}_branch2b_time" for u in ("2b", "3b1", "4b1", "5b")
    ]


def test_released_pooling_slides_over_five_chunks():
    model = trained(zoo.load(MULNET, variant="release"))
    x = given(model, 1, 7)
    assert model(x)["motion"].shape[1] == 3
    assert zoo.load(MULNET)(x)["motion"].shape[1] == 1
    with pytest.raises(ValueError, match="a clip of 3 frames is shorter than the wind"):
        model(given(model, 1, 3))


def test_geometry_of_table_4_1(zero_weights):
    """Sizes for 11 chunks of 224 pixels, and receptive fields of ST-ResNet*-50."""
    model = zoo.load("st_resnet50", temporal_pooling="res5")
    stages = ["conv1", "pool1", "res2", "res3", "res4", "res5", "pool5"]
    names = [f"{s}/{e}" for s in ("appearance", "motion") for e in stages]
    x = {
        k: keras.KerasTensor((1, 11, 224, 224, c))
        for k, c in (("rgb", 3), ("flow", 20))
    }
    maps = zoo.features(model, names)(x)
    fields, steps = receptive_fields(model), strides(model)
    widths = (64, 64, 256, 512, 1024, 2048, 2048)
    sizes = (112, 56, 56, 28, 14, 7, 1)
    pixels = (7, 11, 35, 99, 291, 483, 675)
    # 47 tau in the table; a window of 5 over units that see 17 sees 21.
    chunks = (1, 1, 5, 9, 13, 17, 21)
    for stream in ("appearance", "motion"):
        for row in zip(stages, widths, sizes, pixels, chunks, strict=True):
            stage, width, size, side, time = row
            frames = 4 if stage == "pool5" else 11
            assert maps[f"{stream}/{stage}"].shape == (1, frames, size, size, width)
            assert fields[f"{stream}_{stage}"] == (time, side)
    assert steps["motion_res5"] == (1, 32) and steps["motion_pool5"] == (2, 32)


def test_parameters_of_two_resnets(zero_weights):
    """Section 4.4.1 prints 34 M for a ResNet-50; with 101 classes it has 23.7 M."""
    assert parameters(zoo.load("resnet50", num_classes=101)) == 23_714_981
    both = parameters(zoo.load("two_stream_resnet50"))
    assert both == 2 * 23_714_981 + 7 * 7 * 17 * 64  # conv1 of flow has 20 channels
    # 16 kernels of 1 x 1 become 1 x 1 x 3: units b of all stages, 2 C 4C each.
    mappings = sum(2 * w * 4 * w for w in (64, 128, 256, 512))
    assert parameters(zoo.load("st_resnet50")) == both + 2 * 2 * mappings
    filters = sum(3 * w * w + w for w in (64, 128, 256, 512))
    assert parameters(zoo.load("st_mulnet50")) == both + 2 * filters


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        (
            MULNET,
            "connection",
            "gate",
            "Unknown connection 'gate'; accepted are direct",
        ),
        (MULNET, "temporal", "centre", "Unknown temporal 'centre'; accepted are none"),
        (MULNET, "variant", "code", "accepted are thesis, release"),
        (RESNET, "temporal_pooling", True, "accepted are none, res5, pool5"),
        (RESNET, "connection", "none", "has no option 'connection'; it has"),
    ],
)
def test_options_are_checked(name, option, value, message):
    with pytest.raises(ValueError, match=message):
        zoo.load(name, **{option: value})


def test_motion_changes_the_appearance_tower_through_the_gate_only():
    x = given(zoo.load(MULNET), 1, 3)
    moved = {**x, "flow": x["flow"] + 3}
    for connection, reaches in (("none", False), ("residual_multiply", True)):
        model = trained(zoo.load(MULNET, connection=connection))
        change = np.abs(model(x)["appearance"] - model(moved)["appearance"]).max()
        assert (change > 1e-3) == reaches
        assert np.abs(model(x)["motion"] - model(moved)["motion"]).max() > 1e-3


def test_answers_are_probabilities_of_the_averaged_scores():
    model = trained(zoo.load(MULNET, stream_weights=(1, 3)))
    outputs = model(given(model, 2, 4))
    a, m = (outputs[t].numpy().mean(axis=(1, 2, 3)) for t in ("appearance", "motion"))
    expected = keras.ops.softmax((a + 3 * m) / 4)
    np.testing.assert_allclose(answer(outputs), expected, atol=1e-5)


def test_temporal_rows_say_what_they_do():
    assert TEMPORAL["residual_centre_pool"] == st_mulnet.Temporal(
        "residual", "centre", True
    )
    assert CONNECTIONS["residual_multiply_both"].motion == "residual"
