"""Gathering along the second axis, each item of the batch by indices of its own."""

from keras import ops


def gather(x, indices):
    """Rows x[b, indices[b, k]] of x [B, N, ...], indices [B, K] in 0..N-1: [B, K, ...].

    As one gather of rows of a flat table: take_along_axis spends several times as long
    on its shapes.
    """
    batch, length, *rest = ops.shape(x)
    offsets = ops.arange(batch, dtype="int32")[:, None] * length
    rows = ops.reshape(x, (batch * length, *rest))
    return ops.take(rows, ops.cast(indices, "int32") + offsets, axis=0)
