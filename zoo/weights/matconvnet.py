"""Networks of MatConvNet, those released with the thesis among them, as weights.

Layers are found by what they are and how they are wired, names serving where the two
say nothing, since names have changed between releases (a classifier may be called
fc1000, prediction or layer38). What the file says of the architecture comes along: how
its streams connect, where it filters and pools over time, become options of the model,
and strides, padding and windows are compared with the model's (`Weights.geometry`).

Three things differ from Keras. The moments of a batch normalisation hold the deviation
with epsilon inside, 1x1x3 kernels over time are [1 3 C F], and some convolutions before
a normalisation have a bias, which goes into its mean, exactly.

Source: thesis chapters 3 to 5 and 7 in the author's MATLAB code; Vedaldi and Lenc 2015.
"""

import numpy as np
from absl import logging

from zoo.models import vgg
from zoo.models.inputs import CHANNELS, RELEASED_OFFSET
from zoo.models.resnet import STEMS
from zoo.weights import matconvnet_network
from zoo.weights.conversion import Conversion, Row
from zoo.weights.matconvnet_options import options_of
from zoo.weights.matconvnet_trunk import require_residual
from zoo.weights.matconvnet_wiring import Wiring, fail
from zoo.weights.transfer import Weights

EPSILON = 1e-5  # of `zoo.layers.SubBatchNormalization`
STEM = "release"
# Colours this far from the model's mean are said; the other makes another network.
CLOSE, FAR = 0.05, 2.0
ACCEPTED = {
    *("BatchNorm", "Concat", "Conv", "Conv3D", "ConvTime", "DropOut", "LRN", "Loss"),
    *("Mul", "PoolTime", "Pooling", "Pooling3D", "ReLU", "Scale", "SoftMax", "Sum"),
}


def convert(path, info, options=None):
    """The weights of a file of MatConvNet under the names of the zoo.

    Args:
        path: of a SimpleNN or DagNN `.mat` file.
        info: `ModelInfo` of the model they are for.
        options: of the caller; none is needed, since a file has its architecture.

    Returns:
        A `Conversion`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such file format, a network that the zoo has no place for, or
            one of another number of streams than the model.

    Source: thesis chapters 3 to 5 and 7; Vedaldi and Lenc 2015.
    """
    network = matconvnet_network.read(path)
    wiring = Wiring(network)
    _require_known(network)
    _require_streams(wiring, info)
    found = options_of(wiring, info)
    if wiring.resnet:
        require_residual(wiring)
    reader = _Reader(network, wiring)
    reader.match_mean(info)
    found |= reader.flow_options(info)
    _require_options(network, found, info)
    weights = Weights(str(path), reader.ordered(), found, geometry=reader.geometry)
    unused = tuple(name for name in network.params if name not in reader.used)
    return Conversion(weights, tuple(reader.rows), unused, network.facts)


def _require_known(network):
    unknown = sorted({x.kind for x in network.layers} - ACCEPTED)
    if unknown:
        named = [x.name for x in network.layers if x.kind in unknown]
        fail(
            network,
            f"layers of kind {', '.join(unknown)} ({', '.join(named[:3])}), accepted "
            f"are {', '.join(sorted(ACCEPTED))}",
        )
    leaks = [x.name for x in network.layers if any(network.setting(x, "leak", 0))]
    if leaks:
        fail(network, f"leaky ReLUs ({', '.join(leaks[:3])}), which the zoo has not")


def _require_streams(wiring, info):
    wanted = 2 if set(info.inputs) >= set(CHANNELS) else 1
    found = 2 if wiring.two_streams else 1
    if wanted != found:
        fail(
            wiring.network,
            f"{found} stream{'s' * (found > 1)}, {info.name} has {wanted}: give a "
            "model of as many, or for two streams in two files a dict "
            "{'appearance': file, 'motion': file}",
        )


def _require_options(network, found, info):
    foreign = {k: v for k, v in found.items() if k not in info.options}
    if foreign:
        fail(
            network,
            f"a network with {', '.join(f'{k}={v!r}' for k, v in foreign.items())}; "
            f"{info.name} has the options {', '.join(info.options) or 'none'}. Name "
            "the architecture that it is",
        )


class _Reader:
    """Goes through the layers; `layers` collects {our layer: {variable: array}}."""

    def __init__(self, network, wiring):
        self.network, self.wiring = network, wiring
        self.layers, self.rows, self.used, self.geometry = {}, [], set(), {}
        self.biases = {}  # that go into the mean of a normalisation
        for layer in sorted(network.layers, key=lambda x: x.kind == "BatchNorm"):
            take = getattr(self, f"_{layer.kind.lower()}", None)
            if take:
                take(layer)

    def ordered(self):
        """{our layer: [array, ...]} in the order of the variables (Keras)."""
        return {name: list(arrays.values()) for name, arrays in self.layers.items()}

    def _put(self, name, variable, array, source, transform):
        if variable in self.layers.setdefault(name, {}):
            fail(self.network, f"two layers that are {name}, of one parameter {source}")
        self.layers[name][variable] = np.ascontiguousarray(array)
        self.rows.append(Row(source, f"{name}/{variable}", array.shape, transform))

    def _array(self, layer, index, axes):
        name = self._param(layer, index)
        self.used.add(name)
        return self.network.array(name, axes)

    def _vector(self, layer, index):
        name = self._param(layer, index)
        self.used.add(name)
        return self.network.vector(name)

    def _param(self, layer, index):
        if len(layer.params) <= index:
            fail(
                self.network,
                f"layer {layer.name} of kind {layer.kind} with {len(layer.params)} "
                f"parameters, {index + 1} at least are needed",
            )
        return layer.params[index]

    def _conv(self, layer):
        name = self.wiring.name(layer)
        if name is None:
            return  # its parameters are left over, and said to be
        kernel, source = self._array(layer, 0, 4), layer.params[0]
        if self.wiring.is_classifier(layer):
            if kernel.shape[:2] != (1, 1):
                fail(self.network, f"a classifier {layer.name} of {kernel.shape}")
            self._put(name, "kernel", kernel[0, 0], source, "HWIO -> IO")
        elif self.wiring.is_fusion(layer):
            self._put(name, "kernel", kernel[None], source, "HWIO -> THWIO")
            self.geometry[name] = {"kernel_size": kernel.shape[0], "taps": 1}
        else:
            self._put(name, "kernel", kernel, source, "HWIO")
            self.geometry[name] = self._window(layer, kernel.shape[:2])
        self._bias(layer, name, kernel.shape[-1])

    def _bias(self, layer, name, filters):
        norm = self.wiring.norm_after(layer)
        if len(layer.params) < 2:
            if not self.wiring.is_residual(layer) and not norm:
                zeros = np.zeros(filters, "float32")
                self._put(name, "bias", zeros, "(none)", "zeros")
            return
        bias = self._vector(layer, 1)
        if not norm:
            self._put(name, "bias", bias, layer.params[1], "as it is")
            return
        mean = f"{norm}/moving_mean"
        self.rows.append(Row(layer.params[1], mean, bias.shape, "subtracted"))
        self.biases[norm] = bias

    def _batchnorm(self, layer):
        name = self.wiring.name(layer)
        if name is None:
            return
        gamma, beta = self._vector(layer, 0), self._vector(layer, 1)
        moments = self._array(layer, 2, 2)
        if moments.shape != (len(gamma), 2):
            fail(
                self.network,
                f"moments {layer.params[2]} of shape {moments.shape}, "
                f"{(len(gamma), 2)} needed: a mean and a deviation per channel",
            )
        mean, deviation = moments.T
        if not (deviation > 0).all():
            fail(self.network, f"deviations in {layer.params[2]} that are not positive")
        bias = self.biases.get(name, np.float32(0))
        variance = deviation.astype("float64") ** 2 - EPSILON
        self._put(name, "gamma", gamma, layer.params[0], "as it is")
        self._put(name, "beta", beta, layer.params[1], "as it is")
        source = layer.params[2]
        self._put(name, "moving_mean", mean - bias, source, "column 1")
        variance = variance.astype("float32")
        self._put(name, "moving_variance", variance, source, "column 2^2 - eps")

    def _convtime(self, layer):
        name = self.wiring.name(layer)
        if name is None:
            return
        kernel = self._array(layer, 0, 4)
        if kernel.shape[0] != 1:
            fail(self.network, f"a filter over time {layer.name} of {kernel.shape}")
        self._put(name, "kernel", kernel[0], layer.params[0], "1TIO -> TIO")
        self._bias(layer, name, kernel.shape[-1])
        taps, pad = kernel.shape[1], self._ends(layer)
        padding = {(0, 0): "valid", (taps // 2,) * 2: "same"}.get(pad[1])
        if pad[0] != (0, 0) or padding is None:
            fail(self.network, f"a filter over time {layer.name} with padding {pad}")
        self.geometry[name] = {
            "taps": taps,
            "strides": self._pair(layer, "stride")[1],
            "padding": padding,
        }

    def _conv3d(self, layer):
        name = self.wiring.name(layer)
        if name is None:
            return
        kernel = self._array(layer, 0, 5)
        height, width, taps = kernel.shape[:3]
        ends = self._ends(layer, 3)
        same = ends == [(k // 2, k // 2) for k in (height, width, taps)]
        if height != width or not same or set(self._pair(layer, "stride", 3)) != {1}:
            fail(
                self.network,
                f"a 3-D convolution {layer.name} of {kernel.shape} with padding "
                f"{ends}; accepted are square ones of stride 1 that keep the size",
            )
        kernel = kernel.transpose(2, 0, 1, 3, 4)
        self._put(name, "kernel", kernel, layer.params[0], "HWTIO -> THWIO")
        self._bias(layer, name, kernel.shape[-1])
        self.geometry[name] = {"kernel_size": height, "taps": taps}

    def _scale(self, layer):
        name = self.wiring.name(layer)
        if name is None:
            return
        scale = self._vector(layer, 0)
        self._put(name, "scale", scale, layer.params[0], "flattened")
        self._put(name, "bias", self._vector(layer, 1), layer.params[1], "flattened")

    def _pooling(self, layer):
        size, strides = self._pair(layer, "poolSize"), self._pair(layer, "stride")
        ends = self._ends(layer)
        square = all(a == b for a, b in (size, strides, ends))
        average = self.network.is_average(layer)
        if not square or (average and (strides[0], ends[0]) != (1, (0, 0))):
            fail(
                self.network,
                f"a pooling {layer.name} of window {size}, stride {strides}, padding "
                f"{ends}; accepted are square ones, averages of stride 1",
            )
        self.geometry[self.wiring.name(layer)] = (
            {"window": size[0]}
            if average
            else {"pool_size": size[0], "strides": strides[0], "padding": ends[0]}
        )

    def _pooling3d(self, layer):
        size, strides = (self._pair(layer, k, 3) for k in ("poolSize", "stride"))
        ends = self._ends(layer, 3)
        if size[0] != size[1] or strides[0] != strides[1] or ends[2] != (0, 0):
            fail(self.network, f"a 3-D pooling {layer.name} of {size}, padding {ends}")
        name = self.wiring.name(layer)
        self.geometry[name] = {
            "pool_size": size[0],
            "strides": strides[0],
            "padding": ends[0],
        }
        self.geometry[f"{name}_time"] = {"pool_size": size[2], "strides": strides[2]}

    def _pooltime(self, layer):
        size, strides = self._pair(layer, "poolSize"), self._pair(layer, "stride")
        if size[0] != 1 or self._ends(layer) != [(0, 0), (0, 0)]:
            fail(self.network, f"a pooling over time {layer.name} of window {size}")
        if not self.network.is_average(layer):
            self.geometry[self.wiring.name(layer)] = {
                "pool_size": size[1],
                "strides": strides[1],
            }

    def _lrn(self, layer):
        values = self.network.setting(layer, "param", ())
        if len(values) != 4:
            fail(self.network, f"a normalisation {layer.name} with param {values}")
        names = ("depth", "kappa", "alpha", "beta")
        self.geometry[self.wiring.name(layer)] = dict(zip(names, values, strict=True))

    def _window(self, layer, size):
        strides, dilation = self._pair(layer, "stride"), self._pair(layer, "dilate")
        ends = [end for pair in self._ends(layer) for end in pair]
        if len(set(ends)) > 1 or any(a != b for a, b in (size, strides, dilation)):
            fail(
                self.network,
                f"a convolution {layer.name} of {size}, stride {strides}, padding "
                f"{ends}; accepted are square ones, padded alike on all sides",
            )
        return {
            "kernel_size": size[0],
            "strides": strides[0],
            "padding": ends[0],
            "dilation_rate": dilation[0],
        }

    def _pair(self, layer, field, count=2):
        """A setting as whole numbers per axis, None for infinite."""
        values = self.network.setting(layer, field, 1)
        values = values * count if len(values) == 1 else values
        if len(values) != count or any(v % 1 for v in values if v != np.inf):
            fail(self.network, f"layer {layer.name} with {field} {values}")
        return tuple(None if v == np.inf else int(v) for v in values)

    def _ends(self, layer, count=2):
        """Padding as [(before, after), ...] per axis."""
        values = self.network.setting(layer, "pad", 0)
        if len(values) == 1:
            values = values * 2 * count
        elif len(values) == count:
            values = [v for v in values for _ in range(2)]
        if len(values) != 2 * count or any(v % 1 for v in values):
            fail(self.network, f"layer {layer.name} with padding {values}")
        values = list(map(int, values))
        return list(zip(values[::2], values[1::2], strict=True))

    def match_mean(self, info):
        """Makes the file's mean colour the model's (thesis 3.3.5).

        Where the first layer is not padded its bias can make up for a difference; a
        small one is said, a large one refused.
        """
        mean = self.network.facts.get("averageImage", ())
        colours = len(mean) in (CHANNELS["rgb"], sum(CHANNELS.values()))
        if not colours or set(info.inputs) == {"flow"}:
            return
        mean = np.array(mean[-CHANNELS["rgb"] :])
        ours = STEMS[STEM].mean if self.wiring.resnet else vgg.MEAN
        difference = np.array(ours) - mean
        if np.abs(difference).max() <= CLOSE:
            return
        prefix = "appearance_" if self.wiring.two_streams else ""
        names = [f"{prefix}{name}" for name in ("conv1", "conv1_1")]
        first = next((name for name in names if name in self.layers), None)
        arrays = self.layers.get(first, {})
        if arrays and self.geometry[first]["padding"] == 0 and "bias" in arrays:
            change = arrays["kernel"].sum(axis=(0, 1)).T @ difference
            arrays["bias"] = (arrays["bias"] + change).astype("float32")
            row = Row("averageImage", f"{first}/bias", arrays["bias"].shape, "added")
            self.rows.append(row)
            return
        said = (
            f"{self.network.path}: its mean colour {np.round(mean, 3).tolist()} is not "
            f"that of {info.name}, {list(ours)}"
        )
        if np.abs(difference).max() > FAR:
            raise ValueError(f"{said}; it was trained on other images than the zoo's.")
        logging.warning("%s; scores will differ a little.", said)

    @property
    def sees_flow(self):
        """Whether a first layer takes stacks of flow (thesis 2.3)."""
        first = [self.layers.get(f"{p}conv1", {}) for p in ("", "motion_")]
        kernels = [layer["kernel"] for layer in first if "kernel" in layer]
        return any(k.shape[2] == CHANNELS["flow"] for k in kernels)

    def flow_options(self, info):
        """How zero motion is represented: stem of ResNets, flow_offset of VGGs."""
        mean = self.network.facts.get("averageImage", ())
        flow = np.array(mean[: CHANNELS["flow"]] if len(mean) > 3 else [])
        offset = 127.5 - float(flow.mean()) if flow.size else RELEASED_OFFSET
        if np.ptp(flow if flow.size else 0) > CLOSE:
            fail(
                self.network, f"a mean of flow that differs by channel, {flow.tolist()}"
            )
        if self.wiring.resnet:
            if abs(offset - RELEASED_OFFSET) > CLOSE:
                fail(self.network, f"a mean of flow of {127.5 - offset:g}, not 128")
            stem = STEM if self.sees_flow else "caffe"
            return {"stem": stem} if "stem" in info.options else {}
        return {"flow_offset": offset} if "flow" in info.inputs else {}
