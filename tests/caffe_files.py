"""Networks as Caffe has them: nodes with its names, a writer, a naive forward pass.

Everything here is written from Caffe's definitions and from the released network
descriptions, and knows nothing of zoo: names, order of the blobs, [N, C, H, W].
"""

import dataclasses
import itertools

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# --- the file ------------------------------------------------------------------------

_FIELD = descriptor_pb2.FieldDescriptorProto
_KINDS = {
    "string": _FIELD.TYPE_STRING,
    "uint32": _FIELD.TYPE_UINT32,
    "int32": _FIELD.TYPE_INT32,
    "int64": _FIELD.TYPE_INT64,
    "float": _FIELD.TYPE_FLOAT,
    "double": _FIELD.TYPE_DOUBLE,
    "bool": _FIELD.TYPE_BOOL,
}
# message: (label, kind, name, number), as in caffe.proto. "packed" may be turned off.
SCHEMA = {
    "BlobShape": ["packed int64 dim 1"],
    "BlobProto": [
        "optional int32 num 1",
        "optional int32 channels 2",
        "optional int32 height 3",
        "optional int32 width 4",
        "packed float data 5",
        "packed float diff 6",
        "optional BlobShape shape 7",
        "packed double double_data 8",
    ],
    "ConvolutionParameter": [
        "optional uint32 num_output 1",
        "optional bool bias_term 2",
        "repeated uint32 pad 3",
        "repeated uint32 kernel_size 4",
        "optional uint32 group 5",
        "repeated uint32 stride 6",
        "repeated uint32 dilation 18",
    ],
    "PoolingParameter": [
        "optional uint32 pool 1",
        "optional uint32 kernel_size 2",
        "optional uint32 stride 3",
        "optional uint32 pad 4",
        "optional bool ceil_mode 13",
    ],
    "BatchNormParameter": ["optional bool use_global_stats 1", "optional float eps 3"],
    "LayerParameter": [
        "optional string name 1",
        "optional string type 2",
        "repeated string bottom 3",
        "repeated string top 4",
        "repeated float loss_weight 5",
        "repeated BlobProto blobs 7",
        "optional ConvolutionParameter convolution_param 106",
        "optional PoolingParameter pooling_param 121",
        "optional BatchNormParameter batch_norm_param 139",
    ],
    "V1LayerParameter": [
        "repeated string bottom 2",
        "repeated string top 3",
        "optional string name 4",
        "optional int32 type 5",
        "repeated BlobProto blobs 6",
        "repeated float blobs_lr 7",
        "optional ConvolutionParameter convolution_param 10",
        "optional PoolingParameter pooling_param 19",
    ],
    "NetParameter": [
        "optional string name 1",
        "repeated V1LayerParameter layers 2",
        "repeated string input 3",
        "repeated int32 input_dim 4",
        "repeated LayerParameter layer 100",
    ],
}


def messages(packed=True):
    """{name: class} of the messages above, by Google's own implementation."""
    file = descriptor_pb2.FileDescriptorProto(
        name=f"caffe_{packed}.proto", package="caffe", syntax="proto2"
    )
    for name, rows in SCHEMA.items():
        message = file.message_type.add(name=name)
        for row in rows:
            label, kind, field, number = row.split()
            added = message.field.add(name=field, number=int(number))
            repeated = label != "optional"
            added.label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            if kind in _KINDS:
                added.type = _KINDS[kind]
            else:
                added.type, added.type_name = _FIELD.TYPE_MESSAGE, f".caffe.{kind}"
            if label == "packed" and packed:
                added.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"caffe.{name}")
        )
        for name in SCHEMA
    }


_V1 = {"Convolution": 4, "InnerProduct": 14, "Pooling": 17, "ReLU": 18, "Dropout": 6}
_V1 |= {"LRN": 15}
_POOLS = {"MAX": 0, "AVE": 1}


def write(
    path,
    nodes,
    name="net",
    *,
    old=False,
    packed=True,
    legacy=False,
    double=False,
    diff=0,
):
    """Writes nodes as a `.caffemodel`.

    Args:
        path: of the file. nodes: a list of `Node`.
        old: `layers` in place of `layer`, kinds being numbers. packed: numbers.
        legacy: num, channels, height and width in place of a shape.
        double: numbers in double precision.
        diff: 1 stores differences, too, as snapshots of a training may.
    """
    made = messages(packed)
    net = made["NetParameter"](name="net", input=["data"], input_dim=[1, 3, 224, 224])
    for node in nodes:
        layer = (net.layers if old else net.layer).add(
            name=node.name, bottom=node.bottoms, top=node.tops
        )
        layer.type = _V1[node.kind] if old else node.kind
        _settings(layer, node)
        for array in node.blobs:
            blob = layer.blobs.add()
            (blob.double_data if double else blob.data).extend(
                array.ravel().astype("float32").tolist()
            )
            blob.diff.extend([7.0] * (diff * array.size))
            if legacy:
                sizes = (1,) * (4 - array.ndim) + array.shape
                for field, size in zip(
                    ("num", "channels", "height", "width"), sizes, strict=True
                ):
                    setattr(blob, field, size)
            else:
                blob.shape.dim.extend(array.shape)
    path.write_bytes(net.SerializeToString())
    return path


def _settings(layer, node):
    s = node.settings
    if node.kind == "Convolution":
        p = layer.convolution_param
        p.num_output, p.bias_term = node.blobs[0].shape[0], len(node.blobs) > 1
        p.kernel_size.append(node.blobs[0].shape[-1])
        for key in ("pad", "stride", "dilation"):
            if key in s:
                getattr(p, key).append(s[key])
        if "group" in s:
            p.group = s["group"]
    elif node.kind == "Pooling":
        p = layer.pooling_param
        p.pool, p.kernel_size, p.stride = _POOLS[s["pool"]], s["kernel"], s["stride"]
        if "pad" in s:
            p.pad = s["pad"]
        if "ceil" in s:
            p.ceil_mode = s["ceil"]
    elif node.kind == "BatchNorm":
        layer.batch_norm_param.use_global_stats = True
        if "eps" in s:
            layer.batch_norm_param.eps = s["eps"]


# --- the networks --------------------------------------------------------------------


@dataclasses.dataclass
class Node:
    """A layer: what it reads, what it writes, its settings and its numbers."""

    name: str
    kind: str
    bottoms: list
    tops: list
    settings: dict = dataclasses.field(default_factory=dict)
    blobs: list = dataclasses.field(default_factory=list)


class Net:
    """Collects nodes; `random` draws their numbers."""

    def __init__(self, seed=0):
        self.random = np.random.default_rng(seed)
        self.nodes = []
        self.channels = {"data": 3}

    def add(self, name, kind, bottoms, top=None, blobs=(), **settings):
        """A node; returns the name of what it writes."""
        bottoms = [bottoms] if isinstance(bottoms, str) else list(bottoms)
        tops = top if isinstance(top, list) else [top or name]
        self.nodes.append(Node(name, kind, bottoms, tops, settings, list(blobs)))
        return tops[0]

    def conv(self, name, bottom, filters, size=1, bias=False, gain=2.0, **settings):
        """A convolution; the number of channels it reads is that of the last one."""
        channels = self.channels[bottom] // settings.get("group", 1)
        deviation = np.sqrt(gain / (channels * size * size))
        blobs = [self.random.normal(0, deviation, (filters, channels, size, size))]
        if bias:
            blobs.append(self.random.normal(0, 0.3, filters))
        self.channels[name] = filters
        return self.add(name, "Convolution", bottom, blobs=blobs, **settings)

    def batch_norm(self, name, x, **settings):
        """Statistics of many batches, their sums and the number to divide them by."""
        size, factor = self.channels[x], 999.5
        blobs = [
            factor * self.random.normal(0, 0.3, size),
            factor * self.random.uniform(0.5, 1.5, size),
            np.array([factor]),
        ]
        return self.add(name, "BatchNorm", x, x, blobs, **settings)

    def scale(self, name, x, gamma=1.0):
        """Gamma and beta."""
        size = self.channels[x]
        blobs = [self.random.normal(gamma, 0.1, size), self.random.normal(0, 0.2, size)]
        return self.add(name, "Scale", x, x, blobs)

    def relu(self, x):
        """In place, as everywhere in these networks."""
        return self.add(f"{x}_relu", "ReLU", x, x)


def resnet(net, units, width, *, bias=False, dilated=False):
    """He's ResNet; returns {stage: its last map}.

    Args:
        net: a `Net`. units: {stage: their letters}. width: of conv1.
        bias: of conv1, as in ResNet-50. dilated: as in detectors.
    """
    x = net.conv("conv1", "data", width, 7, bias, gain=2e-3, stride=2, pad=3)
    net.batch_norm("bn_conv1", x)
    x = net.relu(net.scale("scale_conv1", x))
    net.channels["pool1"] = width
    x = net.add("pool1", "Pooling", x, pool="MAX", kernel=3, stride=2)
    maps = {}

    def normalized(unit, branch, x, filters, size=1, gamma=1.0, **settings):
        x = net.conv(f"res{unit}_branch{branch}", x, filters, size, **settings)
        net.batch_norm(f"bn{unit}_branch{branch}", x)
        return net.scale(f"scale{unit}_branch{branch}", x, gamma)

    for stage, letters in units.items():
        inner = width * 2 ** (stage - 2)
        last = stage == 5 and dilated
        for letter in letters:
            unit = f"{stage}{letter}"
            stride = {"stride": 2} if stage > 2 and letter == "a" and not last else {}
            shortcut = x
            if letter == "a":
                shortcut = normalized(unit, "1", x, 4 * inner, **stride)
            y = net.relu(normalized(unit, "2a", x, inner, **stride))
            around = {"dilation": 2, "pad": 2} if last else {"pad": 1}
            y = net.relu(normalized(unit, "2b", y, inner, 3, **around))
            y = normalized(unit, "2c", y, 4 * inner, gamma=0.4)
            net.channels[f"res{unit}"] = 4 * inner
            x = net.relu(net.add(f"res{unit}", "Eltwise", [shortcut, y]))
        maps[stage] = x
    return maps


def resnext(net, units, width, groups, *, dilated=False):
    """ResNeXt "merge": units numbered through, normalisations merged into scales."""
    x = net.conv("conv1", "data", 64, 7, gain=2.0, stride=2, pad=3)
    x = net.relu(net.scale("conv1_scale", x))
    net.channels["pool1"] = 64
    x = net.add(
        "pool1", "Pooling", x, pool="MAX", kernel=3, stride=2, pad=1, ceil=False
    )
    number, maps = 0, {}

    def scaled(name, x, filters, size=1, gamma=1.0, **settings):
        x = net.conv(name, x, filters, size, **settings)
        return net.scale(f"{name}_scale", x, gamma)

    for stage, count in units.items():
        inner = width * 2 ** (stage - 2)
        last = stage == 5 and dilated
        for place in range(count):
            number += 1
            unit = f"resx{number}"
            stride = 2 if stage > 2 and place == 0 and not last else 1
            y = net.relu(scaled(f"{unit}_conv1", x, inner, stride=1, pad=0))
            around = {"dilation": 2, "pad": 2} if last else {"pad": 1}
            y = scaled(
                f"{unit}_conv2", y, inner, 3, stride=stride, group=groups, **around
            )
            y = scaled(f"{unit}_conv3", net.relu(y), 2 * inner, gamma=0.4)
            shortcut = x
            if place == 0:
                name = f"{unit}_match_conv"
                shortcut = scaled(name, x, 2 * inner, stride=stride, pad=0)
            name = f"{unit}_elewise"
            net.channels[name] = 2 * inner
            x = net.relu(net.add(name, "Eltwise", [shortcut, y]))
        maps[stage] = x
    return maps


def vgg(net, filters, fully, classes):
    """A VGG-M in small: normalised responses, pooling, fully connected layers.

    Args:
        net: a `Net`. filters: of conv1, conv2, ... fully: of fc6 and fc7.
        classes: of fc8.
    """
    x = "data"
    for number, count in enumerate(filters, start=1):
        x = net.relu(net.conv(f"conv{number}", x, count, 3, True, pad=1))
        if number < 3:
            net.channels[f"norm{number}"] = count
            x = net.add(f"norm{number}", "LRN", x, size=5, alpha=5e-4, beta=0.75, k=2)
        net.channels[f"pool{number}"] = count
        x = net.add(f"pool{number}", "Pooling", x, pool="MAX", kernel=2, stride=2)
    inputs = 4 * filters[-1]  # of 2 x 2 positions
    for name, outputs in (("fc6", fully[0]), ("fc7", fully[1]), ("fc8", classes)):
        weights = net.random.normal(0, np.sqrt(2 / inputs), (outputs, inputs))
        blobs = [weights, net.random.normal(0, 0.3, outputs)]
        x, inputs = net.add(name, "InnerProduct", x, blobs=blobs), outputs
        if name != "fc8":
            x = net.add(f"drop{name[-1]}", "Dropout", net.relu(x), x)
    return x


def classifier(net, x, classes, name="fc1000"):
    """Average of 7 x 7 and scores."""
    net.channels["pool5"] = net.channels[x]
    net.add("pool5", "Pooling", x, "pool5", pool="AVE", kernel=7, stride=1)
    shape = (classes, net.channels[x])
    blobs = [net.random.normal(0, 0.1, shape), net.random.normal(0, 0.5, classes)]
    return net.add(name, "InnerProduct", "pool5", blobs=blobs)


def detector(net, maps, classes, *, bins=7, reduced=512, name="rfcn_cls_ILSVRCvid"):
    """Head of D; `name` is that of the class maps."""
    conv5 = maps[5]
    x = net.conv("conv_new_1", conv5, reduced, 3, True, dilation=6, pad=6)
    x = net.relu(x)
    for layer, pooled, scores, dims in (
        (name, "psroipooled_cls_rois", "cls_score", classes + 1),
        ("rfcn_bbox", "psroipooled_loc_rois", "bbox_pred", 8),
    ):
        net.conv(layer, x, dims * bins * bins, bias=True, gain=0.5)
        net.add(pooled, "PSROIPooling", [layer, "rois"], dims=dims, bins=bins)
        net.add(f"ave_{scores}", "Average", pooled, scores)


def tracker(net, maps, *, bins=7, reach=8):
    """What D&T adds to D: correlations, and maps of displacement."""
    found = []
    for name, stage, step in (("corr", 5, 1), ("corr2", 3, 2), ("corr3", 4, 1)):
        frames = [f"{maps[stage]}_frame1", f"{maps[stage]}_frame2"]
        net.add(f"slice_{name}", "Slice", maps[stage], frames)
        net.add(name, "Correlation", frames, reach=reach, stride=step, step=step)
        net.channels[name] = (2 * (reach // step) + 1) ** 2
        found.append(name)
    net.add("corr_features", "Concat", found)
    both = ["rfcn_bbox_frame1", "rfcn_bbox_frame2"]
    net.add("rfcn_bbox_two_frame", "Slice", "rfcn_bbox", both)
    net.add("conv_new_1_corr", "Concat", [*both, "corr_features"], "rfcn_bbox_corr")
    boxes = net.channels["rfcn_bbox"]
    net.channels["rfcn_bbox_corr"] = 2 * boxes + sum(net.channels[n] for n in found)
    net.conv("rfcn_disp", "rfcn_bbox_corr", boxes, bias=True, gain=0.5)
    pooled = "psroipooled_rois_disp"
    net.add(pooled, "PSROIPooling", ["rfcn_disp", "rois_disp"], dims=8, bins=bins)
    net.add("ave_bbox_disp", "Average", pooled, "bbox_disp")


# --- the forward pass ----------------------------------------------------------------


def forward(nodes, **inputs):
    """Runs the nodes in order; {name: array} of everything they write last.

    Args:
        nodes: a list of `Node`. **inputs: "data" [N, 3, H, W] in blue, green, red, and
            "rois" [R, 5], image and x1, y1, x2, y2 in pixels from 0.
    """
    found = dict(inputs)
    for node in nodes:
        read = [found[name] for name in node.bottoms]
        written = _STEPS[node.kind](read, node)
        written = written if isinstance(written, list) else [written]
        found |= dict(zip(node.tops, written, strict=True))
    return found


def _convolution(read, node):
    (x,), (kernel, *bias) = read, node.blobs
    s = {"pad": 0, "stride": 1, "dilation": 1, "group": 1, **node.settings}
    filters, channels, size, _ = kernel.shape
    x = np.pad(x, ((0, 0), (0, 0), *((s["pad"],) * 2,) * 2))
    extent = s["dilation"] * (size - 1) + 1
    rows, columns = ((n - extent) // s["stride"] + 1 for n in x.shape[2:])
    y = np.zeros((len(x), filters, rows, columns))
    share = filters // s["group"]
    for group in range(s["group"]):
        out = slice(group * share, (group + 1) * share)
        part = x[:, group * channels : (group + 1) * channels]
        for a, b in itertools.product(range(size), repeat=2):
            taken = part[:, :, a * s["dilation"] :, b * s["dilation"] :]
            taken = taken[:, :, :: s["stride"], :: s["stride"]][:, :, :rows, :columns]
            y[:, out] += np.einsum("oc,nchw->nohw", kernel[out, :, a, b], taken)
    return y + bias[0][:, None, None] if bias else y


def _batch_norm(read, node):
    (x,), (mean, variance, factor) = read, node.blobs
    mean, variance = mean / factor, variance / factor
    deviation = np.sqrt(variance + node.settings.get("eps", 1e-5))
    return (x - mean[:, None, None]) / deviation[:, None, None]


def _scale(read, node):
    (x,), (gamma, beta) = read, node.blobs
    return x * gamma[:, None, None] + beta[:, None, None]


def _pooling(read, node):
    """Caffe's windows: as many as it takes, unless one begins in the padding."""
    (x,), s = read, {"pad": 0, "ceil": True, **node.settings}
    size, stride, pad = s["kernel"], s["stride"], s["pad"]
    counts = []
    for n in x.shape[2:]:
        room = (n + 2 * pad - size) / stride
        count = int(np.ceil(room) if s["ceil"] else np.floor(room)) + 1
        counts.append(count - (pad > 0 and (count - 1) * stride >= n + pad))
    y = np.zeros((*x.shape[:2], *counts))
    reduce = {"MAX": np.max, "AVE": np.mean}[s["pool"]]
    for i, j in itertools.product(*map(range, counts)):
        top, left = i * stride - pad, j * stride - pad
        window = x[:, :, max(top, 0) : top + size, max(left, 0) : left + size]
        y[:, :, i, j] = reduce(window, axis=(2, 3))
    return y


def _inner_product(read, node):
    (x,), (weights, bias) = read, node.blobs
    return x.reshape(len(x), -1) @ weights.T + bias


def _local_response(read, node):
    (x,), s = read, node.settings
    total = np.zeros_like(x)
    for channel in range(x.shape[1]):
        first, last = channel - s["size"] // 2, channel + s["size"] // 2 + 1
        total[:, channel] = (x[:, max(first, 0) : last] ** 2).sum(axis=1)
    return x / (s["k"] + s["alpha"] / s["size"] * total) ** s["beta"]


def _correlation(read, node):
    """1/C <f1(y, x), f2(y + dy, x + dx)>, dx the fast channel, zero outside."""
    (first, second), s = read, node.settings
    radius = s["reach"] // s["step"]
    _, channels, height, width = first.shape
    rows, columns = range(0, height, s["stride"]), range(0, width, s["stride"])
    y = np.zeros((1, (2 * radius + 1) ** 2, len(rows), len(columns)))
    shifts = itertools.product(range(-radius, radius + 1), repeat=2)
    for channel, (p, q) in enumerate(shifts):
        for (i, top), (j, left) in itertools.product(
            enumerate(rows), enumerate(columns)
        ):
            v, u = top + s["step"] * p, left + s["step"] * q
            if 0 <= v < height and 0 <= u < width:
                product = first[0, :, top, left] @ second[0, :, v, u]
                y[0, channel, i, j] = product / channels
    return y


def _ps_roi_pooling(read, node):
    """Means over bins of whole cells; channel (c k + i) k + j, [R, dims, k, k]."""
    (maps, rois), (dims, k) = read, (node.settings["dims"], node.settings["bins"])
    height, width = maps.shape[2:]
    y = np.zeros((len(rois), dims, k, k))
    for r, (image, *box) in enumerate(rois):
        x1, y1, x2, y2 = (np.floor(v + 0.5) for v in box)
        top, left, bottom, right = y1 / 16, x1 / 16, (y2 + 1) / 16, (x2 + 1) / 16
        size = max(bottom - top, 0.1) / k, max(right - left, 0.1) / k
        for c, i, j in itertools.product(range(dims), range(k), range(k)):
            rows, columns = (
                np.clip([np.floor(n * s + at), np.ceil((n + 1) * s + at)], 0, limit)
                for n, s, at, limit in (
                    (i, size[0], top, height),
                    (j, size[1], left, width),
                )
            )
            channel = (c * k + i) * k + j
            (a, b), (u, v) = rows.astype(int), columns.astype(int)
            bin_ = maps[int(image), channel, a:b, u:v]
            y[r, c, i, j] = bin_.mean() if bin_.size else 0.0
    return y


_STEPS = {
    "Convolution": _convolution,
    "BatchNorm": _batch_norm,
    "Scale": _scale,
    "Pooling": _pooling,
    "InnerProduct": _inner_product,
    "LRN": _local_response,
    "Correlation": _correlation,
    "PSROIPooling": _ps_roi_pooling,
    "ReLU": lambda read, node: np.maximum(read[0], 0),
    "Eltwise": lambda read, node: read[0] + read[1],
    "Concat": lambda read, node: np.concatenate(read, axis=1),
    "Slice": lambda read, node: [read[0][:1], read[0][1:]],
    "Average": lambda read, node: read[0].mean(axis=(2, 3)),
    "Dropout": lambda read, node: read[0],
}
