"""Files of PyTorch written without it, and torchvision's ResNet in naive NumPy.

Everything here is written from the formats and from torchvision's definition, and knows
nothing of zoo: names, order of the axes [N, C, H, W].
"""

import io
import itertools
import json
import pickle
import struct
import zipfile

import numpy as np

# --- files ---------------------------------------------------------------------------

TYPES = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "uint8": "ByteStorage",
}


class _Pickler(pickle._Pickler):
    """Python's own pickler, which writes arrays as torch.save writes tensors."""

    def __init__(self, file, protocol):
        super().__init__(file, protocol)
        self.storages = []

    def save(self, obj, save_persistent_id=True):
        if not isinstance(obj, np.ndarray):
            return super().save(obj, save_persistent_id)
        key = str(len(self.storages))
        self.storages.append(obj)
        self.write(b"ctorch._utils\n_rebuild_tensor_v2\n(")
        self.write(b"(")
        super().save("storage")
        self.write(f"ctorch\n{TYPES[str(obj.dtype)]}\n".encode())
        for value in (key, "cpu", obj.size):
            super().save(value)
        self.write(b"tQ")
        super().save(0)
        super().save(obj.shape)
        strides = [s // obj.itemsize for s in obj.strides]
        super().save(tuple(strides))
        self.write(b"\x89ccollections\nOrderedDict\n)RtR")


def pickled(content, protocol=2):
    """(pickle, storages) of nested dicts with arrays in them."""
    file = io.BytesIO()
    pickler = _Pickler(file, protocol)
    pickler.dump(content)
    return file.getvalue(), pickler.storages


def archive(path, content, protocol=2):
    """The form since PyTorch 1.6: a zip of a pickle and of storages."""
    data, storages = pickled(content, protocol)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model/data.pkl", data)
        for key, array in enumerate(storages):
            file.writestr(f"model/data/{key}", array.tobytes())
        file.writestr("model/version", "3\n")
    return path


def packed(path, pickle_, **entries):
    """An archive with any pickle in it, and any entries."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model/data.pkl", pickle_)
        for name, data in entries.items():
            file.writestr(f"model/{name}", data)
    return path


def safetensors(path, tensors, facts=None):
    """Header and bytes, in the order of the names."""
    types = {"float32": "F32", "float64": "F64", "float16": "F16", "int64": "I64"}
    header, data = {"__metadata__": facts} if facts else {}, b""
    for name, array in tensors.items():
        places = [len(data), len(data) + array.nbytes]
        data += np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": types[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": places,
        }
    return raw_safetensors(path, json.dumps(header).encode(), data)


def raw_safetensors(path, header, data=b""):
    """Any header and any bytes."""
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


# --- the network ---------------------------------------------------------------------


def resnet_state(units, width, classes, seed=0):
    """Random weights of torchvision's ResNet of bottlenecks, {name: array}."""
    rng, state = np.random.default_rng(seed), {}

    def conv(name, filters, channels, size=1):
        deviation = np.sqrt(2 / (channels * size * size))
        shape = (filters, channels, size, size)
        state[f"{name}.weight"] = rng.normal(0, deviation, shape).astype("float32")

    def norm(name, size, gamma=1.0):
        for part, low, high in (
            ("weight", 0.8 * gamma, 1.2 * gamma),
            ("bias", -0.3, 0.3),
            ("running_mean", -0.3, 0.3),
            ("running_var", 0.5, 1.5),
        ):
            state[f"{name}.{part}"] = rng.uniform(low, high, size).astype("float32")
        state[f"{name}.num_batches_tracked"] = np.array(100)

    conv("conv1", width, 3, 7)
    norm("bn1", width)
    channels = width
    for layer, count in enumerate(units, start=1):
        inner = width * 2 ** (layer - 1)
        for number in range(count):
            block = f"layer{layer}.{number}"
            for part, filters, read, size, gamma in (
                (1, inner, channels, 1, 1.0),
                (2, inner, inner, 3, 1.0),
                (3, 4 * inner, inner, 1, 0.4),
            ):
                conv(f"{block}.conv{part}", filters, read, size)
                norm(f"{block}.bn{part}", filters, gamma)
            if number == 0:
                conv(f"{block}.downsample.0", 4 * inner, channels)
                norm(f"{block}.downsample.1", 4 * inner)
            channels = 4 * inner
    state["fc.weight"] = rng.normal(0, 0.2, (classes, channels)).astype("float32")
    state["fc.bias"] = rng.normal(0, 0.2, classes).astype("float32")
    return state


def forward(state, units, images):
    """Scores of pictures [N, H, W, 3], 0-255, as of torchvision's classifier."""
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = ((images / 255 - mean) / deviation).transpose(0, 3, 1, 2)

    def conv_norm(x, conv, norm, stride=1):
        kernel = state[f"{conv}.weight"].astype("float64")
        x = convolution(x, kernel, stride, kernel.shape[-1] // 2)
        gamma, beta, average, variance = (
            state[f"{norm}.{part}"][:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - average) / np.sqrt(variance + 1e-5) * gamma + beta

    x = max_pool(np.maximum(conv_norm(x, "conv1", "bn1", 2), 0))
    for layer, count in enumerate(units, start=1):
        for number in range(count):
            block = f"layer{layer}.{number}"
            stride = 2 if layer > 1 and number == 0 else 1
            shortcut = x
            if number == 0:
                names = f"{block}.downsample.0", f"{block}.downsample.1"
                shortcut = conv_norm(x, *names, stride)
            y = np.maximum(conv_norm(x, f"{block}.conv1", f"{block}.bn1"), 0)
            y = np.maximum(conv_norm(y, f"{block}.conv2", f"{block}.bn2", stride), 0)
            y = conv_norm(y, f"{block}.conv3", f"{block}.bn3")
            x = np.maximum(shortcut + y, 0)
    return x.mean(axis=(2, 3)) @ state["fc.weight"].T + state["fc.bias"]


def convolution(x, kernel, stride, padding):
    """Cross-correlation with zeros on all four sides."""
    size = kernel.shape[-1]
    x = np.pad(x, ((0, 0), (0, 0), *((padding,) * 2,) * 2))
    rows, columns = ((n - size) // stride + 1 for n in x.shape[2:])
    y = np.zeros((len(x), len(kernel), rows, columns))
    for a, b in itertools.product(range(size), repeat=2):
        taken = x[:, :, a::stride, b::stride][:, :, :rows, :columns]
        y += np.einsum("oc,nchw->nohw", kernel[:, :, a, b], taken)
    return y


def max_pool(x):
    """3x3, stride 2, one row and column of nothing on all four sides."""
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    rows, columns = ((n - 3) // 2 + 1 for n in x.shape[2:])
    taken = [
        x[:, :, a::2, b::2][:, :, :rows, :columns]
        for a, b in itertools.product(range(3), repeat=2)
    ]
    return np.max(taken, axis=0)
