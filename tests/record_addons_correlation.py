"""Records what TensorFlow Addons' correlation kernel answers.

    python3.11 -m venv addons
    addons/bin/pip install tensorflow==2.15.0 tensorflow-addons==0.23.0 'numpy<2'
    addons/bin/python tests/record_addons_correlation.py tests/addons_correlation.npz

The file holds maps, outputs and the gradients of sum(probe(output) x output).

Addons' CorrelationCost(kernel_size, max_displacement, stride_1, stride_2, pad,
data_format) with kernel_size 1 and pad = max_displacement is our
Correlation(max_displacement, stride_1, stride_2): channels in the same order, mean over
the input's channels, zero outside; channels_first and channels_last alike. With
stride_1 = s > 1 its output (i, j) is that of (s i - (s - 1) pad, s j - (s - 1) pad),
where Caffe's and ours is that of (s i, s j). So its maps get (s - 1) pad more rows of
zeros below and columns to the right, and of its outputs the first (s - 1) pad / s are
left out; s must divide pad.
"""

import sys

import numpy as np

# name: (shape of the maps, max_displacement, stride, displacement stride)
CASES = {
    "thesis": ((1, 4, 5, 3), 8, 1, 1),
    "small": ((2, 5, 4, 8), 4, 1, 1),
    "thesis_conv3": ((1, 9, 7, 4), 4, 2, 1),
    "released_conv3": ((1, 13, 10, 5), 8, 2, 2),
    "flownet": ((1, 8, 7, 4), 5, 1, 2),
}


def probe(shape):
    """A weight of every output."""
    return np.cos(np.arange(np.prod(shape), dtype=np.float64)).reshape(shape)


def correlation(first, second, displacement, stride, step):
    """Addons' kernel, asked as above."""
    import tensorflow as tf
    from tensorflow_addons.layers import CorrelationCost

    more = (stride - 1) * displacement
    if more % stride:
        raise ValueError(f"stride {stride} must divide max_displacement {displacement}")
    layer = CorrelationCost(
        1, displacement, stride, step, displacement, "channels_last"
    )
    y = layer(
        [tf.pad(x, [[0, 0], [0, more], [0, more], [0, 0]]) for x in (first, second)]
    )
    return y[:, more // stride :, more // stride :]


def main(path):
    """Writes the file."""
    import tensorflow as tf

    rng, found = np.random.default_rng(0), {}
    for name, (shape, *arguments) in CASES.items():
        maps = [tf.constant(rng.normal(size=shape).astype(np.float32)) for _ in "12"]
        with tf.GradientTape() as tape:
            tape.watch(maps)
            y = correlation(*maps, *arguments)
            total = tf.reduce_sum(y * probe(y.shape).astype(np.float32))
        gradients = tape.gradient(total, maps)
        found[f"{name}/maps"] = np.stack(maps)
        found[f"{name}/output"] = y.numpy()
        found[f"{name}/gradients"] = np.stack(gradients)
    np.savez_compressed(path, **found)


if __name__ == "__main__":
    main(sys.argv[1])
