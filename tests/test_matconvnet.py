"""Networks of MatConvNet: what the source computes, the converted model computes."""

import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from tests import matconvnet_networks as networks
from tests import matconvnet_reference as reference
from tests.matconvnet_files import CLASSES, as_dag, as_simple, write
from zoo import registry
from zoo.weights import conversion, matconvnet, matconvnet_network
from zoo.weights.conversion import Row
from zoo.weights.transfer import transfer

TINY, SECOND = (1, 1, 1, 1), (2, 2, 2, 2)
CONVS = [(str(i), 3, f, 1, 1, 2) for i, f in enumerate((16, 24, 32, 48, 64), start=1)]


def tiny_vgg(channels=3, **options):
    norms = ("1", "2") if channels == 3 else ("1",)
    return networks.vgg(CONVS, (2, 128), 128, channels, norms=norms, **options)


def two_vggs():
    return networks.joined(tiny_vgg(), tiny_vgg(20, seed=1))


def two_resnets(width=8):
    parts = (networks.resnet(SECOND, width), networks.resnet(SECOND, width, 20, seed=1))
    return networks.joined(*parts)


def st_resnet(window=None, after="res5"):
    net = networks.inflate(networks.connect(two_resnets(), "Sum"))
    return networks.pool_time(net, 5, 2, after, suffix="") if window else net


def st_mulnet(**options):
    net = networks.inject_time(networks.connect(two_resnets(), "Mul"), **options)
    return networks.pool_time(net, 5, 1)


def both_ways():
    net = networks.connect(two_resnets(), "Mul")
    for name, value in net.params.items():  # products of products stay finite
        if "a_branch" in name and "mult" in name:
            net.params[name] = 0.3 * value
    return networks.connect(net, "Mul", into="temporal", start="spatial")


def fused(**options):
    return networks.fuse(two_vggs(), "relu5", "relu5", **options)


RESNET, COLOUR = {"stem": "release"}, {"stem": "caffe"}
FUSION = {"fuse_at": ["relu5"], "keep_motion": True, "variant": "release"}
FUSION["flow_offset"] = -0.5
MULNET = {**RESNET, "variant": "release", "dropout": 0.8}
# name: (model, network, options read, version, frames, (height, width))
CASES = {
    "ResNet": ("resnet_tiny", lambda: networks.resnet(TINY, 16), COLOUR, 3, (231, 250)),
    "ResNet of ImageNet": (
        "resnet_tiny",
        lambda: networks.resnet(TINY, 16, bias=False, released=False),
        COLOUR, 1, (96, 101),
    ),
    "ResNet on flow": (
        "motion_resnet26_tiny",
        lambda: networks.resnet(SECOND, 8, 20),
        {**RESNET, "dropout": 0.8}, 2, (96, 101),
    ),
    "VGG": ("vgg_tiny", tiny_vgg, {"dropout": 0.85}, 2, (70, 67)),
    "VGG on flow": (
        "motion_vgg_tiny", lambda: tiny_vgg(20), {"dropout": 0.9, "flow_offset": -0.5},
        2, (70, 67),
    ),
    "two ResNets": (
        "two_stream_resnet26_tiny", two_resnets, {**RESNET, "dropout": 0.8}, 2, (64, 64)
    ),
    "fusion, 3-D": (
        "fusion_vgg_tiny", fused,
        {**FUSION, "method": "conv3d", "pooling": "3d"}, 7, (70, 67),
    ),
    "fusion, 1x1": (
        "fusion_vgg_tiny", lambda: fused(method="conv", pool3d=False),
        {**FUSION, "method": "conv", "pooling": "2d"}, 2, (70, 67),
    ),
    "fusion, sum": (
        "fusion_vgg_tiny", lambda: fused(method="sum", pool3d=True),
        {**FUSION, "method": "sum", "pooling": "3d"}, 5, (70, 67),
    ),
    "ST-ResNet": (
        "st_resnet26_tiny", st_resnet, {**RESNET, "temporal_pooling": "none"},
        4, (64, 69),
    ),
    "ST-ResNet*": (
        "st_resnet26_tiny", lambda: st_resnet(5),
        {**RESNET, "temporal_pooling": "res5"}, 8, (64, 69),
    ),
    "ST-MulNet": (
        "st_mulnet26_tiny", st_mulnet,
        {**MULNET, "connection": "residual_multiply",
         "temporal": "residual_centre_pool"}, 7, (64, 69),
    ),
    "ST-MulNet, old names, last stage": (
        "st_mulnet26_tiny", lambda: st_mulnet(old=True, pattern="res5b_branch2b"),
        {**MULNET, "connection": "residual_multiply", "temporal": "last_centre_pool"},
        6, (64, 64),
    ),
    "ST-MulNet, both ways": (
        "st_mulnet26_tiny",
        lambda: networks.inject_time(both_ways(), pattern=r"res\db_relu"),
        {**MULNET, "connection": "release_multiply_both", "temporal": "skip_centre"},
        3, (64, 64),
    ),
    "T-ResNet": (
        "t_resnet_tiny",
        lambda: networks.temporal_residual(networks.resnet(TINY, 16)),
        {**COLOUR, "unit": "release", "temporal_padding": "same",
         "temporal_pooling": "max"}, 5, (96, 101),
    ),
}  # fmt: skip


def converted(path, name):
    """The model of a file, every variable set and every parameter used."""
    found = matconvnet.convert(path, zoo.info(name))
    assert found.unused == ()
    weights = found.weights
    model = registry.build(
        name,
        num_classes=weights.num_classes,
        classifier_activation=None,
        **weights.options,
    )
    report = transfer(weights, model)
    assert report.new == report.heads == report.adapted == ()
    return model, found


def clips(frames, size, videos=2):
    """RGB in 0-255 and flow in pixels, some of it beyond 20."""
    rng = np.random.default_rng(3)
    shape = (videos, frames, *size)
    return {
        "rgb": rng.integers(0, 256, (*shape, 3)).astype("f4"),
        "flow": rng.normal(0, 8, (*shape, 20)).astype("f4"),
    }


def expected(net, clips, mean):
    """{stream or "": scores [B, T', H', W', K]} of the source network."""
    codes = 255 * (np.clip(clips["flow"], -20, 20) + 20) / 40
    given = {"rgb": clips["rgb"] - np.float32(mean), "flow": codes - 128}
    names = {"input": "rgb", "input_flow": "flow"}
    first = net.layers[0]["inputs"][0]
    channels = net.params[net.layers[0]["params"][0]].shape[2]
    names[first] = "rgb" if channels == 3 else "flow"
    videos = len(clips["rgb"])
    inputs = {
        variable: given[kind].transpose(2, 3, 4, 0, 1).reshape(
            *given[kind].shape[2:], -1  # B x T in rows: time is the faster
        )
        for variable, kind in names.items()
    }  # fmt: skip
    values = reference.run(net, inputs, videos)
    scores = {}
    for layer in net.layers:
        if layer["params"] and net.params[layer["params"][0]].shape[-1] == CLASSES:
            y = values[layer["outputs"][0]]
            y = y.reshape(*y.shape[:3], videos, -1).transpose(3, 4, 0, 1, 2)
            stream = {"_spatial": "appearance", "temporal": "motion"}
            scores[stream.get(layer["params"][0][-8:], "")] = y
    return scores


@pytest.mark.parametrize("case", CASES)
def test_converted_model_computes_what_the_source_does(case, tmp_path):
    name, build, options, frames, size = CASES[case]
    net = build()
    version = "7.3" if case in ("ResNet", "VGG", "T-ResNet") else "5"
    path = write(tmp_path / "net.mat", {"net": as_dag(net)}, version)
    model, read = converted(path, name)
    assert read.weights.options == options
    given = clips(frames, size)
    mean = networks.MEAN_VGG if "vgg" in name else networks.MEAN_RESNET
    wanted = expected(net, given, mean)
    average = np.mean([y.mean((1, 2, 3)) for y in wanted.values()], axis=0)
    if "" in wanted:
        found = {"predictions": model(given[model.input.name])}
    else:
        found = model(given)
    for stream, scores in {**wanted, "predictions": average}.items():
        if stream:
            scale = np.abs(scores).max()
            np.testing.assert_allclose(found[stream] / scale, scores / scale, atol=1e-4)


@pytest.mark.slow
def test_t_resnet_of_fifty_layers(tmp_path):
    """Names and shapes as released; units a and c have a branch over time."""
    net = networks.temporal_residual(networks.resnet((3, 4, 6, 3), 64))
    path = write(tmp_path / "net.mat", {"net": as_dag(net)})
    model, _ = converted(path, "t_resnet50")
    given = clips(4, (64, 64), videos=1)
    scores = expected(net, given, networks.MEAN_RESNET)[""].mean((1, 2, 3))
    found, scale = model(given["rgb"]), np.abs(scores).max()
    np.testing.assert_allclose(found / scale, scores / scale, atol=1e-4)


@pytest.mark.parametrize("early", [False, True])
def test_simplenn_equals_its_dagnn(early, tmp_path):
    net = tiny_vgg(released=not early)
    simple = write(tmp_path / "simple.mat", as_simple(net, early), "5")
    dag = write(tmp_path / "dag.mat", as_dag(net), "7.3")
    a, b = (matconvnet.convert(p, zoo.info("vgg_tiny")) for p in (simple, dag))
    assert a.weights.options == b.weights.options
    assert a.weights.layers.keys() == b.weights.layers.keys()
    for name, arrays in a.weights.layers.items():
        for x, y in zip(arrays, b.weights.layers[name], strict=True):
            np.testing.assert_array_equal(x, y)
    assert (
        a.facts["classes"]
        == b.facts["classes"]
        == tuple(f"class {i}" for i in range(CLASSES))
    )


# --- what the file says, and what is refused -----------------------------------------


def read(net, name="resnet_tiny", /, **variables):
    """The conversion of a network, or of variables in its place, by way of a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "net.mat", variables or {"net": as_dag(net)})
        return conversion.read(path, zoo.info(name))


def test_deep_networks_filter_by_name():
    """ResNet-152 has units 3b1 and 4b1, which the released script does not match."""
    deep, deeper = (3, 4, 6, 3), (3, 8, 36, 3)
    parts = networks.resnet(deep, 2), networks.resnet(deeper, 2, 20, bias=False)
    net = networks.inject_time(networks.connect(networks.joined(*parts), "Mul"))
    found = read(networks.pool_time(net, 5, 1), "st_mulnet50_152")
    assert found.weights.options["temporal"] == "residual_centre_pool"
    filters = [name for name in found.weights.layers if name.endswith("_time")]
    assert sorted(filters) == [
        *(f"appearance_res{s}b_branch2b_time" for s in (2, 3, 4, 5)),
        *(f"motion_res{s}b_branch2b_time" for s in (2, 5)),
    ]
    assert found.weights.layers["motion_res4b35_branch2b"][0].shape == (3, 3, 8, 8)


def test_rows_and_facts():
    found = read(networks.resnet(TINY, 16))
    rows = {row.target: row for row in found.rows}
    assert rows["bn2a_branch2a/moving_variance"] == Row(
        "bn2a_branch2a_moments",
        "bn2a_branch2a/moving_variance",
        (16,),
        "column 2^2 - eps",
    )
    assert "conv1_bias" in {row.source for row in found.rows}
    assert len(rows) == sum(map(len, found.weights.layers.values()))
    assert found.facts["imageSize"] == (224, 224, 3)
    assert found.facts["format"] == "DagNN"
    assert found.weights.geometry["res3a_branch2a"]["strides"] == 2


def test_two_files_make_a_two_stream_network(tmp_path):
    files = {
        "appearance": write(tmp_path / "a.mat", as_simple(tiny_vgg())),
        "motion": write(tmp_path / "m.mat", {"net": as_dag(tiny_vgg(20))}),
    }
    model = zoo.load("two_stream_vgg_tiny", weights=files)
    assert model.get_layer("motion_flow_normalization").offset == -0.5
    files["appearance"] = write(
        tmp_path / "r.mat", {"net": as_dag(networks.resnet(SECOND, 8))}
    )
    flow = networks.resnet(SECOND, 8, 20)
    files["motion"] = write(tmp_path / "f.mat", {"net": as_dag(flow)})
    model = zoo.load("st_mulnet26_tiny", weights=files)  # a warm start
    assert model.get_layer("motion_flow_normalization").offset == -0.5
    kernel = model.get_layer("motion_res5b_branch2c").get_weights()[0]
    np.testing.assert_array_equal(kernel, flow.params["res5b_branch2c_filter"])


def test_round_trip_through_files_of_keras(tmp_path):
    path = write(tmp_path / "net.mat", as_simple(tiny_vgg()))
    model, _ = converted(path, "vgg_tiny")
    model.save_weights(tmp_path / "m.weights.h5")
    again = zoo.load("vgg_tiny", weights=tmp_path / "m.weights.h5")
    given = clips(1, (64, 64))["rgb"]
    scores = model(given)
    again.get_layer("predictions").activation = keras.activations.linear
    np.testing.assert_array_equal(again(given), scores)
    model.export(tmp_path / "saved", verbose=False)
    saved = tf.saved_model.load(tmp_path / "saved")
    np.testing.assert_allclose(saved.serve(given), scores, rtol=1e-5, atol=1e-5)


def test_unpadded_first_layers_take_up_another_mean():
    """VGG-M's bias makes up for a mean colour that is not the model's, exactly."""
    convs = [(name, size, f, s, 0, pool) for name, size, f, s, _, pool in CONVS[:1]]
    net, other = (tiny_vgg_of(convs + CONVS[1:]) for _ in range(2))
    other.meta["normalization"]["averageImage"] = np.full((1, 1, 3), 100, "f4")
    ours = read(net, "vgg_tiny").weights.layers["conv1"]
    kernel, bias = read(other, "vgg_tiny").weights.layers["conv1"]
    np.testing.assert_array_equal(kernel, ours[0])
    difference = np.array(networks.MEAN_VGG) - 100
    change = np.einsum("hwio,i->o", kernel, difference)
    np.testing.assert_allclose(bias, ours[1] + change, atol=1e-5)


def tiny_vgg_of(convs):
    return networks.vgg(convs, (2, 128), 128, norms=("1", "2"))


def change_param(name, change):
    def apply(net):
        net.params[name] = change(net.params[name])

    return apply


def change_block(name, **fields):
    return lambda net: net.layer(name)["block"].update(fields)


def remove(field):
    return lambda net: [layer.pop(field) for layer in net.layers]


def add_layer(kind, x="res5ax", **block):
    return lambda net: net.add("extra", kind, x, "extra", at=len(net.layers), **block)


def swap(net, relu, norm):
    """The nonlinearity before the normalisation."""
    relu, norm = net.layer(relu), net.layer(norm)
    first, last = norm["inputs"][0], relu["outputs"][0]
    relu["inputs"][0], norm["inputs"][0] = first, relu["outputs"][0]
    norm["outputs"][0], relu["outputs"][0] = last, "swapped"
    norm["inputs"][0] = "swapped"


BAD = {
    "holds float NaN": (
        change_param("res2a_branch1_filter", lambda v: v * np.nan),
        "'res2a_branch1_filter' holds NaN or infinite values",
    ),
    "whole numbers": (
        change_param("res2a_branch1_filter", lambda v: (100 * v).astype("i2")),
        "'res2a_branch1_filter' holds int16, accepted are single and double",
    ),
    "text": (
        change_param("res2a_branch1_filter", lambda v: "lost"),
        "'res2a_branch1_filter' holds str",
    ),
    "axes": (
        change_param("res2a_branch1_filter", lambda v: v[..., None].repeat(2, -1)),
        "at most 4 axes",
    ),
    "moments": (
        change_param("bn2a_branch1_moments", lambda v: v[:, :1]),
        r"moments bn2a_branch1_moments of shape \(64, 1\), \(64, 2\) needed",
    ),
    "deviation": (
        change_param("bn2a_branch1_moments", lambda v: v * 0),
        "deviations in bn2a_branch1_moments that are not positive",
    ),
    "missing parameter": (
        lambda net: net.params.pop("bn2a_branch1_mult"),
        "parameter 'bn2a_branch1_mult' is missing",
    ),
    "too few parameters": (
        lambda net: net.layer("bn2a_branch1")["params"].pop(),
        "bn2a_branch1 of kind BatchNorm with 2 parameters, 3 at least",
    ),
    "missing field": (remove("inputs"), "layer conv1 has no field 'inputs'"),
    "unknown kind": (
        add_layer("Sigmoid"),
        r"layers of kind Sigmoid \(extra\), accepted are BatchNorm",
    ),
    "leak": (change_block("conv1_relu", leak=0.1), "leaky ReLUs"),
    "circle": (
        lambda net: net.layer("pool1")["inputs"].__setitem__(0, "res2ax"),
        "layer pool1 depends on its own output",
    ),
    "setting": (
        change_block("pool1", stride="2"),
        "stride='2', numbers are needed",
    ),
    "method": (change_block("pool1", method="med"), "pooling pool1 by 'med'"),
    "window": (
        change_block("pool1", poolSize=np.array([[3.0, 2.0]])),
        r"a pooling pool1 of window \(3, 2\)",
    ),
    "uneven padding": (
        change_block("conv1", pad=np.array([[3.0, 2, 3, 2]])),
        "a convolution conv1 of .* padded alike on all sides",
    ),
    "extra tensor": (
        lambda net: net.params.update(stray=np.ones((1, 1), "f4")),
        "1 tensors have no place in resnet_tiny: stray",
    ),
    "extra layer": (
        lambda net: net.conv("other", "conv1xx", (1, 1, 16, 4), True),
        "two layers that are fc, of one parameter other_filter",
    ),
    "mean": (
        lambda net: net.meta["normalization"].update(
            averageImage=np.full((1, 1, 3), 100, "f4")
        ),
        r"mean colour \[100.0, 100.0, 100.0\] is not that of resnet_tiny",
    ),
    "other order": (
        lambda net: swap(net, "res2a_branch2b_relu", "bn2a_branch2b"),
        "whose res2a_branch2c reads res2a_branch2b, BatchNorm, ReLU in between",
    ),
    "other shortcut": (
        lambda net: net.layer("res3a")["inputs"].__setitem__(0, "res2ax"),
        "a residual unit res3a of res2a_relu and bn3a_branch2c, which is none of",
    ),
    "other input": (
        lambda net: net.layer("res3a_branch2a")["inputs"].__setitem__(0, "res2a"),
        "whose res3a_branch2a reads res2a, nothing in between",
    ),
    "maximum over some frames": (
        add_layer(
            "PoolTime",
            poolSize=np.array([[1.0, 4]]),
            stride=np.array([[1.0, 1]]),
            pad=np.zeros((1, 4)),
        ),
        "a maximum over .*4.* frames; accepted is over all",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_network_is_refused_by_name(what):
    spoil, words = BAD[what]
    net = networks.resnet(TINY, 16)
    spoil(net)
    with pytest.raises(ValueError, match=words):
        read(net)


def test_a_small_difference_of_means_is_said(caplog):
    net = networks.resnet(TINY, 16)
    net.meta["normalization"]["averageImage"] = np.full((1, 1, 3), 0, "f4")
    net.meta["normalization"]["averageImage"] += np.array(networks.MEAN_RESNET) + 1
    with caplog.at_level("WARNING", logger="absl"):
        read(net)
    assert "is not that of resnet_tiny" in caplog.text


BAD_STREAMS = {
    "one stream": (
        lambda: networks.resnet(SECOND, 8),
        "holds 1 stream, st_mulnet26_tiny has 2",
    ),
    "some stages": (
        lambda: unconnected(st_mulnet()),
        "streams that connect in some stages only",
    ),
    "another unit": (
        lambda: wrongly_read(st_mulnet()),
        "a connection res2a_relu_spatial_sum into res3a_branch2a_spatial, not a row",
    ),
    "both after the ReLU": (
        lambda: from_relu(st_mulnet()),
        "a connection res2a_relu_spatial_sum of .* that is no row",
    ),
    "inflated": (
        lambda: networks.inflate(st_mulnet()),
        r"1x1 convolutions over three frames \(chapter 4\)",
    ),
    "some filters": (
        lambda: st_mulnet(pattern="res[23]b_branch2b"),
        "filters over time at appearance_res2b_branch2b_time",
    ),
    "one softmax for both": (
        lambda: with_one_softmax(st_mulnet()),
        "a layer both of kind Concat that joins pool5_spatial, pool5_temporal",
    ),
    "scaled": (
        lambda: scaled(st_mulnet()),
        "a layer res2a_relu_spatial_sum of kind Mul that joins",
    ),
    "flow's mean": (
        lambda: other_zero(st_mulnet()),
        "a mean of flow of 120, not 128",
    ),
}


def unconnected(net):
    layer = net.layer("res2a_relu_spatial_sum")
    own = net.layer("res2a_relu_spatial")["outputs"][0]
    net.layers.remove(layer)
    networks.replace_input(net, layer["outputs"][0], own, ())
    return net


def wrongly_read(net):
    layer, own = (net.layer(f"res2a_relu_spatial{end}") for end in ("_sum", ""))
    networks.replace_input(net, layer["outputs"][0], own["outputs"][0], ())
    net.layer("res3a_branch2a_spatial")["inputs"][0] = layer["outputs"][0]
    return net


def from_relu(net):
    layer, own = (net.layer(f"res2a_relu_spatial{end}") for end in ("_sum", ""))
    layer["inputs"][1] = own["outputs"][0]
    return net


def with_one_softmax(net):
    net.add("both", "Concat", ["pool5_spatial", "pool5_temporal"], "both", dim=3.0)
    return net


def scaled(net):
    """The author's option doScale, which no released file has."""
    layer, name = net.layer("res2a_relu_spatial_sum"), "res2a_relu_spatial_scale"
    net.params |= {f"{name}_{end}": np.ones((1, 1, 32), "f4") for end in "fb"}
    params = [f"{name}_f", f"{name}_b"]
    net.add(name, "Scale", layer["inputs"][0], name, params, hasBias=True)
    layer["inputs"][0] = name
    return net


def other_zero(net):
    net.meta["normalization"]["averageImage"][0, 0, :20] = 120
    return net


@pytest.mark.parametrize("what", BAD_STREAMS)
def test_a_bad_wiring_is_refused_by_name(what):
    build, words = BAD_STREAMS[what]
    with pytest.raises(ValueError, match=words):
        read(build(), "st_mulnet26_tiny")


@pytest.mark.parametrize(
    ("build", "model", "words"),
    [
        (st_mulnet, "st_resnet26_tiny", "connection='residual_multiply'"),
        (st_resnet, "st_mulnet26_tiny", "1x1 convolutions over three frames"),
        (fused, "two_stream_vgg_tiny", "method='conv3d'"),
        (CASES["T-ResNet"][1], "resnet_tiny", "unit='release'"),
    ],
)
def test_another_architecture_is_named(build, model, words):
    with pytest.raises(ValueError, match=words):
        read(build(), model)


def test_strides_and_windows_are_compared(tmp_path):
    """A stride on the 3x3 convolution leaves every shape as it is."""
    net = networks.resnet(TINY, 16)
    for name, stride in (("res3a_branch2a", 1.0), ("res3a_branch2b", 2.0)):
        net.layer(name)["block"]["stride"] = np.full((1, 2), stride)
    path = write(tmp_path / "net.mat", {"net": as_dag(net)})
    with pytest.raises(ValueError, match="res3a_branch2a has .*'strides': 1"):
        zoo.load("resnet_tiny", weights=path)
    net = tiny_vgg(20)
    at = net.index("pool2")
    net.add("norm2", "LRN", "relu2", "norm2", at=at, param=np.array([[5, 2, 1e-4, 1]]))
    net.layer("pool2")["inputs"][0] = "norm2"
    path = write(tmp_path / "net.mat", {"net": as_dag(net)})
    with pytest.raises(ValueError, match="norm2 is not in motion_vgg_tiny"):
        zoo.load("motion_vgg_tiny", weights=path)


def test_what_holds_no_network_says_what_it_holds():
    for variables, words in (
        ({"stats": np.eye(2)}, "holds no network of MatConvNet"),
        ({"net": np.eye(2)}, "holds no network of MatConvNet"),
        ({"net": {"layers": np.eye(2)}}, "layers is no array of structs"),
    ):
        with pytest.raises(ValueError, match=words):
            read(None, **variables)


def test_trailing_axes_are_of_length_one():
    params = {"moments": np.ones((3, 2, 1, 1)), "kernel": np.ones((1, 1, 1, 1, 2))}
    network = matconvnet_network.Network("net.mat", (), params, {})
    assert network.array("moments", 2).shape == (3, 2)
    with pytest.raises(ValueError, match="at most 4 axes are accepted"):
        network.array("kernel", 4)
