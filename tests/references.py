"""The layers once more, in naive NumPy written from their formulas, as loops."""

import itertools

import numpy as np


def spatial_conv(x, kernel, bias=0.0, strides=1, padding=0, dilation=1):
    """y(i, j) = sum_ab kernel(a, b) x(s i + d a - p, s j + d b - p)."""
    b, t, h, w, _ = x.shape
    k = kernel.shape[0]
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding), (0, 0)))
    extent = dilation * (k - 1) + 1
    rows = (h + 2 * padding - extent) // strides + 1
    columns = (w + 2 * padding - extent) // strides + 1
    y = np.zeros((b, t, rows, columns, kernel.shape[-1]), x.dtype)
    for i, j in itertools.product(range(rows), range(columns)):
        for a, c in itertools.product(range(k), repeat=2):
            pixel = x[:, :, strides * i + dilation * a, strides * j + dilation * c]
            y[:, :, i, j] += pixel @ kernel[a, c]
    return y + bias


def temporal_conv(x, kernel, bias=0.0, strides=1, padding=0, dilation=1):
    """y(t) = sum_k kernel(k) x(s t + d k - p)."""
    taps = kernel.shape[0]
    x = np.pad(x, ((0, 0), (padding, padding), (0, 0), (0, 0), (0, 0)))
    frames = (x.shape[1] - dilation * (taps - 1) - 1) // strides + 1
    y = np.zeros((x.shape[0], frames, *x.shape[2:4], kernel.shape[-1]), x.dtype)
    for t, k in itertools.product(range(frames), range(taps)):
        y[:, t] += x[:, strides * t + dilation * k] @ kernel[k]
    return y + bias


def spatial_max_pool(x, size, strides, padding):
    """Max over windows, the padding being minus infinity."""
    x = np.pad(
        x,
        ((0, 0), (0, 0), padding, padding, (0, 0)),
        constant_values=-np.inf,
    )
    rows, columns = ((n - size) // strides + 1 for n in x.shape[2:4])
    y = np.zeros((*x.shape[:2], rows, columns, x.shape[-1]), x.dtype)
    for i, j in itertools.product(range(rows), range(columns)):
        window = x[:, :, i * strides : i * strides + size]
        window = window[:, :, :, j * strides : j * strides + size]
        y[:, :, i, j] = window.max(axis=(2, 3))
    return y


def sliding_average(x, window):
    """Average over every window; along a shorter axis over the axis."""
    k = [min(window, n) for n in x.shape[2:4]]
    rows, columns = (n - m + 1 for n, m in zip(x.shape[2:4], k, strict=True))
    y = np.zeros((*x.shape[:2], rows, columns, x.shape[-1]), x.dtype)
    for i, j in itertools.product(range(rows), range(columns)):
        y[:, :, i, j] = x[:, :, i : i + k[0], j : j + k[1]].mean(axis=(2, 3))
    return y


def temporal_max_pool(x, size, strides):
    """Max over windows of frames, or over all."""
    if size is None:
        return x.max(axis=1, keepdims=True)
    starts = range(0, x.shape[1] - size + 1, strides)
    return np.stack([x[:, t : t + size].max(axis=1) for t in starts], axis=1)


def batch_norm(x, gamma, beta, epsilon, clips):
    """Every group of clips normalised by its own mean and variance."""
    y = np.zeros_like(x)
    for start in range(0, x.shape[0], clips):
        group = x[start : start + clips].reshape(-1, x.shape[-1])
        mean, variance = group.mean(axis=0), group.var(axis=0)
        y[start : start + clips] = (x[start : start + clips] - mean) / np.sqrt(
            variance + epsilon
        ) * gamma + beta
    return y


def local_response(x, depth, kappa, alpha, beta):
    """x_c / (kappa + alpha sum of the squares of `depth` channels around c)^beta."""
    channels = x.shape[-1]
    y = np.zeros_like(x)
    for c in range(channels):
        around = [d for d in range(channels) if abs(d - c) <= depth // 2]
        total = sum(x[..., d] ** 2 for d in around)
        y[..., c] = x[..., c] / (kappa + alpha * total) ** beta
    return y


def padded(maps):
    """Zeros at the bottom and right of the smaller map."""
    rows, columns = (max(x.shape[i] for x in maps) for i in (2, 3))
    return [
        np.pad(
            x,
            (
                (0, 0),
                (0, 0),
                (0, rows - x.shape[2]),
                (0, columns - x.shape[3]),
                (0, 0),
            ),
        )
        for x in maps
    ]


def interleaved(maps):
    """Eq. 3.3, channels counted from 1: y_2d = a_d, y_2d-1 = b_d."""
    a, b = maps
    y = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
    for d in range(1, a.shape[-1] + 1):
        y[..., 2 * d - 1] = a[..., d - 1]
        y[..., 2 * d - 2] = b[..., d - 1]
    return y


def spacetime_conv(x, kernel, bias):
    """3-D convolution, padded with zeros to keep the size (eq. 3.6)."""
    pads = [k // 2 for k in kernel.shape[:3]]
    x_padded = np.pad(x, ((0, 0), *((p, p) for p in pads), (0, 0)))
    y = np.zeros((*x.shape[:-1], kernel.shape[-1]), x.dtype)
    for t, i, j in itertools.product(*(range(k) for k in kernel.shape[:3])):
        part = x_padded[:, t : t + x.shape[1], i : i + x.shape[2], j : j + x.shape[3]]
        y += part @ kernel[t, i, j]
    return y + bias


def bilinear(a, b):
    """Eq. 3.5 at every frame, then signed square root and division by the length."""
    batch, time, height, width, channels = a.shape
    y = np.zeros((batch, time, channels, b.shape[-1]))
    for i, j in itertools.product(range(height), range(width)):
        y += a[:, :, i, j, :, None] * b[:, :, i, j, None, :]
    y = np.sign(y) * np.sqrt(np.abs(y))
    y = y.reshape(batch, time, 1, 1, -1)
    return y / np.linalg.norm(y, axis=-1, keepdims=True)
