"""Files of the format safetensors: a header of JSON, then the numbers.

Source: the format's own description (Hugging Face 2022): eight bytes of length, the
header {name: {dtype, shape, data_offsets}}, and the bytes of all tensors without gaps.
"""

import json
import math
from pathlib import Path

import numpy as np

DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",  # the upper half of a float32
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
MAX_HEADER = 100_000_000
"""Bytes of a header, by the format's own reader."""


def recognises(path):
    """Whether a file begins as safetensors do: a length, and JSON (Hugging Face 2022).

    Args:
        path: of an existing file.
    """
    path = Path(path)
    with open(path, "rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    return start[8:] == b"{" and length <= path.stat().st_size - 8


def read(path):
    """The tensors of a file by name, and what it says of itself.

    Args:
        path: of a `.safetensors` file.

    Returns:
        ({name: array}, {key: text}); bfloat16 becomes float32. The arrays are views of
        the file where it stores them as they are; it must not change meanwhile.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not of this format, truncated, or tensors that overlap, leave gaps
            or reach beyond the end.

    Source: Hugging Face 2022.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a .safetensors file.")
    if not recognises(path):
        raise ValueError(
            f"{path} is no .safetensors file: it does not begin with the length of a "
            "header and the header, or ends within. Download it again."
        )
    try:
        return _tensors(path)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        what = str(error) or type(error).__name__
        raise ValueError(
            f"{path} is no readable .safetensors file: {what}. Download it again."
        ) from error


def _tensors(path):
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            raise ValueError(f"a header of {length} bytes, at most are {MAX_HEADER}")
        header = json.loads(file.read(length))
    facts = header.pop("__metadata__", {})
    begin = 8 + length
    room = path.stat().st_size - begin
    places = sorted((*entry["data_offsets"], name) for name, entry in header.items())
    _require_whole(places, room)
    if not room:
        return {}, facts
    data = np.memmap(path, "u1", "r", begin, (room,))
    found = {
        name: _array(name, header[name], data[first:last])
        for first, last, name in places
    }
    return {name: found[name] for name in header}, facts


def _require_whole(places, room):
    """Tensors lie one behind the other, from the first byte to the last."""
    at = 0
    for first, last, name in places:
        if first != at or last < first:
            raise ValueError(f"tensor {name} lies at {first} to {last}, due was {at}")
        at = last
    if at != room:
        raise ValueError(f"its tensors have {at} bytes, {room} are there")


def _array(name, entry, data):
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    if dtype not in DTYPES:
        raise ValueError(
            f"tensor {name} has the type {dtype}; accepted are {', '.join(DTYPES)}"
        )
    if not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"tensor {name} has the shape {shape}")
    size = np.dtype(DTYPES[dtype]).itemsize * math.prod(shape)
    if size != len(data):
        raise ValueError(f"tensor {name} {shape} has {len(data)} bytes, not {size}")
    array = np.frombuffer(data, DTYPES[dtype]).reshape(shape)
    if dtype == "BF16":
        return (array.astype("<u4") << 16).view("<f4")
    return array
