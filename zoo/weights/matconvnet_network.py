"""Networks of MatConvNet as they stand in a file: layers, parameters, wiring.

MatConvNet writes two kinds. A SimpleNN is a cell array of layers, one after the other,
that hold their weights; a DagNN is a struct of layers that name their inputs, outputs
and parameters. Both become a `Network`, the former under the names that MatConvNet's
own conversion gives.

Source: Vedaldi and Lenc 2015, "MatConvNet"; the format of `dagnn.DagNN.saveobj`.
"""

import dataclasses
import functools

import numpy as np

from zoo.weights import matfile

# Types of layers of a SimpleNN and the classes of a DagNN that do the same.
SIMPLE = {
    "conv": "Conv", "pool": "Pooling", "relu": "ReLU", "normalize": "LRN", "lrn": "LRN",
    "dropout": "DropOut", "softmax": "SoftMax", "softmaxloss": "Loss",
    "bnorm": "BatchNorm",
}  # fmt: skip
VARIABLES = ("net", "layers", "params", "meta", "normalization", "classes")


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A layer of a DagNN (Vedaldi and Lenc 2015)."""

    name: str
    kind: str  # class without "dagnn."
    inputs: tuple  # names of variables
    outputs: tuple
    params: tuple  # names of parameters
    block: dict  # settings of the class


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of MatConvNet.

    Attributes:
        path: of the file, for messages.
        layers: its `Layer`s in the order of the file.
        params: {name: value} of its parameters, as read.
        facts: what the file says of itself: format, producer, classes, imageSize,
            averageImage (spatial mean per channel), as far as it does.

    Source: Vedaldi and Lenc 2015.
    """

    path: str
    layers: tuple
    params: dict
    facts: dict

    def producer(self, variable):
        """The `Layer` whose output a variable is, None of an input of the network."""
        return self._producers.get(variable)

    def sources(self, layer):
        """The layers that a layer reads, None in place of inputs of the network."""
        return [self.producer(variable) for variable in layer.inputs]

    def source(self, layer):
        """The layer that a layer reads first, None of an input of the network."""
        return self.producer(layer.inputs[0]) if layer.inputs else None

    def setting(self, layer, field, default):
        """A setting of a layer's block as a list of floats.

        Raises:
            ValueError: it is no array of numbers, or holds NaN.
        """
        value = layer.block.get(field, default)
        array = np.ravel(value) if not isinstance(value, dict | str) else None
        if array is None or array.dtype.kind not in "fiub" or np.isnan(array).any():
            raise ValueError(
                f"{self.path}: layer {layer.name} of kind {layer.kind} has "
                f"{field}={value!r}, numbers are needed."
            )
        return array.astype(float).tolist()

    def is_average(self, layer):
        """Whether a pooling takes the mean of its windows, not the maximum.

        Raises:
            ValueError: it takes neither.
        """
        method = layer.block.get("method", "max")
        if not isinstance(method, str) or method not in ("max", "avg"):
            raise ValueError(
                f"{self.path}: pooling {layer.name} by {method!r}, accepted are 'max' "
                "and 'avg'."
            )
        return method == "avg"

    def readers(self, layer):
        """The layers that read a layer's output."""
        found = {x: None for out in layer.outputs for x in self._readers.get(out, ())}
        return [self.layers[index] for index in found]

    def readers_of(self, variable, layer):
        """Layers that read a variable of a layer, once for each time that they do."""
        if self.producer(variable) is not layer:
            return []
        return [self.layers[index] for index in self._readers.get(variable, ())]

    @functools.cached_property
    def _producers(self):
        return {out: layer for layer in self.layers for out in layer.outputs}

    @functools.cached_property
    def _readers(self):
        readers = {}
        for index, layer in enumerate(self.layers):
            for variable in layer.inputs:
                readers.setdefault(variable, []).append(index)
        return readers

    def array(self, name, axes):
        """A parameter as float32 with that many axes, MATLAB's trailing ones added.

        Raises:
            ValueError: it is missing, of another kind than floats, not finite, or of
                more axes.
        """
        value = self.params.get(name)
        if value is None:
            raise ValueError(f"{self.path}: parameter {name!r} is missing.")
        if isinstance(value, matfile.Unread):
            raise ValueError(
                f"{self.path}: parameter {name!r} is a MATLAB {value.kind}, not an "
                "array of single; in MATLAB, gather it and save the network again."
            )
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
            found = getattr(value, "dtype", type(value).__name__)
            raise ValueError(
                f"{self.path}: parameter {name!r} holds {found}, accepted are single "
                "and double; the file was not written by MatConvNet."
            )
        if not np.isfinite(value).all():
            raise ValueError(
                f"{self.path}: parameter {name!r} holds NaN or infinite values; the "
                "training diverged or the file is broken. Use an earlier epoch."
            )
        shape = value.shape + (1,) * (axes - value.ndim)
        if any(size != 1 for size in shape[axes:]):
            raise ValueError(
                f"{self.path}: parameter {name!r} has shape {value.shape}, at most "
                f"{axes} axes are accepted."
            )
        return np.asarray(value.reshape(shape[:axes]), "float32")

    def vector(self, name):
        """A parameter of one number per channel; its axes do not matter."""
        return self.array(name, 4).ravel()


def read(path):
    """The `Network` in a MATLAB file.

    Args:
        path: of a file that MatConvNet or its converters wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no MATLAB file, or none with a network; a layer without one of its
            fields.

    Source: Vedaldi and Lenc 2015.
    """
    variables = matfile.read(path, VARIABLES)
    root = variables.get("net", variables)
    if isinstance(root, matfile.Unread):
        raise ValueError(
            f"{path}: its network is a MATLAB {root.kind}, which is never decoded; in "
            "MATLAB, save(file, '-struct', 'net') after net = net.saveobj()."
        )
    if not isinstance(root, dict) or "layers" not in root:
        raise ValueError(
            f"{path} holds no network of MatConvNet: neither a variable net with a "
            f"field layers nor a variable layers, of {', '.join(variables) or 'none'}."
        )
    layers = _several(root["layers"])
    if not layers or not all(isinstance(layer, dict) for layer in layers):
        raise ValueError(f"{path}: layers is no array of structs, or empty.")
    dag = all("block" in layer for layer in layers)
    found, params = (_dag if dag else _simple)(path, root, layers)
    facts = {
        "format": "DagNN" if dag else "SimpleNN",
        "producer": variables.header,
        **_facts({**root, **_struct(root.get("meta"))}),
    }
    network = Network(str(path), tuple(found), params, facts)
    _require_order(network)
    return network


def _require_order(network):
    """Raises ValueError where a layer reads what depends on its own output."""
    waiting = {id(x): len([s for s in network.sources(x) if s]) for x in network.layers}
    ready = [x for x in network.layers if not waiting[id(x)]]
    for layer in ready:
        for variable in set(layer.outputs):
            for reader in network.readers_of(variable, layer):
                waiting[id(reader)] -= 1
                if not waiting[id(reader)]:
                    ready.append(reader)
    if len(ready) < len(network.layers):
        circle = next(x.name for x in network.layers if waiting[id(x)])
        raise ValueError(
            f"{network.path}: layer {circle} depends on its own output; the file is no "
            "network of MatConvNet."
        )


def _several(value):
    """A list of structs or of cells; one alone is a list of one."""
    return value if isinstance(value, list) else [value]


def _struct(value):
    return value if isinstance(value, dict) else {}


def _names(value):
    """A cell array of names as a tuple; an empty one may be any empty value."""
    if isinstance(value, str):
        return (value,) if value else ()
    return tuple(x for x in value if isinstance(x, str) and x)


def _field(path, index, layer, name):
    if name not in layer:
        what = layer.get("name", f"number {index}")
        raise ValueError(
            f"{path}: layer {what} has no field {name!r}, only {', '.join(layer)}; "
            "the file is no network of MatConvNet."
        )
    return layer[name]


def _dag(path, root, layers):
    """The layers of a DagNN and its parameters by name."""
    found = []
    for index, layer in enumerate(layers, start=1):
        name, kind, inputs, outputs, params = (
            _field(path, index, layer, field)
            for field in ("name", "type", "inputs", "outputs", "params")
        )
        kind = str(kind).removeprefix("dagnn.")
        names = (_names(x) for x in (inputs, outputs, params))
        found.append(Layer(str(name), kind, *names, _struct(layer["block"])))
    params = {}
    for index, param in enumerate(_several(root.get("params", [])), start=1):
        name = str(_field(path, index, _struct(param), "name"))
        params[name] = _field(path, index, param, "value")
    return found, params


def _simple(path, root, layers):
    """The layers of a SimpleNN as a chain, their weights as parameters by name."""
    found, params = [], {}
    for index, layer in enumerate(layers, start=1):
        kind = str(_field(path, index, layer, "type"))
        name = layer.get("name", "")
        name = name if isinstance(name, str) and name else f"layer{index}"
        weights = layer.get("weights")
        if not isinstance(weights, list) or not weights:  # as of early versions
            weights = [layer[k] for k in ("filters", "biases") if k in layer]
        own = dict(zip((f"{name}f", f"{name}b", f"{name}x"), weights, strict=False))
        own = {k: v for k, v in own.items() if np.size(v)}
        if kind in ("conv", "bnorm") and not own:
            _field(path, index, layer, "weights")
        params.update(own)
        block = {**layer, "poolSize": layer.get("pool")}
        ends = ((f"x{index - 1}",), (f"x{index}",))
        found.append(Layer(name, SIMPLE.get(kind, kind), *ends, tuple(own), block))
    return found, params


def _facts(root):
    """What a network says of its classes and of the images it takes."""
    facts = {}
    classes = _struct(root.get("classes"))
    for field in ("description", "name"):
        names = classes.get(field)
        if isinstance(names, list) and all(isinstance(n, str) for n in names) and names:
            facts["classes"] = tuple(names)
            break
    image = _struct(root.get("normalization"))
    size, mean = image.get("imageSize"), image.get("averageImage")
    if isinstance(size, np.ndarray):
        facts["imageSize"] = tuple(int(n) for n in size.ravel())
    if isinstance(mean, np.ndarray) and mean.size and mean.dtype.kind in "fui":
        # A number per channel, or an image of which the zoo takes the mean.
        image = mean.ravel()[None] if mean.ndim < 3 else mean.reshape(-1, mean.shape[2])
        facts["averageImage"] = tuple(float(x) for x in image.mean(axis=0))
    return facts
