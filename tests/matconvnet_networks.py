"""Networks of MatConvNet with the names and shapes of the released ones.

The builders make the ImageNet networks as MatConvNet's converter names them, and the
functions after them do to them what the author's MATLAB scripts do.
"""

import re

import numpy as np

from tests.matconvnet_files import CLASSES, Cell, Source, geometry, meta, row

MEAN_VGG = (123.68, 116.779, 103.939)
MEAN_RESNET = (123.1516, 115.9029, 103.0626)

# --- networks ------------------------------------------------------------------------


def letters(stage, units):
    count = units[stage - 2]
    if stage in (3, 4) and units[2] > 6:
        return ["a", *(f"b{i}" for i in range(1, count))]
    return list("abcdef"[:count])


def resnet(units, width, channels=3, classes=CLASSES, bias=True, seed=0, released=True):
    """He's ResNet as MatConvNet's converter writes it, or fine-tuned by the author.

    Args:
        units: per stage. width: of stage 2. channels: 3, or 20 of flow.
        bias: of conv1, as ResNet-50 has it.
        released: with a loss; dropout before the classifier of flow; else softmax.
    """
    net = Source(rng=np.random.default_rng(seed), meta=meta(MEAN_RESNET, channels))
    x = net.conv("conv1", "data", (7, 7, channels, width), bias, **geometry(2, [3] * 4))
    net.params["conv1_filter"] *= 0.05
    x = net.norm("bn_conv1", x, width, "conv1x")
    x = net.relu("conv1_relu", x, "conv1xx")
    x = net.add(
        "pool1",
        "Pooling",
        x,
        "pool1",
        method="max",
        poolSize=row([3, 3]),
        **geometry(2, (0, 1, 0, 1)),
    )
    depth = width
    for stage in (2, 3, 4, 5):
        inner = width * 2 ** (stage - 2)
        for letter in letters(stage, units):
            x = residual(net, x, f"{stage}{letter}", depth, inner)
            depth = 4 * inner
    x = net.add(
        "pool5", "Pooling", x, "pool5", method="avg", poolSize=row([7, 7]), **geometry()
    )
    if channels != 3 and released:
        x = net.add("drop_pool5", "DropOut", x, "drop_pool5", rate=0.8)
    x = net.conv("fc1000", x, (1, 1, depth, classes), True, **geometry())
    finish(net, x, released)
    return net


def residual(net, x, unit, depth, inner):
    """One unit; its variables have an x more per layer in place, as converted."""
    first = unit[1:] == "a"
    stride = 2 if first and unit[0] != "2" else 1
    shortcut = x
    if first:
        shortcut = conv_bn(net, x, f"{unit}_branch1", (1, 1, depth, 4 * inner), stride)
    y = conv_bn(net, x, f"{unit}_branch2a", (1, 1, depth, inner), stride)
    y = net.relu(f"res{unit}_branch2a_relu", y, f"res{unit}_branch2axxx")
    y = conv_bn(net, y, f"{unit}_branch2b", (3, 3, inner, inner), pad=[1] * 4)
    y = net.relu(f"res{unit}_branch2b_relu", y, f"res{unit}_branch2bxxx")
    y = conv_bn(net, y, f"{unit}_branch2c", (1, 1, inner, 4 * inner), gamma=0.3)
    x = net.add(f"res{unit}", "Sum", [shortcut, y], f"res{unit}")
    return net.relu(f"res{unit}_relu", x, f"res{unit}x")


def conv_bn(net, x, name, shape, stride=1, pad=(0, 0, 0, 0), gamma=1.0):
    x = net.conv(f"res{name}", x, shape, **geometry(stride, pad))
    return net.norm(f"bn{name}", x, shape[-1], f"res{name}x", gamma)


def finish(net, x, released):
    if released:
        net.add("loss", "Loss", [x, "label"], "objective", loss="softmaxlog")
        net.add("top1err", "Loss", [x, "label"], "error", loss="classerror")
        net.layers[net.index("loss") - 1]["name"] = "prediction"
    else:
        net.add("softmax", "SoftMax", x, "prob")


def vgg(convs, fc6, fc7, channels=3, classes=CLASSES, seed=0, released=True, norms=()):
    """A VGG as dagnn.DagNN.fromSimpleNN makes it.

    Args:
        convs: (name, kernel, filters, stride, pad, pool) each; pool is a size or 0.
        fc6, fc7: (kernel, filters), filters.
        released: the classifier is unnamed and dropouts stand after fc6 and fc7.
        norms: names of convolutions with a normalisation across channels after them.
    """
    net = Source(rng=np.random.default_rng(seed), meta=meta(MEAN_VGG, channels))
    x, depth = "x0", channels
    for name, size, filters, stride, pad, pool in convs:
        x = fc(net, x, f"conv{name}", (size, size, depth, filters), stride, pad)
        x = net.relu(f"relu{name}", x, f"relu{name}")
        if name in norms:
            x = net.add(
                f"norm{name}", "LRN", x, f"norm{name}", param=row([5, 2, 1e-4, 0.75])
            )
        if pool:
            stage = name[0]
            x = net.add(
                f"pool{stage}",
                "Pooling",
                x,
                f"pool{stage}",
                method="max",
                poolSize=row([pool] * 2),
                **geometry(2, (0, 1, 0, 1)),
            )
        depth = filters
    net.params["conv" + convs[0][0] + "f"] *= 0.05
    for number, (size, filters) in (6, fc6), (7, (1, fc7)):
        x = fc(net, x, f"fc{number}", (size, size, depth, filters))
        x = net.relu(f"relu{number}", x, f"relu{number}")
        if released:
            x = net.add(
                f"layer{len(net.layers) + 1}",
                "DropOut",
                x,
                f"d{number}",
                rate=0.85 if channels == 3 else 0.9,
            )
        depth = filters
    name = f"layer{len(net.layers) + 1}" if released else "fc8"
    x = fc(net, x, name, (1, 1, depth, classes))
    finish(net, x, released)
    return net


def fc(net, x, name, shape, stride=1, pad=0):
    names = (f"{name}f", f"{name}b")
    return net.conv(name, x, shape, True, names, **geometry(stride, [pad] * 4))


# --- what the author's scripts do to them ---------------------------------------------


def joined(spatial, temporal):
    """Two networks in one, their names with _spatial and _temporal."""
    net = Source(rng=np.random.default_rng(7))
    for part, suffix in (spatial, "_spatial"), (temporal, "_temporal"):
        first = part.layers[0]["inputs"][0]
        for layer in part.layers:
            if layer["name"] == "top1err":
                continue
            names = {
                key: Cell(n if n == "label" else f"{n}{suffix}" for n in layer[key])
                for key in ("inputs", "outputs", "params")
            }
            net.layers.append({**layer, "name": layer["name"] + suffix, **names})
        net.params.update({f"{k}{suffix}": v for k, v in part.params.items()})
        start = {"_spatial": "input", "_temporal": "input_flow"}[suffix]
        for layer in net.layers:
            renamed = [start if n == first + suffix else n for n in layer["inputs"]]
            layer["inputs"] = Cell(renamed)
    means = [part.meta["normalization"]["averageImage"] for part in (temporal, spatial)]
    means = [mean.mean((0, 1), keepdims=True) for mean in means]
    net.meta = {**temporal.meta, "normalization": {
        "imageSize": row([224, 224, 20]), "averageImage": np.concatenate(means, 2),
    }}  # fmt: skip
    return net


def replace_input(net, old, new, but):
    for layer in net.layers:
        if layer["name"] not in but:
            layer["inputs"] = Cell(new if n == old else n for n in layer["inputs"])


def connect(net, kind, into="spatial", start="temporal"):
    """A Sum or Mul per stage, from the ReLU of one stream to the sum of the other."""
    for stage in (2, 3, 4, 5):
        own, other = f"res{stage}a_{into}", f"res{stage}a_relu_{start}"
        relu = net.index(f"res{stage}a_relu_{into}")
        name = f"res{stage}a_relu_{into}_sum"
        inputs = [net.layer(other)["outputs"][0], net.layer(own)["outputs"][0]]
        at = relu + 1 if into == "spatial" else relu
        net.add(name, kind, inputs, name, at=at)
        reader = net.layers[at + 1]
        reader["inputs"] = Cell([name])
        # Unit b begins with the layer that follows; in the other direction the script
        # hits the ReLU itself.
        assert reader["name"].startswith(
            f"res{stage}b" if into == "spatial" else f"res{stage}a_relu"
        )
    return net


def inflate(net, units=("b",)):
    """1x1 convolutions of the second units over three frames, a third each."""
    for layer in net.layers:
        name = layer["name"]
        if layer["type"] == "dagnn.Conv" and any(
            f"{u}_branch2{branch}" in name for u in units for branch in "ac"
        ):
            weight = layer["params"][0]
            noise = net.normal(*net.params[weight].shape, scale=0.05)
            kernel = net.params[weight] / 3
            net.params[weight] = np.concatenate([kernel, kernel + noise, kernel], 1)
            layer["type"] = "dagnn.ConvTime"
            layer["block"] = {
                "size": row(net.params[weight].shape), "hasBias": False,
                "pad": row([0, 0, 1, 1]), "stride": row([1, 1]), "dilate": row([1, 1]),
            }  # fmt: skip
    return net


def inject_time(net, pattern=r"res\db_branch2b", old=False):
    """Filters over time after the ReLU of 3x3 convolutions, or after units.

    Args:
        pattern: of the convolutions, or of the ReLUs of units.
        old: names of early base networks.
    """
    for index in range(len(net.layers)):
        layer = net.layers[index]
        stem = layer["name"].removesuffix("_spatial").removesuffix("_temporal")
        if not re.fullmatch(pattern, stem):
            continue
        relu = net.layers[index + 2] if layer["type"] == "dagnn.Conv" else layer
        if old:
            suffix = relu["name"][relu["name"].rindex("_") :]
            relu["name"] = f"{stem.replace('_', '_relu_')}_relu{suffix}"
        name, out = f"{relu['name']}_Time", relu["outputs"][0]
        channels = next(
            net.params[x["params"][0]].shape[-1]
            for x in reversed(net.layers[: net.layers.index(relu)])
            if x["type"] == "dagnn.Conv"
        )
        params = [f"{name}_f", f"{name}_b"]
        eye = np.eye(channels)[None, None] * np.array([0, 1, 0]).reshape(1, 3, 1, 1)
        noise = net.normal(1, 3, channels, channels, scale=0.05)
        net.params[params[0]] = (eye + noise).astype("f4")
        net.params[params[1]] = net.normal(channels, 1, scale=0.1)
        net.add(
            name,
            "ConvTime",
            out,
            name,
            params,
            size=row(eye.shape),
            hasBias=True,
            pad=row([0, 0, 1, 1]),
            stride=row([1, 1]),
            dilate=row([1, 1]),
        )
        replace_input(net, out, name, (name,))
    return net


def pool_time(net, window, stride, after="res5{}_relu", suffix="1"):
    """A maximum over time in both streams, inserted after a layer."""
    for stream in ("spatial", "temporal"):
        last = [x["name"] for x in net.layers if x["name"] == f"pool5_{stream}"]
        before = net.layers[net.index(last[0]) - (after != "pool5")]
        name, out = f"res5c_relu_pool_{stream}{suffix}", before["outputs"][0]
        net.add(
            name,
            "PoolTime",
            out,
            name,
            method="max",
            poolSize=row([1, window]),
            pad=row([0] * 4),
            stride=row([1, stride]),
        )
        replace_input(net, out, name, (name,))
    return net


def temporal_residual(net, letters="ac"):
    """Chapter 7: a branch over time beside the 3x3 convolutions of units a and c."""
    convs = [
        layer for layer in net.layers
        if any(f"{letter}_branch2b" in layer["name"] for letter in letters)
        and layer["type"] == "dagnn.Conv"
    ]  # fmt: skip
    for conv in convs:
        name, channels = f"conv_time_{conv['name']}", conv["block"]["size"].ravel()[-1]
        channels = int(channels)
        names = [f"{name}_bn_{part}" for part in "wbm"]
        x = net.norm(
            f"{name}_bn", conv["inputs"][0], channels, f"{name}_bn", names=names
        )
        x = net.relu(f"{name}_relu", x, f"{name}_relu")
        params = [f"{name}_f", f"{name}_b"]
        net.params[params[0]] = net.normal(1, 3, channels, channels)
        net.params[params[1]] = net.normal(channels, 1, scale=0.1)
        x = net.add(
            f"{name}_conv",
            "ConvTime",
            x,
            f"{name}_conv",
            params,
            pad=row([0, 0, 1, 1]),
            stride=row([1, 1]),
            dilate=row([1, 1]),
        )
        params = [f"{name}_scalef", f"{name}_scaleb"]
        net.params[params[0]] = 0.5 + net.normal(1, 1, channels, scale=0.1)
        net.params[params[1]] = net.normal(1, 1, channels, scale=0.1)
        x = net.add(
            f"{name}_scale",
            "Scale",
            x,
            f"{name}_scale",
            params,
            size=row([1, 1, channels]),
            hasBias=True,
        )
        out = conv["outputs"][0]
        net.add(f"{name}_sum", "Sum", [out, x], f"{name}_sum")
        replace_input(net, out, f"{name}_sum", (f"{name}_sum",))
    out = net.layer("pool5")["outputs"][0]
    net.add(
        "pool5_pool_time",
        "PoolTime",
        out,
        "pool5_pool_time",
        method="max",
        poolSize=row([1, np.inf]),
        pad=row([0] * 4),
        stride=row([1, 1]),
    )
    replace_input(net, out, "pool5_pool_time", ("pool5_pool_time",))
    return net


def fuse(net, spatial="relu5_3", temporal="relu5_3", method="conv3d", pool3d=True):
    """Chapter 3: the streams meet at a ReLU; pool5 over time as well."""
    a, b = (
        net.layer(n)["outputs"][0]
        for n in (f"{spatial}_spatial", f"{temporal}_temporal")
    )
    at = net.index(f"{spatial}_spatial") + 1
    name = f"{temporal}_concat"
    channels = next(
        net.params[x["params"][0]].shape[-1] for x in reversed(net.layers[:at])
        if x["type"] == "dagnn.Conv"
    )  # fmt: skip
    kind = "Sum" if method == "sum" else "Concat"
    x = net.add(name, kind, [a, b], name, at=at)
    if method == "conv3d":
        net.params["conv3Df"] = net.normal(3, 3, 3, 2 * channels, channels)
        net.params["conv3Db"] = net.normal(1, channels, scale=0.1)
        x = net.add(
            "conv53D",
            "Conv3D",
            x,
            "conv3D5",
            ["conv3Df", "conv3Db"],
            at=at + 1,
            pad=row([1] * 6),
            stride=row([1] * 3),
            hasBias=True,
        )
        x = net.add("relu3D5", "ReLU", x, "relu3D5", at=at + 2)
    elif method == "conv":
        params = ["conv_fusion_1f", "conv_fusion_1b"]
        net.params[params[0]] = net.normal(1, 1, 2 * channels, channels)
        net.params[params[1]] = net.normal(1, channels, scale=0.1)
        x = net.add(
            "conv_fusion_1",
            "Conv",
            x,
            "x_conv_fusion_1",
            params,
            at=at + 1,
            hasBias=True,
            **geometry(),
        )
        x = net.add("relu_fusion_1", "ReLU", x, "x_relu_fusion_1", at=at + 2, leak=0.0)
    replace_input(net, a, x, (name,))
    for stream in ("spatial", "temporal") if pool3d else ():
        layer = net.layer(f"pool5_{stream}")
        layer["name"], layer["type"] = f"pool3D5_{stream}", "dagnn.Pooling3D"
        block = layer["block"]
        layer["block"] = {
            "method": "max",
            "poolSize": row([*block["poolSize"].ravel(), 5]),
            "pad": row([*block["pad"].ravel(), 0, 0]),
            "stride": row([*block["stride"].ravel(), 2]),
        }
    return net
