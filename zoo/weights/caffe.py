"""Caffe's ResNets, ResNeXts, VGGs and the released detectors, as weights of the zoo.

Layers of the zoo carry the names of these files, so names are rules and no lists:

- kernels [filters, channels, k, k] become [k, k, channels, filters]; the first layer
  reads blue, green, red there and red, green, blue here;
- "BatchNorm" holds sums of means and variances and, third, what to divide them by; its
  epsilon is the file's, and a difference from ours moves into the variances; a bias of
  the convolution before it moves into the means, which is exact;
- "Scale" is gamma and beta; where it stands alone, as in ResNeXt-101 "merge", the
  normalisation has been merged into it: mean 0, and variance 1 less epsilon;
- fully connected layers of VGGs become convolutions over the same features.

A file states strides and dilations; they must be those of our network.

Source: He et al. 2015 and Xie et al. 2017 in their Caffe releases; the `.caffemodel`
files of Feichtenhofer et al. 2017 (Detect & Track).
"""

import math
import re

import numpy as np

from zoo.weights import caffemodel
from zoo.weights.conversion import Conversion, Table
from zoo.weights.transfer import DETECTOR_HEAD, Weights

EPSILON = 1e-5  # of Caffe's normalisation and of ours
MEASURES = ("stride", "dilation")
# {layer of a file: ours}. The detector on ResNet-50 has the shorter name.
HEADS = {
    "conv_new_1": "conv_new_1",
    "rfcn_cls_ILSVRCvid": DETECTOR_HEAD,
    "rfcn_cls": DETECTOR_HEAD,
    "rfcn_bbox": "rfcn_bbox",
    "rfcn_disp": "rfcn_disp",
}
PRODUCT = "rfcn_disp"  # a convolution 1x1, in our network a product of matrices
_UNIT = re.compile(r"res(?P<stage>[2-5])(?P<unit>[a-z]\d*)_branch(?P<branch>1|2[abc])")
_RESX = re.compile(r"resx(?P<unit>\d+)_(?P<part>match_conv|conv[123])")


def convert(path, info, options=None):
    """The weights in a `.caffemodel` under the names of the zoo.

    Args:
        path: of the file. info: `ModelInfo` of the model that is to have them.
        options: of the architecture, as asked for; those of the file must be the same.

    Returns:
        A `Conversion`; its options are the stem "caffe", and of detectors the variant
        "release".

    Raises:
        FileNotFoundError: no such file.
        ValueError: no `.caffemodel`, one of a network that the zoo does not have, or
            one whose layers have other shapes, strides or numbers of blobs.

    Source: He et al. 2015; Xie et al. 2017; Feichtenhofer et al. 2017.
    """
    name, layers = caffemodel.read(path)
    table = _Caffe(layers)
    family = next((f for first, f in _FAMILIES.items() if first in layers), None)
    if family is None:
        names = [layer.name for layer in layers.values() if layer.blobs]
        raise ValueError(
            f"{path} is the network {name!r} of Caffe with the layers "
            f"{', '.join(names[:3])}, ...; known are ResNets (res2a_branch2a), "
            "ResNeXts (resx1_conv1) and VGGs (conv1_1, or conv1 and fc6)."
        )
    try:
        found = family(table)
        _heads(table)
    except ValueError as error:
        raise ValueError(f"{path}, for {info.name}: {error}") from error
    if "rfcn_bbox" in table.layers and "variant" in info.options:
        found["variant"] = "release"
    require_same(path, found, options or {})
    weights = Weights(str(path), table.layers, found)
    facts = {"producer": "Caffe", "network": name, "num_classes": weights.num_classes}
    return Conversion(weights, tuple(table.rows), table.unused, facts)


class _Caffe(Table):
    """The layers of a network of Caffe, as far as rules for them are known."""

    @property
    def unused(self):
        """Names of the source's tensors that no rule has taken."""
        return tuple(
            f"{layer.name}[{i}]"
            for layer in self.source.values()
            for i in range(len(layer.blobs))
            if layer.name not in self.used
        )

    def take(self, name, *counts):
        """The blobs of a layer, of which there must be one of `counts`."""
        blobs = self.source[name].blobs
        if len(blobs) not in counts:
            raise ValueError(
                f"layer {name} has {len(blobs)} blobs, expected were "
                f"{' or '.join(map(str, counts))}"
            )
        self.used.add(name)
        return blobs

    def kernel(self, name, target=None):
        """The kernel of a convolution; returns its filters and its bias or None."""
        blobs = self.take(name, 1, 2)
        kernel, transform = blobs[0], "OIHW -> HWIO"
        if kernel.ndim != 4:
            raise ValueError(f"layer {name} has a kernel of shape {kernel.shape}")
        kernel = kernel.transpose(2, 3, 1, 0)
        if name in _FIRST_LAYERS and kernel.shape[2] == 3:
            kernel, transform = kernel[:, :, ::-1], f"{transform}, BGR -> RGB"
        if target == PRODUCT and kernel.shape[:2] == (1, 1):
            kernel, transform = kernel[0, 0], "OI11 -> IO"
        self.add(target or name, "kernel", kernel, f"{name}[0]", transform)
        filters = kernel.shape[-1]
        bias = vector(name, 1, blobs[1], filters) if len(blobs) > 1 else None
        return filters, bias

    def norm(self, conv, bias, names, filters):
        """The normalisation after a convolution, of "BatchNorm", "Scale" or both.

        Args:
            conv, bias: of the convolution. names: (BatchNorm, Scale, ours).
            filters: of the convolution.
        """
        norm, scale, target = names
        if norm not in self.source and scale not in self.source:
            raise ValueError(f"layer {conv} has no normalisation, {norm} or {scale}")
        found = {**self._affine(scale, filters), **self._moments(norm, filters)}
        if bias is not None:
            mean, source, how = found["moving_mean"]
            found["moving_mean"] = (
                mean - bias,
                f"{source}, {conv}[1]".removeprefix(", "),
                f"{how} - bias",
            )
        for variable, row in found.items():
            self.add(target, variable, *row)

    def _affine(self, name, filters):
        """{variable: (array, source, transform)} of gamma and beta."""
        if name not in self.source:
            how = "normalised without a scale"
            return {
                "gamma": (np.ones(filters), "", f"1, {how}"),
                "beta": (np.zeros(filters), "", f"0, {how}"),
            }
        blobs = self.take(name, 2)
        return {
            variable: (vector(name, i, blobs[i], filters), f"{name}[{i}]", "")
            for i, variable in enumerate(("gamma", "beta"))
        }

    def _moments(self, name, filters):
        """{variable: (array, source, transform)} of the moving mean and variance."""
        if name not in self.source:
            variance = np.full(filters, 1 - EPSILON)
            how = "merged into the scale"
            return {
                "moving_mean": (np.zeros(filters), "", f"0, {how}"),
                "moving_variance": (variance, "", f"1 - epsilon, {how}"),
            }
        blobs = self.take(name, 3)
        mean, variance = (vector(name, i, blobs[i], filters) for i in (0, 1))
        factor = vector(name, 2, blobs[2], 1)[0]
        if factor == 0:
            raise ValueError(
                f"layer {name} has statistics of no batch, its third blob is 0: the "
                "network was never trained"
            )
        epsilon = self.source[name].settings.get("epsilon", EPSILON)
        more, how = np.float32(epsilon - EPSILON), "variance / factor"
        how = how if not more else f"{how} + {epsilon:g} - {EPSILON:g}"
        return {
            "moving_mean": (mean / factor, f"{name}[0], {name}[2]", "mean / factor"),
            "moving_variance": (variance / factor + more, f"{name}[1], {name}[2]", how),
        }

    def dense(self, name, target):
        """A fully connected layer at every position."""
        kernel = matrix(name, self.take(name, 1, 2)[0]).T
        self.add(target, "kernel", kernel, f"{name}[0]", "OI -> IO")
        self.bias(name, target, kernel.shape[-1])

    def bias(self, name, target, filters):
        """The bias of a layer that has been taken, zero where it has none."""
        blobs = self.source[name].blobs
        if len(blobs) > 1:
            bias = vector(name, 1, blobs[1], filters)
            self.add(target, "bias", bias, f"{name}[1]", "")
        else:
            self.add(target, "bias", np.zeros(filters), "", "0, the layer has no bias")


def require_same(path, found, asked):
    """Raises ValueError where options were asked for that the file contradicts.

    Shapes would not tell: a network with another stem takes the same weights.

    Args:
        path: of the file. found: its options. asked: by the user.

    Source: He et al. 2015, releases.
    """
    for option, value in found.items():
        if asked.get(option, value) != value:
            raise ValueError(
                f"{path} was trained with {option}={value!r}, asked for was "
                f"{option}={asked[option]!r}; leave the option out."
            )


def vector(name, index, blob, size):
    """A blob of `size` numbers, whatever its legacy shape.

    Raises:
        ValueError: it has another number of them.

    Source: BlobProto of Caffe (Jia et al. 2014).
    """
    if blob.size != size:
        raise ValueError(
            f"blob {index} of layer {name} has shape {blob.shape}, expected were "
            f"{size} numbers"
        )
    return blob.reshape(size)


def matrix(name, blob):
    """The weights [outputs, inputs] of a fully connected layer (Jia et al. 2014).

    Raises:
        ValueError: they are no matrix.
    """
    if blob.ndim < 2 or blob.size != math.prod(blob.shape[-2:]):
        raise ValueError(f"layer {name} has weights of shape {blob.shape}, no matrix")
    return blob.reshape(blob.shape[-2:])


def _resnet(table):
    """The trunk of a ResNet, under names that are ours already."""
    for name in [n for n in table.source if n == "conv1" or _UNIT.fullmatch(n)]:
        rest = f"_{name}" if name == "conv1" else name.removeprefix("res")
        filters, bias = table.kernel(name)
        table.norm(name, bias, (f"bn{rest}", f"scale{rest}", f"bn{rest}"), filters)
    dilated = "rfcn_bbox" in table.source

    def measures(name):
        unit = _UNIT.fullmatch(name)
        if not unit:
            return (2, 1) if name == "conv1" else None
        begins = unit["unit"] == "a" and unit["branch"] in ("1", "2a")
        widened = unit["stage"] == "5" and unit["branch"] == "2b"
        return _measures(int(unit["stage"]), begins, widened, dilated)

    _require_measures(table.source, measures, pool1_pad=0)
    return {"stem": "caffe"}


def _resnext(table):
    """The trunk of a ResNeXt, whose normalisations are merged into scales."""
    for name in [n for n in table.source if n == "conv1" or _RESX.fullmatch(n)]:
        filters, bias = table.kernel(name)
        scale = f"{name}_scale"
        table.norm(name, bias, (f"{name}_bn", scale, scale), filters)
    dilated = "rfcn_bbox" in table.source
    units = [(n, int(m["unit"])) for n in table.source if (m := _RESX.fullmatch(n))]
    # Of the four stages; a projection marks the first unit of each.
    first = [number for name, number in units if name.endswith("_match_conv")]

    def measures(name):
        unit = _RESX.fullmatch(name)
        if not unit:
            return (2, 1) if name == "conv1" else None
        stage = 1 + sum(int(unit["unit"]) >= number for number in first)
        begins = int(unit["unit"]) in first and unit["part"] in ("conv2", "match_conv")
        widened = stage == 5 and unit["part"] == "conv2"
        return _measures(stage, begins, widened, dilated)

    _require_measures(table.source, measures, pool1_pad=1)
    return {"stem": "caffe"}


def _measures(stage, begins, widened, dilated):
    """Stride and dilation; detectors keep stride 16 and dilate stage 5 (8.3.2)."""
    strided = begins and stage in ((3, 4) if dilated else (3, 4, 5))
    return (2 if strided else 1, 2 if widened and dilated else 1)


def _vgg(table):
    """A VGG, its fully connected layers as convolutions."""
    channels = 0
    for name in [n for n in table.source if re.fullmatch(r"conv\d(_\d)?", n)]:
        channels, _ = table.kernel(name)
        table.bias(name, name, channels)
    for name in ("fc6", "fc7"):
        if name in table.source:
            kernel = matrix(name, table.take(name, 1, 2)[0])
            side = math.isqrt(kernel.shape[1] // channels)
            if side * side * channels != kernel.shape[1]:
                raise ValueError(
                    f"layer {name} sees {kernel.shape[1]} features, no square of "
                    f"{channels} channels"
                )
            kernel = kernel.reshape(-1, channels, side, side).transpose(2, 3, 1, 0)
            table.add(name, "kernel", kernel, f"{name}[0]", "OI -> HWIO")
            channels = kernel.shape[-1]
            table.bias(name, name, channels)
    return {}


# {a layer that only this family has: function}
_FAMILIES = {
    "resx1_conv1": _resnext,
    "res2a_branch2a": _resnet,
    "conv1_1": _vgg,
    "fc6": _vgg,
}
_FIRST_LAYERS = ("conv1", "conv1_1")


def _heads(table):
    """Classifier of images, and what stands on the trunk of a detector."""
    if len({"rfcn_cls", "rfcn_cls_ILSVRCvid"} & set(table.source)) == 2:
        raise ValueError("it has both rfcn_cls and rfcn_cls_ILSVRCvid")
    for name, target in HEADS.items():
        if name not in table.source:
            continue
        filters, _ = table.kernel(name, target)
        table.bias(name, target, filters)
    left = [
        layer.name
        for layer in table.source.values()
        if layer.kind == "InnerProduct" and f"{layer.name}[0]" in table.unused
    ]
    if len(left) == 1:  # whatever it is called after fine-tuning
        table.dense(left[0], "fc8" if "fc6" in table.source else "fc")


def _require_measures(layers, expected, pool1_pad):
    """Strides and dilations of the file are those of our network."""
    stated = {
        name: tuple(layer.settings.get(key, 1) or 1 for key in MEASURES)
        for name, layer in layers.items()
        if layer.kind == "Convolution"
    }
    for name, found in stated.items():
        wanted = expected(name)
        if wanted and found != wanted:
            raise ValueError(
                f"layer {name} has {_named(found)} in the file and {_named(wanted)} in "
                "our network; it is another network of the same names"
            )
    pool1 = layers.get("pool1")
    if pool1 and pool1.settings.get("pad", 0) != pool1_pad:
        raise ValueError(
            f"pool1 pads {pool1.settings.get('pad', 0)} in the file and {pool1_pad} in "
            "our network"
        )


def _named(measures):
    return ", ".join(f"{k} {v}" for k, v in zip(MEASURES, measures, strict=True))
