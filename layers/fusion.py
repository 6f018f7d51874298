"""Fusion of two streams: one map out of an appearance map and a motion map.

All take the pair [x^a, x^b] of maps [B, T, H, W, C], channels at the same pixel being
put in correspondence. Maps of different length or size are refused, when a graph runs
if their shapes are not known before. Where one map is a little smaller, as VGG-M's
13 x 13 is beside VGG-16's 14 x 14, `pad=True` adds rows and columns of zeros at its
bottom and right.

Source: thesis section 3.3.1, eq. 3.1-3.6; section 3.3.2 for the padding.
"""

import math
import numbers

import keras
from keras import ops

from zoo.layers._clip import require_clip, require_positive, same_size_as
from zoo.layers.initializers import ORDERS, FusionIdentity


class _Fusion(keras.layers.Layer):
    """Checks a pair of maps, and pads the smaller one."""

    same_channels = True

    def __init__(self, pad=False, **kwargs):
        super().__init__(**kwargs)
        self.pad = bool(pad)

    def build(self, input_shape):
        self._require_pair(input_shape)

    def _require_pair(self, shapes):
        pair = isinstance(shapes, list | tuple) and len(shapes) == 2
        if not pair or not all(isinstance(s, list | tuple) for s in shapes):
            raise ValueError(
                f"{self.__class__.__name__} ({self.name}) takes a pair of maps "
                f"[appearance, motion], got shape {shapes}."
            )
        for shape in shapes:
            require_clip(shape, self)
        a, b = shapes
        axes = {"frames": 1}
        if not self.pad:
            axes |= {"rows": 2, "columns": 3}
        if self.same_channels:
            axes |= {"channels": 4}
        wrong = [
            f"{a[axis]} and {b[axis]} {name}"
            for name, axis in axes.items()
            if None not in (a[axis], b[axis]) and a[axis] != b[axis]
        ]
        if wrong:
            raise ValueError(
                f"{self.__class__.__name__} ({self.name}) cannot fuse maps {tuple(a)} "
                f"of appearance and {tuple(b)} of motion: they have "
                f"{', '.join(wrong)}. Give rgb and flow of the same length and size, "
                "and fuse at layers of equal stride and depth."
            )

    def _pair(self, inputs):
        self._require_pair([tuple(x.shape) for x in inputs])
        a, b = _padded(inputs) if self.pad else inputs
        return a, same_size_as(b, a)

    def compute_output_shape(self, input_shape):
        self._require_pair(input_shape)
        a, b = input_shape
        rows, columns = (_larger(a[i], b[i]) for i in (2, 3))
        return (*a[:2], rows, columns, self._channels(a[-1], b[-1]))

    def _channels(self, a, b):
        return a

    def get_config(self):
        return {**super().get_config(), "pad": self.pad}


def _larger(a, b):
    return None if None in (a, b) else max(a, b)


def _padded(maps):
    """Both maps, zeros added at the bottom and right of the smaller one."""
    a, b = (ops.shape(x) for x in maps)
    for axis in (2, 3):
        size = ops.maximum(a[axis], b[axis])
        maps = [_extended(x, axis, size) for x in maps]
    return maps


def _extended(x, axis, size):
    shape = list(ops.shape(x))
    shape[axis] = size - shape[axis]
    return ops.concatenate([x, ops.zeros(shape, x.dtype)], axis=axis)


@keras.saving.register_keras_serializable(package="zoo")
class SumFusion(_Fusion):
    """y = x^a + x^b: [B, T, H, W, C] twice -> [B, T, H, W, C].

    Args:
        pad: add zeros to the smaller map, see the module.

    Raises:
        ValueError: maps of different lengths, channels or (without `pad`) sizes.

    Source: thesis eq. 3.1.
    """

    def call(self, inputs):
        a, b = self._pair(inputs)
        return a + b


@keras.saving.register_keras_serializable(package="zoo")
class MaxFusion(_Fusion):
    """y = max(x^a, x^b): [B, T, H, W, C] twice -> [B, T, H, W, C].

    Args, errors: as for `SumFusion`.

    Source: thesis eq. 3.2.
    """

    def call(self, inputs):
        a, b = self._pair(inputs)
        return ops.maximum(a, b)


@keras.saving.register_keras_serializable(package="zoo")
class ConcatFusion(_Fusion):
    """Both maps side by side: [B, T, H, W, C] and [..., C'] -> [B, T, H, W, C + C'].

    Args:
        order: "interleaved", y_2d = x^a_d and y_2d-1 = x^b_d counted from 1, which
            needs C = C' (eq. 3.3); or "block", the channels of x^a first (the
            released code).
        pad: add zeros to the smaller map, see the module.

    Raises:
        ValueError: an unknown order, or maps of different lengths or sizes.

    Source: thesis eq. 3.3.
    """

    def __init__(self, order="interleaved", **kwargs):
        super().__init__(**kwargs)
        _require_order(order)
        self.order = order
        self.same_channels = order == "interleaved"

    def call(self, inputs):
        a, b = self._pair(inputs)
        if self.order == "block":
            return ops.concatenate([a, b], axis=-1)
        y = ops.stack([b, a], axis=-1)
        return ops.reshape(y, (*ops.shape(a)[:-1], 2 * a.shape[-1]))

    def _channels(self, a, b):
        return a + b

    def get_config(self):
        return {**super().get_config(), "order": self.order}


@keras.saving.register_keras_serializable(package="zoo")
class ConvFusion(_Fusion):
    """y = f(y^cat * w + b): [B, T, H, W, C] twice -> [B, T, H, W, C].

    w [taps, k, k, 2C, C] convolves the concatenated maps, padded with zeros to keep
    their size. It starts as two identity matrices, weighted and, where it extends in
    space or time, times a Gaussian: the streams are summed, then learn which channel
    of one corresponds to which of the other.

    Args:
        kernel_size: k in pixels. taps: extent in frames. 1 and 1 is eq. 3.4, 3 and 3
            the spatiotemporal fusion of 3.3.5. Both odd.
        streams: initial weights of x^a and x^b.
        order: of the channels of y^cat, see `ConcatFusion`.
        activation: f, or None (the thesis); "relu" in the released code.
        pad: add zeros to the smaller map, see the module.

    Raises:
        ValueError: an even or non-positive size, an unknown order, or maps of
            different lengths, channels or (without `pad`) sizes.

    Source: thesis eq. 3.4 and 3.6, section 3.3.5.
    """

    def __init__(
        self,
        kernel_size=1,
        taps=1,
        streams=(1.0, 1.0),
        order="interleaved",
        activation=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        require_positive("ConvFusion", kernel_size=kernel_size, taps=taps)
        if kernel_size % 2 == 0 or taps % 2 == 0:
            raise ValueError(
                "ConvFusion: kernel_size and taps must be odd to keep the size, got "
                f"{kernel_size} and {taps}."
            )
        _require_order(order)
        self.kernel_size = kernel_size
        self.taps = taps
        self.streams = tuple(float(s) for s in streams)
        self.order = order
        self.activation = keras.activations.get(activation)

    @property
    def spacetime_window(self):
        """((taps, stride) in frames, (taps, stride) in pixels) seen by one output."""
        return (self.taps, 1), (self.kernel_size, 1)

    def build(self, input_shape):
        super().build(input_shape)
        channels = input_shape[0][-1]
        window = (self.taps, self.kernel_size, self.kernel_size)
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*window, 2 * channels, channels),
            initializer=FusionIdentity(self.streams, self.order),
        )
        self.bias = self.add_weight(name="bias", shape=(channels,), initializer="zeros")

    def call(self, inputs):
        x = ops.concatenate(self._pair(inputs), axis=-1)
        kernel = self.kernel
        if self.order == "interleaved":  # cheaper to sort weights than maps
            kernel = ops.concatenate([kernel[..., 1::2, :], kernel[..., ::2, :]], -2)
        y = self._convolve(x, ops.cast(kernel, x.dtype))
        return self.activation(ops.add(y, self.bias))

    def _convolve(self, x, kernel):
        if self.taps == self.kernel_size == 1:
            return ops.matmul(x, kernel[0, 0, 0])
        return ops.conv(x, kernel, padding="same", data_format="channels_last")

    def get_config(self):
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "taps": self.taps,
            "streams": self.streams,
            "order": self.order,
            "activation": keras.activations.serialize(self.activation),
        }


@keras.saving.register_keras_serializable(package="zoo")
class BilinearFusion(_Fusion):
    """Outer product at every pixel, summed over the frame, normalised.

    [B, T, H, W, C] and [B, T, H, W, C'] -> [B, T, 1, 1, C C']: every channel of one
    stream times every channel of the other. Signed square root and division by the
    Euclidean length follow, "power- and L2-normalisation" for a linear classifier.
    All of it in float32 whatever the dtype policy, since sums of products outrun half
    precision.

    Args:
        pad: add zeros to the smaller map, see the module.

    Raises:
        ValueError: maps of different lengths or (without `pad`) sizes.

    Source: thesis eq. 3.5; Lin et al. 2015 for the normalisation.
    """

    same_channels = False
    # Of the squares and squared lengths; keeps the gradient of the roots finite at 0.
    epsilon = 1e-12

    @property
    def spacetime_window(self):
        """((taps, stride) in frames, (taps, stride) in pixels) seen by one output.

        None instead of the number of taps stands for the whole frame.
        """
        return (1, 1), (None, 1)

    def call(self, inputs):
        a, b = self._pair(inputs)
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        a, b = ops.cast(a, dtype), ops.cast(b, dtype)
        y = ops.einsum("bthwc,bthwd->btcd", a, b)
        y = ops.sign(y) * ops.sqrt(ops.abs(y) + self.epsilon)
        y = ops.reshape(y, (*ops.shape(a)[:2], 1, 1, a.shape[-1] * b.shape[-1]))
        square = ops.sum(y * y, axis=-1, keepdims=True)
        return ops.cast(y * ops.rsqrt(square + self.epsilon), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        self._require_pair(input_shape)
        a, b = input_shape
        return (*a[:2], 1, 1, a[-1] * b[-1])


def _require_order(order):
    if order not in ORDERS:
        raise ValueError(
            f"Unknown order {order!r}; accepted are {', '.join(ORDERS)} (eq. 3.3)."
        )


def _stream_weights(weights):
    """Weights of the streams as a tuple of floats (thesis 3.4.3).

    Raises:
        ValueError: anything but a list or tuple of finite, positive numbers.
    """
    if not isinstance(weights, list | tuple) or not all(map(_is_weight, weights)):
        raise ValueError(
            "stream_weights must be a pair of positive numbers such as (1, 3), got "
            f"{weights!r}."
        )
    return tuple(float(w) for w in weights)


def _is_weight(x):
    number = isinstance(x, numbers.Real) and not isinstance(x, bool)
    return number and 0 < x < math.inf


@keras.saving.register_keras_serializable(package="zoo")
class StreamAverage(keras.layers.Layer):
    """Late fusion: weighted mean of the streams' raw scores, [B, K] each -> [B, K].

    Args:
        weights: one positive number per stream, e.g. (1, 3): the motion stream counts
            three times (HMDB51). They are divided by their sum, so that fused scores
            have the size of a stream's.

    Raises:
        ValueError: weights that are no finite, positive numbers, or another number of
            streams.

    Source: thesis 3.4.3 and 5.5.3.
    """

    def __init__(self, weights=(1.0, 1.0), **kwargs):
        super().__init__(**kwargs)
        self.weights_of_streams = _stream_weights(weights)

    def build(self, input_shape):
        if len(input_shape) != len(self.weights_of_streams):
            raise ValueError(
                f"StreamAverage ({self.name}) has {len(self.weights_of_streams)} "
                f"weights for {len(input_shape)} streams; give one per stream."
            )

    def call(self, inputs):
        total = sum(self.weights_of_streams)
        shares = [w / total for w in self.weights_of_streams]
        inputs = [same_size_as(x, inputs[0]) for x in inputs]
        return sum(s * x for s, x in zip(shares, inputs, strict=True))

    def compute_output_shape(self, input_shape):
        return input_shape[0]

    def get_config(self):
        return {**super().get_config(), "weights": self.weights_of_streams}
