"""MATLAB files (.mat) as plain Python values: versions 5 to 7, and 7.3, which is HDF5.

An array of numbers is a NumPy array with MATLAB's axes, a row of characters a str, a
cell array a list in column order, a struct a dict and a struct array that is not 1 x 1
a list of dicts. Objects, function handles, sparse and complex arrays become `Unread`:
they are named, never decoded, so nothing in a file is ever executed. Sizes are compared
with what the file holds before anything is allocated, and links of HDF5 to other files
are not followed.

Source: "MAT-File Level 5 File Format", MathWorks; HDF5 files as MATLAB writes them.
"""

import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

LIMIT = 4 << 30  # bytes of a file, and of all arrays read from it
EACH = 1 << 14  # bytes that a value of HDF5 counts beside its numbers
DEPTH = 64  # cells in structs in cells ...
MOST_PACKED = 1100  # bytes that one byte of a compressed array can stand for
HDF5 = b"\x89HDF\r\n\x1a\n"
HEADER, USER_BLOCK = 128, 512

# Types of elements and classes of arrays of version 5, by number.
STORAGE = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8",
    13: "u8", 16: "u1", 17: "u2", 18: "u4",
}  # fmt: skip
MATRIX, COMPRESSED, UTF8 = 14, 15, 16
CELL, STRUCT, CHARACTERS, OPAQUE = 1, 2, 4, 17
NUMBERS = {
    6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4",
    14: "i8", 15: "u8",
}  # fmt: skip
OTHERS = {3: "object", 5: "sparse array", 16: "function handle", OPAQUE: "object"}
COMPLEX, LOGICAL = 0x0800, 0x0200


class Unread(NamedTuple):
    """Stands for a value that is not decoded (ours)."""

    kind: str  # "object", "function handle", "sparse array", "complex array"


class Variables(dict):
    """What was read by name; `header` is the text the producer left (ours)."""

    header = ""


def read(path, names=None):
    """The variables of a MATLAB file.

    The version is told by the content, not by the name of the file.

    Args:
        path: of the file.
        names: of the variables wanted, None for all; the others are passed over.

    Returns:
        A `Variables`, {name: value}.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no MATLAB file of a version known here, a truncated or damaged one,
            or one that claims to hold more than fits.

    Source: the two formats, see the module.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a .mat file.")
    if path.stat().st_size > LIMIT:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, at most {LIMIT}.")
    with open(path, "rb") as file:
        start = file.read(USER_BLOCK + len(HDF5))
    reader = _Hdf5 if _is_hdf5(start) else _Level5
    if reader is _Level5 and start[124:128] not in (b"\x00\x01IM", b"\x01\x00MI"):
        raise ValueError(_not_matlab(path, start))
    try:
        found = reader(path).variables(names)
    except _DAMAGE as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(_broken(path, reason)) from error
    found.header = start[:116].split(b"\x00")[0].decode("latin-1").strip()
    return found


def is_matlab(start):
    """Whether a file that starts with these 520 bytes is MATLAB's (the formats)."""
    level5 = start[124:128] in (b"\x00\x01IM", b"\x01\x00MI")
    return level5 or start[USER_BLOCK : USER_BLOCK + len(HDF5)] == HDF5


def _is_hdf5(start):
    return HDF5 in (start[: len(HDF5)], start[USER_BLOCK : USER_BLOCK + len(HDF5)])


def _not_matlab(path, start):
    what = f"it begins with {start[:24]!r}"
    if start.startswith(b"MATLAB 7.3"):
        what = "its header says version 7.3, but no HDF5 follows"
    elif start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        what = "it is a page of HTML, as servers send in place of a missing file"
    return (
        f"{path} is no MATLAB file of version 5 to 7.3: {what}; such files begin with "
        "b'MATLAB 5.0 MAT-file' or b'MATLAB 7.3 MAT-file'. Download it again."
    )


def _broken(path, reason):
    return f"{path} is a damaged or truncated MATLAB file: {reason}. Download it again."


class _Broken(Exception):
    """The file contradicts itself; caught by `read`, which names the file."""


# What reading a damaged file can end in, h5py's errors among them.
_DAMAGE = (
    *(_Broken, struct.error, zlib.error, OSError, KeyError, ValueError, TypeError),
    *(RuntimeError, OverflowError),
)


class _Budget:
    """Bytes of arrays that may still be read."""

    def __init__(self):
        self.left = LIMIT

    def spend(self, size):
        self.left -= size
        if self.left < 0:
            raise _Broken(f"its arrays would take more than {LIMIT} bytes")


class _Level5(_Budget):
    """Reader of versions 5 to 7: tagged elements, each variable compressed or not."""

    def __init__(self, path):
        super().__init__()
        self.data = memoryview(Path(path).read_bytes())
        self.order = "<" if self.data[126:128] == b"IM" else ">"

    def variables(self, names):
        found, position = Variables(), HEADER
        while position < len(self.data):
            kind, body, position = self._element(self.data, position, padded=False)
            if kind == COMPRESSED:
                body = self._inflated(body, names)
            elif kind != MATRIX:
                raise _Broken(f"an element of type {kind} among its variables")
            name = None if body is None else self._name(body)
            if name and (names is None or name in names):
                found[name] = self._matrix(body)
        return found

    def _element(self, data, position, padded=True):
        """(type, content, position of the next) of the element that starts there."""
        kind, size = struct.unpack_from(f"{self.order}II", data, position)
        if kind >> 16:  # up to four bytes in the tag itself
            kind, size, start, end = kind & 0xFFFF, kind >> 16, position + 4, None
            end = position + 8
            if size > 4:
                raise _Broken(f"a small element of {size} bytes")
        else:
            start = position + 8
            end = start + (-(-size // 8) * 8 if padded else size)
        if start + size > len(data):
            raise _Broken(
                f"an element of {size} bytes where {max(0, len(data) - start)} are left"
            )
        return kind, data[start : start + size], end

    def _inflated(self, body, names):
        """The matrix in a compressed element, None if it is not one of the wanted."""
        inflate = zlib.decompressobj()
        start = inflate.decompress(body, 4096)
        kind, size = struct.unpack_from(f"{self.order}II", start)
        if kind != MATRIX:
            raise _Broken(f"a compressed element of type {kind}")
        if names is not None and self._name(memoryview(start)[8:]) not in names:
            return None
        self.spend(size)
        rest = inflate.decompress(inflate.unconsumed_tail, max(1, size + 8))
        whole = memoryview(start + rest)[8 : 8 + size]
        if len(whole) != size:
            raise _Broken(f"a variable of {size} bytes ends after {len(whole)}")
        return whole

    def _name(self, body):
        kind, _, position = self._flags(body)
        if kind != OPAQUE:
            position = self._element(body, position)[2]  # the dimensions
        return bytes(self._element(body, position)[1]).decode("latin-1")

    def _flags(self, body):
        """(class, flags, position of what follows) of a matrix."""
        _, content, position = self._element(body, 0)
        (flags,) = struct.unpack_from(f"{self.order}I", content)
        return flags & 0xFF, flags, position

    def _matrix(self, body, depth=0):
        if depth > DEPTH:
            raise _Broken(f"values nested more than {DEPTH} deep")
        if not len(body):
            return np.zeros((0, 0))
        kind, flags, position = self._flags(body)
        if kind in OTHERS or kind not in (CELL, STRUCT, CHARACTERS, *NUMBERS):
            return Unread(OTHERS.get(kind, f"array of class {kind}"))
        if flags & COMPLEX:
            return Unread("complex array")
        _, dimensions, position = self._element(body, position)
        shape = np.frombuffer(dimensions, f"{self.order}i4").tolist()
        _, _, position = self._element(body, position)  # the name
        count = _count(shape)
        if kind == CELL:
            return self._values(body, position, count, depth)[0]
        if kind == STRUCT:
            return self._structs(body, position, count, depth)
        if not count:
            return "" if kind == CHARACTERS else np.zeros(shape, NUMBERS[kind])
        storage, content, _ = self._element(body, position)
        if kind == CHARACTERS:
            return self._text(storage, content, shape)
        return self._numbers(storage, content, shape, NUMBERS[kind], flags)

    def _values(self, body, position, count, depth):
        if 8 * count > len(body) - position:
            raise _Broken(f"{count} values in {len(body) - position} bytes")
        values = []
        for _ in range(count):
            kind, content, position = self._element(body, position)
            if kind != MATRIX:
                raise _Broken(f"an element of type {kind} in a cell or struct")
            values.append(self._matrix(content, depth + 1))
        return values, position

    def _structs(self, body, position, count, depth):
        _, length, position = self._element(body, position)
        (length,) = struct.unpack_from(f"{self.order}i", length)
        _, text, position = self._element(body, position)
        if length < 1 and len(text):
            raise _Broken(f"names of fields of {length} bytes")
        fields = [
            bytes(text[i : i + length]).split(b"\x00")[0].decode("latin-1")
            for i in range(0, len(text), max(1, length))
        ]
        values, _ = self._values(body, position, count * len(fields), depth)
        found = [
            dict(zip(fields, values[i * len(fields) :], strict=False))
            for i in range(count)
        ]
        return found[0] if count == 1 else found

    def _numbers(self, storage, content, shape, dtype, flags):
        stored = self._stored(storage, content)
        if len(stored) != _count(shape):
            raise _Broken(f"{len(stored)} numbers in an array of {shape}")
        self.spend(len(stored) * np.dtype(dtype).itemsize)
        dtype = bool if flags & LOGICAL else dtype
        return stored.astype(dtype, copy=False).reshape(shape, order="F")

    def _stored(self, storage, content):
        if storage not in STORAGE:
            raise _Broken(f"numbers of type {storage}")
        dtype = np.dtype(f"{self.order}{STORAGE[storage]}")
        if len(content) % dtype.itemsize:
            raise _Broken(f"{len(content)} bytes of numbers of {dtype.itemsize}")
        return np.frombuffer(content, dtype)

    def _text(self, storage, content, shape):
        if storage == UTF8:
            return _rows(bytes(content).decode(), shape)
        return _rows("".join(map(chr, self._stored(storage, content))), shape)


class _Hdf5(_Budget):
    """Reader of version 7.3: datasets with reversed axes, references for cells."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def variables(self, names):
        with h5py.File(self.path) as self.file:
            return Variables(
                (name, self._value(self._member(self.file, name)))
                for name in self.file
                if not name.startswith("#") and (names is None or name in names)
            )

    def _member(self, group, name):
        """A member of the file itself; links to other files are not followed."""
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            return None
        return group[name]

    def _value(self, item, depth=0):
        if depth > DEPTH:
            raise _Broken(f"values nested more than {DEPTH} deep")
        if item is None:
            return Unread("link")
        self.spend(EACH)  # cells may share a cell, at every level twice
        kind = item.attrs.get("MATLAB_class", b"")
        kind = kind.decode("latin-1") if isinstance(kind, bytes) else str(kind)
        if "MATLAB_object_decode" in item.attrs or "MATLAB_sparse" in item.attrs:
            return Unread("object" if "MATLAB_object_decode" in item.attrs else kind)
        if isinstance(item, h5py.Group):
            return self._struct(item, depth) if kind == "struct" else Unread(kind)
        if item.external or item.is_virtual:
            return Unread("link")
        if item.attrs.get("MATLAB_empty", 0):
            return self._empty(item, kind)
        if kind == "cell":
            return self._references(item, depth)
        if kind == "char":
            text = "".join(map(chr, self._array(item).ravel().tolist()))
            return _rows(text, item.shape[::-1])
        if item.dtype.kind in "biuf":
            array = self._array(item).T
            return array.astype(bool) if kind == "logical" else array
        return Unread(kind or f"array of {item.dtype}")

    def _array(self, item):
        size, stored = item.size * item.dtype.itemsize, item.id.get_storage_size()
        is_packed = item.id.get_create_plist().get_nfilters() > 0
        if size > stored * (MOST_PACKED if is_packed else 1):
            raise _Broken(f"an array of {size} bytes of which it has {stored}")
        self.spend(size)
        return item[()]

    def _empty(self, item, kind):
        shape = [int(n) for n in self._array(item).ravel()]
        if _count(shape):
            raise _Broken(f"an empty array of {shape}")
        return {"char": "", "cell": [], "struct": []}.get(kind, np.zeros(shape))

    def _references(self, item, depth):
        if h5py.check_ref_dtype(item.dtype) is not h5py.Reference:
            raise _Broken(f"a cell array of {item.dtype}")
        return [
            self._value(self.file[reference] if reference else None, depth + 1)
            for reference in self._array(item).ravel()
        ]

    def _struct(self, group, depth):
        members = {name: self._member(group, name) for name in group}
        if members and all(map(_of_struct_array, members.values())):
            columns = {k: self._references(v, depth) for k, v in members.items()}
            if len({len(values) for values in columns.values()}) > 1:
                raise _Broken(f"fields of different lengths in {group.name}")
            rows = zip(*columns.values(), strict=True)
            return [dict(zip(columns, row, strict=True)) for row in rows]
        return {
            name: self._value(member, depth + 1) for name, member in members.items()
        }


def _of_struct_array(member):
    """Whether a member of a group holds a field of every struct of an array."""
    return (
        isinstance(member, h5py.Dataset)
        and "MATLAB_class" not in member.attrs
        and h5py.check_ref_dtype(member.dtype) is h5py.Reference
    )


def _count(shape):
    if len(shape) < 2 or min(shape) < 0:
        raise _Broken(f"an array of dimensions {shape}")
    count = 1
    for size in shape:
        count *= size
    return count


def _rows(text, shape):
    """A str of one row of characters, in column order; a list of several rows."""
    if shape[0] == 1 or not text:  # of another length in UTF-8 and UTF-16
        return text
    if len(text) != _count(shape):
        raise _Broken(f"{len(text)} characters in an array of {shape}")
    table = np.array(list(text), "U1").reshape(shape, order="F")
    return ["".join(row) for row in table.reshape(shape[0], -1)]
