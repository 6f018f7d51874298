"""MatConvNet's forward pass in NumPy, as its documentation defines each layer.

Arrays are H x W x C x B, the frames of a video neighbours in B. A network is run as it
stands: layer by layer in the order of their inputs, in test mode, in float64. Nothing
of the zoo is used.
"""

from itertools import product

import numpy as np


def run(net, inputs, videos):
    """All variables of a network.

    Args:
        net: a `tests.matconvnet_files.Source`. inputs: {variable: [H, W, C, B]}.
        videos: their number, of B / videos frames each.

    Returns:
        {variable: array}.
    """
    values = {k: np.asarray(v, "f8") for k, v in inputs.items()}
    waiting = [x for x in net.layers if x["type"] != "dagnn.Loss"]
    while waiting:
        ready = [x for x in waiting if all(n in values for n in x["inputs"])]
        assert ready, [x["name"] for x in waiting]
        for layer in ready:
            maps = [values[name] for name in layer["inputs"]]
            params = [np.asarray(net.params[n], "f8") for n in layer["params"]]
            kind = LAYERS[layer["type"].removeprefix("dagnn.")]
            values[layer["outputs"][0]] = kind(maps, params, layer["block"], videos)
            waiting.remove(layer)
    return values


def numbers(block, key, default=0):
    return np.ravel(block.get(key, default)).tolist()


def padded(x, pad, fill=0.0):
    """Pads H, W (and T) of an array with these axes first."""
    ends = [(int(a), int(b)) for a, b in zip(pad[::2], pad[1::2], strict=True)]
    ends += [(0, 0)] * (x.ndim - len(ends))
    return np.pad(x, ends, constant_values=fill)


def windows(x, size, stride):
    """(offset, elements at that offset of every window) over the first axes."""
    counts = [(n - k) // s + 1 for n, k, s in zip(x.shape, size, stride, strict=False)]
    for offset in product(*map(range, size)):
        cut = [
            slice(o, o + (n - 1) * s + 1, s)
            for o, n, s in zip(offset, counts, stride, strict=True)
        ]
        yield offset, x[tuple(cut)]


def correlate(x, kernel, bias, pad, stride):
    """Cross-correlation over the first axes; channels come after them."""
    axes = kernel.ndim - 2
    total = 0.0
    for offset, part in windows(padded(x, pad), kernel.shape[:axes], stride):
        # [..., Cin, B] and [Cin, Cout] -> [..., Cout, B]
        total = total + np.swapaxes(np.swapaxes(part, -1, -2) @ kernel[offset], -1, -2)
    return total if bias is None else total + bias.ravel()[:, None]


def conv(maps, params, block, videos):
    assert set(numbers(block, "dilate", 1)) == {1}
    stride = [int(s) for s in numbers(block, "stride", [1, 1])]
    bias = params[1] if len(params) > 1 else None
    return correlate(maps[0], params[0], bias, numbers(block, "pad", [0] * 4), stride)


def over_time(x, videos):
    """H x W x C x (T N) -> HW x T x C x N, time being the faster of the last axis."""
    height, width, channels, batch = x.shape
    x = x.reshape(height * width, channels, batch // videos, videos, order="F")
    return x.transpose(0, 2, 1, 3)


def back(y, like):
    """HW x T x C x N -> H x W x C x (T N)."""
    y = y.transpose(0, 2, 1, 3)
    shape = (*like.shape[:2], y.shape[1], y.shape[2] * y.shape[3])
    return y.reshape(shape, order="F")


def conv_time(maps, params, block, videos):
    x = over_time(maps[0], videos)
    bias = params[1] if len(params) > 1 else None
    y = correlate(x, params[0], bias, numbers(block, "pad"), [1, 1])
    return back(y, maps[0])


def volume(x, videos):
    """H x W x C x (T N) -> H x W x T x C x N."""
    height, width, channels, batch = x.shape
    x = x.reshape(height, width, channels, batch // videos, videos, order="F")
    return x.transpose(0, 1, 3, 2, 4)


def flat(y):
    """H x W x T x C x N -> H x W x C x (T N)."""
    y = y.transpose(0, 1, 3, 2, 4)
    return y.reshape(*y.shape[:3], y.shape[3] * y.shape[4], order="F")


def conv3d(maps, params, block, videos):
    x = volume(maps[0], videos)
    return flat(correlate(x, *params, numbers(block, "pad"), [1, 1, 1]))


def pool(x, size, pad, stride, method):
    fill = -np.inf if method == "max" else 0.0
    parts = [part for _, part in windows(padded(x, pad, fill), size, stride)]
    return np.max(parts, axis=0) if method == "max" else np.mean(parts, axis=0)


def settings(block):
    size = numbers(block, "poolSize")
    stride = [int(s) for s in numbers(block, "stride")]
    return size, numbers(block, "pad"), stride, block["method"]


def pooling(maps, params, block, videos):
    """An average shrinks to a smaller map, on which MatConvNet would fail (ours)."""
    size, pad, stride, method = settings(block)
    size = [int(k) for k in size]
    if method == "avg":
        size = [min(k, n) for k, n in zip(size, maps[0].shape, strict=False)]
    return pool(maps[0], size, pad, stride, method)


def pool_time(maps, params, block, videos):
    x = over_time(maps[0], videos)
    size, pad, stride, method = settings(block)
    size = [1, x.shape[1] if np.isinf(size[1]) else int(size[1])]
    return back(pool(x, size, pad, stride, method), maps[0])


def pooling3d(maps, params, block, videos):
    size, pad, stride, method = settings(block)
    x = volume(maps[0], videos)
    return flat(pool(x, [int(k) for k in size], pad, stride, method))


def batch_norm(maps, params, block, videos):
    mult, bias, moments = params
    mean, deviation = moments[:, :1], moments[:, 1:]
    return mult * (maps[0] - mean) / deviation + bias


def scale(maps, params, block, videos):
    return maps[0] * params[0].reshape(-1, 1) + params[1].reshape(-1, 1)


def lrn(maps, params, block, videos):
    count, kappa, alpha, beta = numbers(block, "param")
    square, sums = maps[0] ** 2, np.zeros_like(maps[0])
    channels = square.shape[2]
    for c in range(channels):
        first = max(0, c - int((count - 1) // 2))
        last = min(channels - 1, c + int(np.ceil((count - 1) / 2)))
        sums[:, :, c] = square[:, :, first : last + 1].sum(axis=2)
    return maps[0] * (kappa + alpha * sums) ** -beta


def concat(maps, params, block, videos):
    height, width = (max(m.shape[i] for m in maps) for i in (0, 1))
    maps = [padded(m, [0, height - m.shape[0], 0, width - m.shape[1]]) for m in maps]
    return np.concatenate(maps, axis=2)


LAYERS = {
    "Conv": conv,
    "ConvTime": conv_time,
    "Conv3D": conv3d,
    "Pooling": pooling,
    "PoolTime": pool_time,
    "Pooling3D": pooling3d,
    "BatchNorm": batch_norm,
    "Scale": scale,
    "LRN": lrn,
    "Concat": concat,
    "ReLU": lambda maps, *_: np.maximum(maps[0], 0),
    "Sum": lambda maps, *_: sum(maps),
    "Mul": lambda maps, *_: np.prod(maps, axis=0),
    "DropOut": lambda maps, *_: maps[0],
    "SoftMax": lambda maps, *_: maps[0],  # scores before it are compared
}
