"""Runs a SavedModel through TensorFlow's C API, without TensorFlow's Python.

    python c_api.py EXPORT OUTPUTS.npz REQUEST.npy ...

The way TensorFlow Serving takes: TF_LoadSessionFromSavedModel and TF_SessionRun of
the library inside the installed wheel. A request is an array of clips, or of the bytes
of JPEG files, which go to the signature `jpeg`. Writes one array per request and
output, "<number>/<output>", or the message "<number>/error" of one that was refused.

Source: tensorflow/c/c_api.h, tensorflow/c/tf_tstring.h.
"""

import ctypes
import ctypes.util
import importlib.util
import sys
from ctypes import c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path

import numpy as np

STRING = 7
TSTRING = 24  # sizeof(TF_TString)
DTYPES = {1: np.float32, 3: np.int32, 4: np.uint8, 9: np.int64}
CODES = {np.dtype(dtype): code for code, dtype in DTYPES.items()}


class Output(ctypes.Structure):
    """TF_Output: an operation of the graph and the number of its result."""

    _fields_ = [("oper", c_void_p), ("index", c_int)]


class Buffer(ctypes.Structure):
    """TF_Buffer: bytes and their length."""

    _fields_ = [("data", c_void_p), ("length", c_size_t), ("free", c_void_p)]


def library():
    """The C API of the installed wheel, results declared."""
    spec = importlib.util.find_spec("tensorflow")  # does not import it
    folder = Path(spec.submodule_search_locations[0])
    # The wheel spreads the C API over two libraries that need each other.
    ctypes.CDLL(str(folder / "libtensorflow_framework.so.2"), ctypes.RTLD_GLOBAL)
    tf = ctypes.CDLL(str(folder / "libtensorflow_cc.so.2"), ctypes.RTLD_GLOBAL)
    pointers = (
        "NewStatus NewGraph NewSessionOptions NewBuffer LoadSessionFromSavedModel "
        "GraphOperationByName AllocateTensor TensorData StringGetDataPointer"
    )
    for name in pointers.split():
        getattr(tf, f"TF_{name}").restype = c_void_p
    for name in ("TensorByteSize", "StringGetSize"):
        getattr(tf, f"TF_{name}").restype = c_size_t
    tf.TF_Dim.restype = c_int64
    tf.TF_Message.restype = c_char_p
    return tf


class Session:
    """A SavedModel opened by the C API.

    Args:
        export: its folder.
    """

    def __init__(self, export):
        self.tf = library()
        self.status = c_void_p(self.tf.TF_NewStatus())
        self.graph = c_void_p(self.tf.TF_NewGraph())
        buffer = c_void_p(self.tf.TF_NewBuffer())
        self.session = c_void_p(
            self.tf.TF_LoadSessionFromSavedModel(
                c_void_p(self.tf.TF_NewSessionOptions()),
                None,
                str(export).encode(),
                (c_char_p * 1)(b"serve"),
                c_int(1),
                self.graph,
                buffer,
                self.status,
            )
        )
        self._check()
        content = Buffer.from_address(buffer.value)
        self.signatures = signatures(ctypes.string_at(content.data, content.length))

    def run(self, feeds, signature="serving_default"):
        """Outputs of a signature as {name: array}; strings as str.

        Args:
            feeds: {input: array}, of bytes for strings. signature: its name.
        """
        inputs, outputs = self.signatures[signature]
        keys = list(outputs)
        given = [self._tensor(np.asarray(array)) for array in feeds.values()]
        results = (c_void_p * len(keys))()
        self.tf.TF_SessionRun(
            self.session,
            None,
            self._ends(inputs[key] for key in feeds),
            (c_void_p * len(given))(*given),
            c_int(len(given)),
            self._ends(outputs.values()),
            results,
            c_int(len(keys)),
            None,
            c_int(0),
            None,
            self.status,
        )
        for tensor in given:
            self._delete(c_void_p(tensor))
        self._check()
        return {
            key: self._array(c_void_p(t)) for key, t in zip(keys, results, strict=True)
        }

    def _check(self):
        if self.tf.TF_GetCode(self.status):
            raise RuntimeError(self.tf.TF_Message(self.status).decode())

    def _ends(self, names):
        ends = []
        for name in names:
            operation, index = name.rsplit(":", 1)
            pointer = self.tf.TF_GraphOperationByName(self.graph, operation.encode())
            if not pointer:
                raise RuntimeError(f"The graph has no operation {operation}.")
            ends.append(Output(pointer, int(index)))
        return (Output * len(ends))(*ends)

    def _tensor(self, array):
        if array.dtype.kind == "S":
            return self._strings(array)
        array = np.ascontiguousarray(array)
        dims = (c_int64 * array.ndim)(*array.shape)
        tensor = self.tf.TF_AllocateTensor(
            c_int(CODES[array.dtype]), dims, c_int(array.ndim), c_size_t(array.nbytes)
        )
        data = self.tf.TF_TensorData(c_void_p(tensor))
        ctypes.memmove(data, array.ctypes.data, array.nbytes)
        return tensor

    def _strings(self, array):
        size, dims = TSTRING * array.size, (c_int64 * array.ndim)(*array.shape)
        tensor = self.tf.TF_AllocateTensor(
            c_int(STRING), dims, c_int(array.ndim), c_size_t(size)
        )
        cells = self._cells(c_void_p(tensor))
        for cell, text in zip(cells, array.ravel().tolist(), strict=True):
            self.tf.TF_StringInit(cell)
            self.tf.TF_StringCopy(cell, text, c_size_t(len(text)))
        return tensor

    def _cells(self, tensor):
        """Pointers to the strings of a tensor."""
        data = self.tf.TF_TensorData(tensor) or 0
        size = self.tf.TF_TensorByteSize(tensor)
        return [c_void_p(data + i) for i in range(0, size, TSTRING)]

    def _delete(self, tensor):
        if self.tf.TF_TensorType(tensor) == STRING:
            for cell in self._cells(tensor):
                self.tf.TF_StringDealloc(cell)
        self.tf.TF_DeleteTensor(tensor)

    def _array(self, tensor):
        tf = self.tf
        shape = [tf.TF_Dim(tensor, c_int(i)) for i in range(tf.TF_NumDims(tensor))]
        code, data = tf.TF_TensorType(tensor), tf.TF_TensorData(tensor)
        size = tf.TF_TensorByteSize(tensor)
        if code == STRING:
            flat = [
                ctypes.string_at(tf.TF_StringGetDataPointer(c), tf.TF_StringGetSize(c))
                for c in self._cells(tensor)
            ]
            array = np.array([text.decode() for text in flat])
        else:
            array = np.frombuffer(ctypes.string_at(data, size), DTYPES[code])
        self._delete(tensor)
        return array.reshape(shape)


def fields(message):
    """Yields (number, value) of a serialised protocol buffer, bytes or int."""
    position = 0

    def varint():
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while position < len(message):
        tag = varint()
        wire = tag & 7
        if wire == 0:
            yield tag >> 3, varint()
            continue
        size = {1: 8, 5: 4}[wire] if wire != 2 else varint()
        yield tag >> 3, message[position : position + size]
        position += size


def signatures(meta_graph):
    """Names of tensors: {signature: ({input: name}, {output: name})}.

    MetaGraphDef.signature_def is field 5, a map from name to SignatureDef, whose
    inputs are field 1 and outputs field 2, maps to TensorInfo with the name as field 1
    (meta_graph.proto).
    """
    found = {}
    for number, entry in fields(meta_graph):
        if number == 5:
            entry = dict(fields(entry))
            found[entry[1].decode()] = _ends_of(entry[2])
    return found


def _ends_of(signature):
    ends = {1: {}, 2: {}}
    for number, entry in fields(signature):
        if number in ends:
            pair = dict(fields(entry))
            ends[number][pair[1].decode()] = dict(fields(pair[2]))[1].decode()
    return ends[1], ends[2]


def main(export, outputs, *requests):
    """Runs every request and writes all outputs."""
    session = Session(export)
    arrays = {}
    for number, path in enumerate(requests):
        request = np.load(path)
        files = request.dtype.kind == "S"
        try:
            if files:
                results = session.run({"jpeg": request}, "jpeg")
            else:
                results = session.run({"clips": request})
        except RuntimeError as error:
            results = {"error": np.array(str(error))}
        arrays.update({f"{number}/{key}": value for key, value in results.items()})
    np.savez(outputs, **arrays)
    if "tensorflow" in sys.modules:
        sys.exit("TensorFlow's Python was imported; this should not need it.")


if __name__ == "__main__":
    main(*sys.argv[1:])
