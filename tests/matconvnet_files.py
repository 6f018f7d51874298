"""Files as MatConvNet writes them: a DagNN in memory, and `write` to put it on disk.

Version 5 is written by scipy; 7.3 is HDF5 with MATLAB's conventions: a user block,
references, reversed axes, characters as uint16.
"""

import dataclasses
import itertools

import h5py
import numpy as np
import scipy.io

CLASSES = 5
_NUMBERS = itertools.count()  # of values in #refs#


class Cell(list):
    """A cell array, a row; plain lists are struct arrays."""


@dataclasses.dataclass
class Source:
    """A DagNN: layers as dicts of their fields, parameters by name, meta."""

    layers: list = dataclasses.field(default_factory=list)
    params: dict = dataclasses.field(default_factory=dict)
    meta: dict = dataclasses.field(default_factory=dict)
    rng: np.random.Generator = dataclasses.field(
        default_factory=lambda: np.random.default_rng(0)
    )

    def add(self, name, kind, inputs, outputs, params=(), at=None, **block):
        layer = {
            "name": name,
            "type": f"dagnn.{kind}",
            "inputs": Cell([inputs] if isinstance(inputs, str) else inputs),
            "outputs": Cell([outputs]),
            "params": Cell(params),
            "block": block,
        }
        self.layers.insert(len(self.layers) if at is None else at, layer)
        return outputs

    def layer(self, name):
        return next(x for x in self.layers if x["name"] == name)

    def index(self, name):
        return [x["name"] for x in self.layers].index(name)

    def normal(self, *shape, scale=None):
        fan_in = np.prod(shape[:-1])
        scale = np.sqrt(2 / fan_in) if scale is None else scale
        return self.rng.normal(0, scale, shape).astype("f4")

    def conv(self, name, x, shape, bias=False, names=None, **geometry):
        """A convolution, its parameters named as by the converter or as given."""
        weight, offset = names or (f"{name}_filter", f"{name}_bias")
        self.params[weight] = self.normal(*shape)
        if bias:
            self.params[offset] = self.normal(shape[-1], 1, scale=0.1)
        params = [weight, offset] if bias else [weight]
        block = {"size": row(shape), "hasBias": bias, **geometry}
        return self.add(name, "Conv", x, name, params, **block)

    def norm(self, name, x, channels, out, gamma=1.0, names=None):
        names = names or [f"{name}_{part}" for part in ("mult", "bias", "moments")]
        # Some deviations are so small that epsilon, which is in them, counts.
        deviation = np.exp(self.rng.uniform(np.log(0.005), np.log(1.5), channels))
        mean = self.rng.normal(0, 0.1, channels)
        values = (
            (self.rng.normal(gamma, 0.1, channels) * deviation)[:, None],
            self.rng.normal(0, 0.1, (channels, 1)),
            np.stack([mean, deviation], 1),
        )
        for key, value in zip(names, values, strict=True):
            self.params[key] = value.astype("f4")
        return self.add(
            name, "BatchNorm", x, out, names, numChannels=float(channels), epsilon=1e-5
        )

    def relu(self, name, x, out):
        return self.add(name, "ReLU", x, out, leak=0.0)


def row(values):
    return np.array(values, "f8").reshape(1, -1)


def geometry(stride=1, pad=(0, 0, 0, 0), dilate=1):
    return {
        "stride": row([stride] * 2), "pad": row(pad), "dilate": row([dilate] * 2),
    }  # fmt: skip


def meta(mean, channels=3, classes=CLASSES):
    """The meta of a network; an image of means varies over its pixels."""
    ramp = np.linspace(-20, 20, 224)[:, None, None]
    image = ramp + np.array(mean) if channels == 3 else np.full((1, 1, channels), 128.0)
    return {
        "classes": {
            "name": Cell(f"n{i:08d}" for i in range(classes)),
            "description": Cell(f"class {i}" for i in range(classes)),
        },
        "normalization": {
            "imageSize": row([224, 224, channels]),
            "averageImage": image.astype("f4"),
            "border": row([32, 32]),
            "interpolation": "bilinear",
        },
    }


# --- writing -------------------------------------------------------------------------


def as_dag(net):
    """The struct that `saveobj` makes, under the name `net`."""
    return {
        "vars": [{"name": n, "precious": False} for n in ("input", "label")],
        "params": [
            {"name": k, "value": v, "learningRate": 1.0, "weightDecay": 1.0}
            for k, v in net.params.items()
        ],
        "layers": net.layers,
        "meta": net.meta,
    }


KINDS = {"LRN": "normalize", "SoftMax": "softmax", "Conv": "conv", "ReLU": "relu",
         "Pooling": "pool", "DropOut": "dropout", "Loss": "softmaxloss"}  # fmt: skip


def as_simple(net, early=False):
    """The same as a SimpleNN: a cell array of layers that hold their weights.

    Args:
        early: as before MatConvNet 1.0, filters and biases, no meta.
    """
    layers = Cell()
    for layer in net.layers:
        if layer["name"] == "top1err":
            continue
        weights = [net.params[name] for name in layer["params"]]
        fields = {"type": KINDS[layer["type"].removeprefix("dagnn.")]}
        if not layer["name"].startswith("layer"):
            fields["name"] = layer["name"]
        if weights and early:
            fields |= dict(zip(("filters", "biases"), weights, strict=True))
        elif weights:
            fields["weights"] = Cell(weights)
        block = dict(layer["block"])
        if "poolSize" in block:
            block["pool"] = block.pop("poolSize")
        layers.append(fields | block)
    return (
        {"layers": layers, **net.meta}
        if early
        else {"layers": layers, "meta": net.meta}
    )


def write(path, variables, version="5"):
    """Writes {name: value} as a MATLAB file of version "5" or "7.3"."""
    if version == "5":
        scipy.io.savemat(
            path, {k: _level5(v) for k, v in variables.items()}, do_compression=True
        )
        return path
    with h5py.File(path, "w", userblock_size=512) as file:
        references = file.create_group("#refs#")
        for name, value in variables.items():
            _hdf5(file, name, value, references)
    text = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jan  9 10:00:00 "
    text += b"2017 HDF5 schema 1.00 ."
    with open(path, "r+b") as file:
        file.write(text.ljust(116) + bytes(8) + b"\x00\x02IM")
    return path


def _level5(value):
    if isinstance(value, Cell):
        cells = np.empty((1, len(value)), object)
        for i, item in enumerate(value):
            cells[0, i] = _level5(item)
        return cells
    if isinstance(value, list):
        table = np.empty((1, len(value)), [(name, object) for name in value[0]])
        for i, item in enumerate(value):
            table[0, i] = tuple(_level5(v) for v in item.values())
        return table
    if isinstance(value, dict):
        return {k: _level5(v) for k, v in value.items()} or np.zeros((0, 0))
    return value


def _hdf5(group, name, value, references):
    """Writes a value as MATLAB does; its class is an attribute."""
    if isinstance(value, dict):
        item = group.create_group(name)
        for key, field in value.items():
            _hdf5(item, key, field, references)
        kind = "struct"
    elif isinstance(value, list) and not isinstance(value, Cell):
        item, kind = group.create_group(name), "struct"
        for key in value[0]:
            column = [_reference(x[key], references) for x in value]
            item.create_dataset(
                key, data=np.array(column, object)[:, None], dtype=h5py.ref_dtype
            )
    else:
        item, kind = _dataset(group, name, value, references)
    item.attrs["MATLAB_class"] = np.bytes_(kind)


def _dataset(group, name, value, references):
    if isinstance(value, Cell):
        column = [_reference(x, references) for x in value]
        kind, data, dtype = "cell", np.array(column, object)[:, None], h5py.ref_dtype
    elif isinstance(value, str):
        kind, dtype = "char", "u2"
        data = np.frombuffer(value.encode("utf-16-le"), "u2")[:, None]
    else:
        data = np.atleast_2d(value)
        kind = {"f4": "single", "f8": "double", "b1": "logical"}[data.dtype.str[1:]]
        data, dtype = data.T, "u1" if kind == "logical" else data.dtype
    if data.size:
        item = group.create_dataset(name, data=data, dtype=dtype)
    else:
        shape = data.T.shape if kind not in ("cell", "char") else (0, 0)
        item = group.create_dataset(name, data=np.array(shape, "u8"))
        item.attrs["MATLAB_empty"] = np.uint8(1)
    if kind == "char":
        item.attrs["MATLAB_int_decode"] = np.int32(2)
    return item, kind


def _reference(value, references):
    name = f"r{next(_NUMBERS)}"
    _hdf5(references, name, value, references)
    return references[name].ref
