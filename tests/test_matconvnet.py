"""Networks of MatConvNet: what the source computes, the converted model computes."""

import numpy as np
import pytest

import zoo
from tests import matconvnet_networks as networks
from tests import matconvnet_reference as reference
from tests.matconvnet_files import CLASSES, as_dag, as_simple, write
from zoo import registry
from zoo.weights import matconvnet
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
    conversion = matconvnet.convert(path, zoo.info(name))
    assert conversion.unused == ()
    weights = conversion.weights
    model = registry.build(
        name,
        num_classes=weights.num_classes,
        classifier_activation=None,
        **weights.options,
    )
    report = transfer(weights, model)
    assert report.new == report.heads == report.adapted == ()
    matconvnet.require_geometry(conversion, model)
    return model, conversion


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
    model, conversion = converted(path, name)
    assert conversion.weights.options == options
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
