"""Convolutional fusion against its equations and tables (thesis chapter 3)."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from tests.test_models import given, plain, trained
from zoo import layers
from zoo.models.fusion import METHODS, TABLE_3_1, TABLE_3_2, TABLE_3_4
from zoo.models.vgg import VGGS
from zoo.understanding import multiply_adds, parameters, receptive_fields, strides

NAME = "fusion_vgg_tiny"
SUM = {"method": "sum", "keep_motion": False, "pooling": "2d"}


@pytest.fixture(scope="module")
def streams():
    names = {"appearance": "vgg_tiny", "motion": "motion_vgg_tiny"}
    return {k: trained(zoo.load(v, num_classes=4)) for k, v in names.items()}


def scores(model, x, tower="appearance"):
    return model(x)[tower].numpy()


def close(found, expected, tolerance=1e-5):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, atol=tolerance)


# --- what fusion computes ------------------------------------------------------------


@pytest.mark.parametrize("point", ["relu2", "relu5", "fc6", "fc7", "fc8"])
@pytest.mark.parametrize("method", ["sum", "max"])
def test_towers_meet_at_any_layer(streams, method, point):
    """The appearance tower goes on with the fused map of the two trained streams."""
    model = zoo.load(
        NAME, streams, method=method, fuse_at=point, keep_motion=False, pooling="2d"
    )
    x = given(model)
    maps = [
        zoo.features(stream, [point])(x[kind])[point].numpy()
        for stream, kind in zip(streams.values(), ("rgb", "flow"), strict=True)
    ]
    expected = {"sum": np.add, "max": np.maximum}[method](*maps)
    fused = zoo.features(model, [f"fusion_{point}"])(x)[f"fusion_{point}"]
    close(fused, expected)
    appearance = streams["appearance"]
    names = [layer.name for layer in appearance.layers]
    y = expected
    for layer in appearance.layers[names.index(point) + 1 :]:
        if layer.name == "logits":
            break
        y = layer(y)
    close(scores(model, x), np.asarray(y))


def test_identity_convolution_is_the_sum(streams):
    """ "Initialised by identity matrices that perform summation" (3.4.1): to 1e-6."""
    x = given(zoo.load(NAME))
    # The kernel after a concatenation, if it stands right there, does the summing.
    for method, point in (("conv", "relu5"), ("conv", "fc6"), ("concat", "fc6")):
        options = {**SUM, "fuse_at": point}
        summed = zoo.load(NAME, weights=streams, **options)
        model = zoo.load(NAME, streams, **{**options, "method": method})
        close(scores(model, x), scores(summed, x), 1e-6)
    for variant in ("thesis", "release"):
        model = zoo.load(NAME, streams, **{**SUM, "method": "concat"}, variant=variant)
        assert np.isfinite(scores(model, x)).all()


def test_released_convolution_weighs_the_streams(streams):
    """A quarter of appearance and three of motion, then a ReLU (spec of release)."""
    options = {**SUM, "method": "conv", "variant": "release"}
    model = zoo.load(NAME, weights=streams, **options)
    layer = model.get_layer("fusion_relu5")
    assert (layer.order, layer.activation.__name__) == ("block", "relu")
    x = given(model)
    names = ["appearance/relu5", "motion/relu5", "fusion_relu5"]
    maps = zoo.features(model, names)(x)
    expected = 0.25 * maps["appearance/relu5"] + 0.75 * maps["motion/relu5"]
    close(maps["fusion_relu5"].numpy(), expected.numpy(), 1e-6)


@pytest.mark.parametrize("variant", ["thesis", "release"])
def test_spacetime_kernel_is_a_gaussian_of_identities(variant):
    """3.3.5: sigma 1, motion three times appearance; gain 1 in all."""
    model = zoo.load(NAME, variant=variant)
    kernel = model.get_layer("fusion_relu5").get_weights()[0]
    assert kernel.shape == (3, 3, 3, 128, 64)
    a, m = kernel[..., 1::2, :], kernel[..., ::2, :]
    if variant == "release":
        a, m = kernel[..., :64, :], kernel[..., 64:, :]
    bell = np.exp(-0.5 * np.array([1, 0, 1]))
    bell = bell[:, None, None] * bell[:, None] * bell
    bell /= bell.sum()
    for part, weight in ((a, 0.25), (m, 0.75)):
        expected = weight * bell[..., None, None] * np.eye(64)
        np.testing.assert_allclose(part, expected, atol=1e-7)


def test_pooling_in_space_and_time(streams):
    """3-D pooling: windows of 2 x 2 pixels and 5 chunks, stride 2 in all."""
    model = zoo.load(NAME, weights=streams)
    x = given(model, 1, 9)
    names = ["fusion_relu5", "appearance/pool5_time", "motion/pool5_time"]
    maps = zoo.features(model, [*names, "motion/relu5"])(x)
    for source, pooled in (
        ("fusion_relu5", "appearance/pool5_time"),
        ("motion/relu5", "motion/pool5_time"),
    ):
        y = tf.nn.max_pool3d(maps[source], (5, 2, 2), 2, "VALID")
        np.testing.assert_allclose(maps[pooled], y, atol=1e-6)
    assert scores(model, x).shape == (1, 3, 1, 1, 4)
    with pytest.raises(ValueError, match="a clip of 4 frames is shorter than the wind"):
        model(given(model, 1, 4))


def test_the_motion_tower_that_is_kept_is_the_motion_stream(streams):
    model = zoo.load(NAME, weights=streams, pooling="2d")
    x = given(model)
    close(
        scores(model, x, "motion").mean(axis=(1, 2, 3)),
        zoo.features(streams["motion"], ["logits"])(x["flow"])["logits"].numpy(),
    )


def test_a_tower_that_is_cut_off_leaves_its_classifier_out(streams, caplog):
    with caplog.at_level("INFO", logger="absl"):
        model = zoo.load(NAME, weights=streams, **SUM)
    names = [layer.name for layer in model.layers]
    assert "motion_conv5" in names and "motion_fc6" not in names
    assert set(model(given(model))) == {"predictions", "appearance"}
    assert "its tower is cut off: motion_fc6, motion_fc7, motion_fc8" in caplog.text


def test_several_points_at_once(streams):
    options = {**SUM, "fuse_at": ["relu3", "relu5", "fc6"]}
    model = zoo.load(NAME, weights=streams, **options)
    names = [f"fusion_{p}" for p in options["fuse_at"]]
    ends = ["appearance/relu4", "motion/relu4"]
    found = zoo.features(model, names + ends)(given(model))
    assert all(np.isfinite(found[name]).all() for name in names)
    once = zoo.load(NAME, weights=streams, **{**SUM, "fuse_at": "relu5"})
    other = zoo.features(once, ends)(given(model))
    np.testing.assert_array_equal(found["motion/relu4"], other["motion/relu4"])
    assert np.abs(found["appearance/relu4"] - other["appearance/relu4"]).max() > 1e-3


def test_fusion_at_the_softmax_is_late_fusion(streams):
    model = zoo.load(NAME, weights=streams, **TABLE_3_1["softmax"])
    late = zoo.load("two_stream_vgg_tiny", weights=streams)
    x = given(model)
    np.testing.assert_allclose(
        model(x)["predictions"], late(x)["predictions"], atol=1e-6
    )


def test_bilinear_scores_are_linear_in_the_normalised_descriptor(streams):
    model = zoo.load(NAME, weights=streams, **TABLE_3_1["bilinear"])
    x = given(model, 2, 3, 64, 80)
    found = zoo.features(model, ["fusion_relu5", "appearance/fc8"])(x)
    descriptor = found["fusion_relu5"].numpy()
    assert descriptor.shape == (2, 3, 1, 1, 64 * 64)
    np.testing.assert_allclose(np.linalg.norm(descriptor, axis=-1), 1, rtol=1e-5)
    kernel, bias = model.get_layer("appearance_fc8").get_weights()
    np.testing.assert_allclose(
        found["appearance/fc8"], descriptor @ kernel + bias, atol=1e-5
    )


def test_fusing_where_everything_is_zero_has_a_finite_gradient():
    """Dead units: the signed square root's slope at zero is infinite."""
    layer = layers.BilinearFusion()
    x = tf.Variable(np.zeros((1, 1, 2, 2, 3), "float32"))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer([x, x]))
    assert np.isfinite(tape.gradient(loss, x)).all()


# --- tables --------------------------------------------------------------------------


def tiny(row):
    return {**row, **plain(NAME)}


@pytest.mark.parametrize(
    "row",
    [tiny(row) for t in (TABLE_3_1, TABLE_3_2, TABLE_3_4) for row in t.values()],
    ids=[name for t in (TABLE_3_1, TABLE_3_2, TABLE_3_4) for name in t],
)
def test_every_row_of_the_tables_builds_and_trains(row):
    model = zoo.load(NAME, **row)
    # Eagerly: that graphs train alike is tested with the other models.
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    before = [v.numpy() for v in model.trainable_variables]
    history = model.fit(given(model, 2), np.array([1, 2]), verbose=0).history
    assert np.isfinite(history["loss"]).all()
    same = [
        v.path
        for v, old in zip(model.trainable_variables, before, strict=True)
        if np.array_equal(v.numpy(), old)
    ]
    assert not same


# Row: (our parameters with conv1 of 20 channels in both towers, as the thesis counts;
# printed, in millions). Where the two differ, the reason stands beside it.
CONV1 = 7 * 7 * 17 * 96
PARAMETERS_3_1 = {
    "softmax": (181_415_562, 181.42),
    "max": (97_316_389, 97.31),  # printed cut off, not rounded
    "concat": (172_813_861, 172.81),
    "sum": (97_316_389, 97.31),
    # Printed with a fusion filter of C x C in place of 2C x C: 262,144 less.
    "conv": (97_841_189, 97.58),
    # Printed: the convolutions of one tower, 6,608,608, and no classifier.
    "bilinear": (2 * 6_608_608 + 512 * 512 * 101 + 101, 6.61),
}
PARAMETERS_3_2 = {
    "relu2": (91_547_941, 91.90),  # 0.35 M less than printed, reason unknown
    "relu3": (93_121_573, 93.08),  # 0.04 M more
    "relu4": (95_481_381, 95.48),
    "relu5": (97_841_189, 97.57),  # as "conv" above
    "relu5+fc8": (181_960_865, 181.68),  # 0.28 M more: both fusion filters
    "relu3+relu5+fc6": (207_426_085, 190.06),  # FC6's filter alone has 33.6 M
}


def thesis_count(model):
    """Parameters as the thesis counts them (its 20 channels in both towers)."""
    return parameters(model) + CONV1


@pytest.mark.parametrize(
    ("table", "expected"),
    [(TABLE_3_1, PARAMETERS_3_1), (TABLE_3_2, PARAMETERS_3_2)],
    ids=["3.1", "3.2"],
)
def test_parameters_of_tables_3_1_and_3_2(table, expected, zero_weights):
    assert set(table) == set(expected)
    for row, options in table.items():
        count, printed = expected[row]
        found = thesis_count(zoo.load("fusion_vgg_m", **options))
        assert found == count, row
        if row in ("softmax", "concat", "relu4"):
            assert round(count / 1e6, 2) == printed
        if row in ("max", "sum"):
            assert int(count / 1e4) / 100 == printed


def test_printed_counts_that_differ_are_explained():
    """What Table 3.1 must have counted, where it is not what eq. 3.4 and 3.5 have."""
    conv = PARAMETERS_3_1["conv"][0] - 512 * 512
    assert round(conv / 1e6, 2) == PARAMETERS_3_1["conv"][1]
    assert round(6_608_608 / 1e6, 2) == PARAMETERS_3_1["bilinear"][1]


def test_operations_and_parameters_of_vgg16(zero_weights):
    """Section 4.4.1 prints 19.6 G multiply-adds, which is VGG-19; VGG-16 has 15.5 G."""
    model = zoo.load("vgg16", num_classes=101)
    assert round(parameters(model) / 1e6) == 135  # "135M"
    assert multiply_adds(model, (1, 224, 224)) == 15_466_582_016


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        (
            "vgg_m",
            "conv1 7 2,norm1 7 2,pool1 11 4,conv2 27 8,norm2 27 8,pool2 43 16,"
            "conv3 75 16,conv4 107 16,conv5 139 16,relu5 139 16,pool5 171 32,"
            "fc6 331 32,fc7 331 32,fc8 331 32",
        ),
        (
            "vgg16",
            "conv1_1 3 1,conv1_2 5 1,pool1 6 2,conv2_1 10 2,conv2_2 14 2,pool2 16 4,"
            "conv3_1 24 4,conv3_2 32 4,conv3_3 40 4,pool3 44 8,conv4_1 60 8,"
            "conv4_2 76 8,conv4_3 92 8,pool4 100 16,conv5_1 132 16,conv5_2 164 16,"
            "conv5_3 196 16,relu5_3 196 16,pool5 212 32,fc6 404 32,fc7 404 32,"
            "fc8 404 32",
        ),
    ],
)
def test_geometry_of_table_2_1(name, rows, zero_weights):
    model = zoo.load(name)
    fields, steps = receptive_fields(model), strides(model)
    for row in rows.split(","):
        layer, size, stride = row.split()
        assert fields[layer] == (1, int(size)), layer
        assert steps[layer] == (1, int(stride)), layer


def test_sizes_of_the_vggs(zero_weights):
    """VGG-M's conv5 is 13 x 13 and VGG-16's 14 x 14 for 224 pixels (3.3.5)."""
    x = keras.KerasTensor((1, 1, 224, 224, 3))
    for name, last, size in (("vgg_m", "relu5", 13), ("vgg16", "relu5_3", 14)):
        maps = zoo.features(zoo.load(name), [last, "fc6", "fc8"])(x)
        assert maps[last].shape == (1, 1, size, size, 512)
        assert maps["fc6"].shape == (1, 1, 1, 1, 4096)
        assert maps["fc8"].shape == (1, 1, 1, 1, 1000)
    pair = {
        k: keras.KerasTensor((1, 5, 224, 224, c)) for k, c in (("rgb", 3), ("flow", 20))
    }
    fused = zoo.features(zoo.load("fusion_vgg16_vgg_m"), ["fusion_relu5_3"])(pair)
    assert fused["fusion_relu5_3"].shape == (1, 5, 14, 14, 512)


def test_only_vgg_m_on_frames_has_its_second_normalisation(zero_weights):
    names = [layer.name for layer in zoo.load("two_stream_vgg_m").layers]
    norms = [n for n in names if "_norm" in n and "normalization" not in n]
    assert norms == ["appearance_norm1", "motion_norm1", "appearance_norm2"]
    assert [
        layer.name for layer in zoo.load("vgg16").layers if "norm" in layer.name
    ] == ["rgb_normalization"]


# --- what cannot be fused ------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (NAME, {"method": "mean"}, f"accepted are {', '.join(METHODS)}"),
        (NAME, {"pooling": "4d"}, "accepted are 2d, 3d"),
        (NAME, {"variant": "code"}, "accepted are thesis, release"),
        (
            NAME,
            {"fuse_at": "res4"},
            "Cannot fuse at 'res4': the appearance tower has re",
        ),
        (NAME, {"fuse_at": "pool5"}, "the appearance tower has relu1, relu2"),
        (NAME, {"fuse_at": ["relu5", "relu3"]}, "each once and in the order"),
        (NAME, {"fuse_at": ["relu5", "relu5"]}, "each once and in the order"),
        (NAME, {"fuse_at": []}, "must name at least one point"),
        (NAME, {"fuse_at": [["relu3", "relu4"]]}, r"relu3 of appearance .stride 4 pix"),
        (NAME, {"fuse_at": [["relu3"]]}, "is an endpoint, or a pair of endpoints"),
        *(
            (NAME, {"fuse_at": value}, "fuse_at must be None, .* tower has relu1, relu")
            for value in (5, True, {"relu5": 1}, np.array(["relu5"]))
        ),
        *(
            (NAME, {"fuse_at": value}, "a pair of endpoints .* appearance has relu1, ")
            for value in ([5], [None], [["relu5", 5]], [{"relu5": 1}])
        ),
        *(
            (NAME, {**SUM, "keep_motion": value}, "keep_motion must be True or False")
            for value in ("no", None, 0)
        ),
        (NAME, {"method": ["sum"]}, r"Unknown method \['sum'\]; accepted are sum"),
        (NAME, {"pooling": {}}, r"Unknown pooling \{\}; accepted are 2d, 3d"),
        (
            NAME,
            {**SUM, "stream_weights": (1, 3)},
            r"weigh the scores of two towers, .* keep the motion tower, got \(1, 3\)",
        ),
        (
            NAME,
            {"fuse_at": "softmax"},
            "must be 'sum' and keep_motion True, got 'conv3",
        ),
        (
            NAME,
            {"fuse_at": "softmax", "method": "sum", "keep_motion": False},
            "got 'sum' and False",
        ),
        (NAME, {"fuse_at": "fc8", "method": "concat"}, "leaves no scores; use 'sum'"),
        (NAME, {"method": "bilinear"}, "pooling='2d', since it sums over the pixels"),
        (
            NAME,
            {"method": "bilinear", "fuse_at": "fc6", "pooling": "2d"},
            "takes one ReLU layer",
        ),
        (
            "fusion_vgg16_vgg_m",
            {"fuse_at": [["relu4_3", "relu5"]]},
            r"relu4_3 of appearance \(stride 8 pixels\) with relu5 of motion \(stride "
            r"16\); equal strides are needed, as at relu2",
        ),
        (
            "fusion_vgg16_vgg_m",
            {"fuse_at": "relu5"},
            "Cannot fuse at 'relu5': the appearance tower has relu1_1, relu1_2",
        ),
        (
            "fusion_vgg16_vgg_m",
            {"fuse_at": [["relu4_1", "relu2"]]},
            "they have 512 and 256 channels",
        ),
    ],
)
def test_impossible_fusions_are_named(name, options, message, zero_weights):
    with pytest.raises(ValueError, match=message):
        zoo.load(name, **options)


def test_every_vgg_fuses_by_default_at_its_last_relu():
    assert [net.last_relu for net in VGGS.values()] == ["relu5", "relu5_3", "relu5"]
