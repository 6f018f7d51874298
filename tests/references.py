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
