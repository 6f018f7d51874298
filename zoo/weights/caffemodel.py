"""Caffe's `.caffemodel`: the layers of a network, their settings and their numbers.

Read by field numbers alone, without Caffe. Files of both generations are known: `layer`
and the older `layers`, blobs with a shape and those with num, channels, height and
width, numbers packed or not, in single or in double precision.

Source: message NetParameter of Caffe (Jia et al. 2014) and of the fork of Feichtenhofer
et al. 2017, whose field numbers these are.
"""

import dataclasses
import math
import mmap
from pathlib import Path
from typing import NamedTuple

import numpy as np

from zoo.weights import wire

# Fields of NetParameter, by one of which a file begins, and their kinds.
_TOP = {
    **dict.fromkeys((1, 2, 3, 6, 8, 100), wire.BYTES),
    **dict.fromkeys((4, 5, 7), wire.VARINT),
}


class _Generation(NamedTuple):
    """Field numbers of a layer, and names of the kinds that it has as numbers."""

    name: int
    kind: int
    blobs: int
    convolution: int
    pooling: int
    batch_norm: int
    kinds: dict


_GENERATIONS = {
    100: _Generation(1, 2, 7, 106, 121, 139, {}),
    2: _Generation(
        4, 5, 6, 10, 19, -1, {4: "Convolution", 14: "InnerProduct", 17: "Pooling"}
    ),
}
_V0_LAYER = 1  # in a layer of the older generation: one of the oldest
# {field: setting}; height stands for both axes where they are given apart.
_CONVOLUTION = {3: "pad", 5: "group", 6: "stride", 9: "pad", 13: "stride"}
_CONVOLUTION |= {18: "dilation"}
_POOLING = {1: "method", 2: "kernel", 3: "stride", 4: "pad", 12: "whole", 13: "ceil"}
_BATCH_NORM = {3: "epsilon"}
_LEGACY_SHAPE = (1, 2, 3, 4)  # num, channels, height, width


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer of a network.

    Attributes:
        name: its name. kind: "Convolution", "BatchNorm", "Scale", "InnerProduct" ...
        blobs: arrays of its numbers, float32, [filters, channels, height, width].
        settings: of convolutions "stride", "pad", "dilation" and "group", of poolings
            "kernel", "stride", "pad", of normalisations "epsilon": those that the file
            states; Caffe leaves out what has its default.

    Source: LayerParameter of Caffe (Jia et al. 2014).
    """

    name: str
    kind: str
    blobs: tuple
    settings: dict


def recognises(path):
    """Whether a file begins as a `.caffemodel` does.

    Args:
        path: of an existing file.

    Source: NetParameter of Caffe (Jia et al. 2014).
    """
    with open(path, "rb") as file:
        start = memoryview(file.read(16))
    try:
        number, kind, _ = wire.tag(start)
    except ValueError:
        return False
    return _TOP.get(number) == kind


def read(path):
    """The name of the network in a file, and its layers.

    Args:
        path: of a `.caffemodel`.

    Returns:
        (name, {layer name: `Layer`}), in the order of the file. The arrays are views of
        the file where it stores them as float32; it must not change meanwhile.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a network of Caffe, a truncated one, one without numbers, or one
            whose shapes and numbers disagree.

    Source: NetParameter of Caffe (Jia et al. 2014).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a .caffemodel file.")
    _require_network(path)
    with open(path, "rb") as file:
        whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    try:
        name, layers = _network(whole)
    except ValueError as error:
        raise ValueError(
            f"{path} is no readable .caffemodel: {error}. Download it again."
        ) from error
    if not any(layer.blobs for layer in layers.values()):
        raise ValueError(
            f"{path}, the network {name!r} of Caffe, holds no weights; give the "
            ".caffemodel and not its description."
        )
    return name, layers


def _require_network(path):
    if recognises(path):
        return
    with open(path, "rb") as file:
        start = file.read(24)
    what = ""
    if start.startswith(b"\x89HDF"):
        what = " That is HDF5; let Caffe write with snapshot_format: BINARYPROTO."
    elif start.lstrip()[:1] == b"<":
        what = " That looks like a web page, as dead links give one."
    elif start[:1].isalpha():
        what = " That is text; the .caffemodel beside the .prototxt has the weights."
    raise ValueError(
        f"{path} is no .caffemodel, a NetParameter of Caffe; it begins with "
        f"{start!r}.{what}"
    )


def _network(message):
    name, layers = "", {}
    for number, _, value in wire.fields(message):
        if number == 1:
            name = _text(value)
        elif number in _GENERATIONS:
            layer = _layer(_message(value), _GENERATIONS[number])
            if layer.blobs and layer.name in layers:
                raise ValueError(f"it has two layers {layer.name!r}")
            layers[layer.name] = layer
    return name, layers


def _message(value):
    """A value that has to be a message or a text."""
    if not isinstance(value, memoryview):
        raise ValueError("a number stands where a text or a message belongs")
    return value


def _text(value):
    return bytes(_message(value)).decode("utf-8", "replace")


def _layer(message, fields):
    name, kind, blobs, settings = "", "", [], {}
    tables = {
        fields.convolution: _CONVOLUTION,
        fields.pooling: _POOLING,
        fields.batch_norm: _BATCH_NORM,
    }
    for number, form, value in wire.fields(message):
        if number == fields.name:
            name = _text(value)
        elif number == fields.kind:
            named = fields.kinds and form == wire.VARINT
            kind = fields.kinds.get(value, str(value)) if named else _text(value)
        elif number == fields.blobs:
            blobs.append(_message(value))
        elif number in tables:
            settings |= _settings(_message(value), tables[number])
        elif fields.kinds and number == _V0_LAYER and form == wire.BYTES:
            raise ValueError(
                "it has the form of 2013; Caffe's upgrade_net_proto_binary renews it"
            )
    try:
        return Layer(name, kind, tuple(map(_blob, blobs)), settings)
    except ValueError as error:
        raise ValueError(f"layer {name!r}: {error}") from error


def _settings(message, table):
    found = {}
    for number, kind, value in wire.fields(message):
        if number in table:
            if kind == wire.BYTES:  # repeated and packed: of the first axis
                value = [*_varints(value), 0][0]
            elif kind != wire.VARINT:
                value = float(_numbers(value, kind, "<f4")[0])
            found.setdefault(table[number], value)
    return found


def _varints(message):
    """Numbers of a packed field."""
    at = 0
    while at < len(message):
        value, at = wire.varint(message, at)
        yield value


def _blob(message):
    """The array of a BlobProto, float32."""
    parts, shape, legacy = {5: [], 8: []}, None, {}
    for number, kind, value in wire.fields(message):
        if number in parts:
            parts[number].append(_numbers(value, kind, {5: "<f4", 8: "<f8"}[number]))
        elif number == 7:
            shape = _shape(_message(value))
        elif number in _LEGACY_SHAPE and kind == wire.VARINT:
            legacy[number] = value
    if shape is None:
        shape = tuple(legacy.get(number, 0) for number in _LEGACY_SHAPE)
    values = [part for both in parts.values() for part in both]
    count = sum(map(len, values))
    if not values or count != math.prod(shape):
        raise ValueError(f"a blob of shape {shape} holds {count} numbers")
    array = values[0] if len(values) == 1 else np.concatenate(values)
    return array.astype("float32", copy=False).reshape(shape)


def _numbers(value, kind, dtype):
    if kind == wire.BYTES:
        if len(value) % np.dtype(dtype).itemsize:
            raise ValueError(f"{len(value)} bytes are no whole number of {dtype}")
        return np.frombuffer(value, dtype)
    if kind == wire.VARINT or value.shape[1] != np.dtype(dtype).itemsize:
        raise ValueError("its numbers are of another type than float or double")
    return np.ascontiguousarray(value).view(dtype)[:, 0]


def _shape(message):
    found = []
    for number, kind, value in wire.fields(message):
        if number == 1:
            found += _varints(value) if kind == wire.BYTES else [value]
    return tuple(found)
