"""PyTorch's `.pth` files read as data: no pickle is executed.

A `.pth` file is a pickle, a program for a small stack machine that may call anything.
This module runs none. It goes over the operations with the standard library's
`pickletools`, which only takes them apart, and knows those that make
numbers, texts, tuples, lists, dicts and tensors. A tensor is a part of one of the
file's storages, whose numbers lie beside the pickle as plain bytes. Whatever else a
file names, a class or a function, is refused by name before anything is made of it.

Both forms are known: archives (zip, since PyTorch 1.6), and the older stream of pickles
followed by the storages.

Source: torch.save of PyTorch (Paszke et al. 2019); the operations are those of Python's
pickle, protocols 2 to 5.
"""

import io
import math
import pickletools
import reprlib
import struct
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

# Of PyTorch's storages; bfloat16 is the upper half of a float32.
DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
# With these numbers the older form begins.
MAGIC, FORM = 0x1950A86A20F9469CFC6C, 1001
ARCHIVE = b"PK\x03\x04"
MAX_PICKLE = 64 * 2**20
"""Bytes of the pickle itself, which for the largest known network has 0.1 MB."""
MAX_SHARED = 4
"""Numbers in all tensors, to those that are stored for them: tied weights share."""


class _Storage(NamedTuple):
    """Numbers of a file, by name, that are read when a tensor of them is."""

    dtype: str
    key: str
    count: int


class _Tensor(NamedTuple):
    """A part of a storage."""

    storage: _Storage
    offset: int
    shape: tuple
    strides: tuple


class _Global(NamedTuple):
    """The name of a class or function; never the thing itself."""

    name: str


class _Dict(dict):
    """An ordered dict; what is given to it as attributes is dropped."""


class _Mark:
    """A place on the stack."""


def read(path):
    """The contents of a `.pth` file: nested dicts and lists with arrays in them.

    Args:
        path: of the file.

    Returns:
        What was saved, its tensors as NumPy arrays; bfloat16 becomes float32.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file of PyTorch, a truncated one, or one that names something
            else than tensors, which would have to be executed.

    Source: torch.save of PyTorch (Paszke et al. 2019).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a .pth file.")
    with open(path, "rb") as file:
        start = file.read(_HEAD)
    try:
        return _archive(path) if start.startswith(ARCHIVE) else _stream(path, start)
    except _MALFORMED as error:
        what = str(error) or type(error).__name__
        raise ValueError(f"{path} is no readable .pth file: {what}") from error


_HEAD = 512
# What malformed files lead to; anything else would be a mistake of ours.
_MALFORMED = (
    *(ValueError, TypeError, LookupError, AttributeError, OverflowError),
    *(RuntimeError, OSError, EOFError, struct.error, zipfile.BadZipFile),
)


def _archive(path):
    """The contents of the form since PyTorch 1.6."""
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if n.split("/")[-1] == "data.pkl"]
        if len(names) != 1:
            raise ValueError(f"an archive with {len(names)} data.pkl in it, not one")
        folder = names[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist():
            order = _entry(archive, f"{folder}byteorder", path)
            if order != b"little":
                raise ValueError(f"its numbers are in {order!r}-endian order")
        size = archive.getinfo(names[0]).file_size
        if size > MAX_PICKLE:
            raise ValueError(f"a pickle of {size} bytes, at most {MAX_PICKLE} are read")
        machine = _Machine()
        content = machine.run(io.BytesIO(_entry(archive, names[0], path)))
        return _with_arrays(
            content,
            lambda storage: _entry(archive, f"{folder}data/{storage.key}", path),
        )


def _entry(archive, name, path):
    """The bytes of an entry, checked by the archive's checksum."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed, which PyTorch never does")
    if info.file_size > path.stat().st_size:
        raise ValueError(f"{name} claims {info.file_size} bytes, more than the file")
    return archive.read(info)


def _stream(path, start):
    """The contents of the older form: four pickles, the keys, and the storages."""
    if start[257:262] == b"ustar":
        raise ValueError("a tar archive of PyTorch 0.1; save it with a later one")
    with open(path, "rb") as file:
        pickles = io.BytesIO(file.read(MAX_PICKLE))
        machine = _Machine()
        for wanted in (MAGIC, FORM):
            if machine.run(pickles) != wanted:
                raise ValueError("a pickle, but none that torch.save has written")
        system = machine.run(pickles)
        if not system["little_endian"]:
            raise ValueError("its numbers are in big-endian order")
        content, keys = machine.run(pickles), machine.run(pickles)
        file.seek(pickles.tell())
        raw = {}
        for key in keys:
            (count,) = struct.unpack("<q", _exactly(file, 8, path))
            storage = machine.storages[key if isinstance(key, str) else None]
            if count != storage.count:
                raise ValueError(f"storage {key} has {count} numbers, not as announced")
            raw[key] = _exactly(file, count * _item_size(storage.dtype), path)
    return _with_arrays(content, lambda storage: raw[storage.key])


def _exactly(file, size, path):
    left = path.stat().st_size - file.tell()
    if not 0 <= size <= left:
        raise ValueError(f"it ends early: {size} bytes are due, {left} are left")
    return file.read(size)


class _Machine:
    """Pickle's stack machine, reduced to what makes data."""

    def __init__(self):
        self.storages = {}

    def run(self, stream):
        """What the next pickle of a stream of bytes makes."""
        self._stack, self._memo = [], {}
        for operation, argument, _ in pickletools.genops(stream):
            step = _STEPS.get(operation.name)
            if step is None:
                raise ValueError(
                    f"its pickle has the operation {operation.name}, which no state of "
                    f"a network needs. {_ADVICE}"
                )
            step(self, argument)
        (result,) = self._stack
        return result

    def push(self, value):
        self._stack.append(value)

    def remember(self, key):
        self._memo[len(self._memo) if key is None else int(key)] = self._stack[-1]

    def recall(self, key):
        self.push(self._memo[int(key)])

    def above_mark(self):
        """What stands above the last mark, taken off with it."""
        at = max(i for i, x in enumerate(self._stack) if isinstance(x, _Mark))
        found = self._stack[at + 1 :]
        del self._stack[at:]
        return found

    def last(self, count):
        """The last values, taken off."""
        if count > len(self._stack):
            raise ValueError("its pickle takes more from the stack than is there")
        found = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return found

    def put(self, items):
        """Keys and values by turns into the dict below them."""
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("its pickle puts items into what is no dict")
        target.update(_pairs(zip(items[::2], items[1::2], strict=True)))

    def append(self, items):
        """Values to the list below them."""
        if not isinstance(self._stack[-1], list):
            raise ValueError("its pickle appends to what is no list")
        self._stack[-1].extend(items)

    def name(self, module, name):
        """A class or function: known by name, or refused."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("its pickle names a class by what is no text")
        name = f"{module}.{name}"
        storage = module in ("torch", "torch.storage") and name.split(".")[-1] in DTYPES
        if not storage and name not in _CALLS:
            raise ValueError(
                f"it names {name}, which would have to be executed; only tensors are "
                f"read. {_ADVICE}"
            )
        self.push(_Global(name))

    def call(self):
        """A known function of known arguments."""
        function, arguments = self.last(2)
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise ValueError("its pickle calls what is no function")
        if function.name not in _CALLS:
            raise ValueError(f"its pickle calls {function.name}")
        self.push(_CALLS[function.name](*arguments))

    def persistent(self):
        """A storage: its type, key, device and number of elements."""
        ((kind, type_, key, _, count, *view),) = self.last(1)
        if kind != "storage" or view not in ([], [None]):
            raise ValueError(
                f"its pickle refers to a {type(kind).__name__}, no storage"
            )
        if not isinstance(key, str) or not isinstance(count, int) or count < 0:
            raise ValueError(
                f"its pickle has a storage {_brief(key)} of {_brief(count)} numbers"
            )
        dtype = DTYPES[type_.name.split(".")[-1]]
        self.storages[key] = _Storage(dtype, key, count)
        self.push(self.storages[key])

    def state(self):
        """Attributes of a dict, of no use here."""
        target, _ = self.last(2)
        if not isinstance(target, _Dict):
            raise ValueError("its pickle gives a state to what is no dict")
        self.push(target)


_brief = reprlib.repr  # nested tuples that are shared print without end
_ADVICE = "Save the weights alone: torch.save(model.state_dict(), PATH)."


def _pairs(items):
    """Keys and values, the keys checked: those of shared tuples hash without end."""
    pairs = [tuple(item) for item in items]
    for key, _ in pairs:
        if not isinstance(key, str | int | float | None):
            raise ValueError(f"its pickle has a {type(key).__name__} as key of a dict")
    return pairs


def _ordered(items=()):
    return _Dict(_pairs(items))


def _tensor(storage, offset, shape, strides, *_):
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or len(shape) != len(strides):
        raise ValueError("its pickle makes a tensor of what is no storage")
    if not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ValueError(
            f"a tensor at {_brief(offset)}, of {_brief(shape)} by strides "
            f"{_brief(strides)}"
        )
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


_CALLS = {
    "collections.OrderedDict": _ordered,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch.Size": tuple,
}
_NUMBERS_AND_TEXTS = (
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES"),
)
_STEPS = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda m, a: None),
    **dict.fromkeys(_NUMBERS_AND_TEXTS, lambda m, a: m.push(a)),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), lambda m, a: m.remember(a)),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda m, a: m.recall(a)),
    "NONE": lambda m, a: m.push(None),
    "NEWTRUE": lambda m, a: m.push(True),
    "NEWFALSE": lambda m, a: m.push(False),
    "EMPTY_DICT": lambda m, a: m.push({}),
    "EMPTY_LIST": lambda m, a: m.push([]),
    "EMPTY_TUPLE": lambda m, a: m.push(()),
    "MARK": lambda m, a: m.push(_Mark()),
    "TUPLE": lambda m, a: m.push(tuple(m.above_mark())),
    "TUPLE1": lambda m, a: m.push(tuple(m.last(1))),
    "TUPLE2": lambda m, a: m.push(tuple(m.last(2))),
    "TUPLE3": lambda m, a: m.push(tuple(m.last(3))),
    "APPEND": lambda m, a: m.append(m.last(1)),
    "APPENDS": lambda m, a: m.append(m.above_mark()),
    "SETITEM": lambda m, a: m.put(m.last(2)),
    "SETITEMS": lambda m, a: m.put(m.above_mark()),
    "GLOBAL": lambda m, a: m.name(*a.split(" ", 1)),
    "STACK_GLOBAL": lambda m, a: m.name(*m.last(2)),
    "REDUCE": lambda m, a: m.call(),
    "BINPERSID": lambda m, a: m.persistent(),
    "BUILD": lambda m, a: m.state(),
}


def _item_size(dtype):
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _with_arrays(content, bytes_of):
    """The content with an array in place of each tensor.

    Args:
        content: what a pickle has made. bytes_of: function of a `_Storage`.
    """
    storages, known, copied = {}, {}, 0

    def numbers(storage):
        if storage.key not in storages:
            storages[storage.key] = _numbers(storage, bytes_of(storage))
        return storages[storage.key]

    def convert(value):
        # What is shared stays shared, or nested lists could grow without end.
        if id(value) not in known:
            known[id(value)] = value, _converted(value)
        return known[id(value)][1]

    def _converted(value):
        nonlocal copied
        if isinstance(value, _Tensor):
            copied += math.prod(value.shape)
            array = _array(value, numbers(value.storage))
            stored = sum(map(len, storages.values()))
            # Tensors may share a storage, but thousands that do fill the memory.
            if copied > MAX_SHARED * stored:
                raise ValueError(
                    f"its tensors hold more than {MAX_SHARED} times the {stored} "
                    "numbers that it stores"
                )
            return array
        if isinstance(value, dict):
            return {k: convert(v) for k, v in value.items()}
        if type(value) in (list, tuple):  # and no named one of ours
            return type(value)(map(convert, value))
        return value

    return convert(content)


def _numbers(storage, raw):
    if len(raw) != storage.count * _item_size(storage.dtype):
        raise ValueError(
            f"storage {storage.key} has {len(raw)} bytes, {storage.count} numbers of "
            f"{storage.dtype} were announced"
        )
    if storage.dtype == "bfloat16":
        upper = np.frombuffer(raw, "<u2").astype("<u4") << 16
        return upper.view("<f4")
    return np.frombuffer(raw, storage.dtype)


def _array(tensor, numbers):
    """The part of a storage that a tensor is, checked before it is looked at."""
    reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    count = math.prod(tensor.shape)
    if count > len(numbers) or (count and tensor.offset + reach >= len(numbers)):
        raise ValueError(
            f"a tensor {tensor.shape} reaches beyond its storage of {len(numbers)} "
            "numbers"
        )
    if not count:
        return np.empty(tensor.shape, numbers.dtype)
    strides = [s * numbers.itemsize for s in tensor.strides]
    view = np.lib.stride_tricks.as_strided(
        numbers[tensor.offset :], tensor.shape, strides, writeable=False
    )
    return np.array(view)
