"""Temporal convolution 1x1xk: filters over time and channels at every pixel.

Source: thesis eq. 5.8 (kernels with feature identity), eq. 7.4-7.5 (trained from
scratch), eq. 4.5 (inflated 1x1 convolutions).
"""

import keras
from keras import ops

from zoo.layers._clip import (
    require_clip,
    require_one_of_stride_and_dilation,
    require_positive,
    window_output,
)


@keras.saving.register_keras_serializable(package="zoo")
class TemporalConv(keras.layers.Layer):
    """Convolution along time: [B, T, H, W, C] -> [B, T', H, W, filters].

    The kernel is [taps, C, filters]. "same" pads taps // 2 (times the dilation) zero
    frames at both ends; "valid" pads none, T' = floor((T - d (k - 1) - 1) / s) + 1.

    The thesis starts its kernels in three ways, all given by `kernel_initializer`:
    random (chapter 7, the default here; the released code draws them from a normal
    distribution of deviation 0.01), `FeatureIdentity("centre" | "average")`
    (chapter 5), and `Inflated()` for a 1x1 convolution spread over time (chapter 4).

    Args:
        filters: number of output channels; None keeps that of the input.
        taps: k, length of the kernel in frames; odd if padding is "same".
        strides: s, frames between neighbouring outputs.
        padding: "same" or "valid".
        dilation_rate: d, frames between neighbouring taps.
        use_bias: add a bias per output channel, zero at first.
        kernel_initializer: initialiser of the kernel.

    Raises:
        ValueError: a size below 1, strides and dilation both above 1, an unknown
            padding, an even kernel with "same", an input that is no clip or (if
            known) shorter than a "valid" kernel.

    Source: thesis eq. 5.8, 7.4.
    """

    def __init__(
        self,
        filters=None,
        taps=3,
        strides=1,
        padding="same",
        dilation_rate=1,
        use_bias=True,
        kernel_initializer="he_normal",
        **kwargs,
    ):
        super().__init__(**kwargs)
        require_positive(
            "TemporalConv", taps=taps, strides=strides, dilation_rate=dilation_rate
        )
        require_one_of_stride_and_dilation("TemporalConv", strides, dilation_rate)
        if filters is not None:
            require_positive("TemporalConv", filters=filters)
        if padding not in ("same", "valid"):
            raise ValueError(
                f"TemporalConv: padding must be 'same' or 'valid', got {padding!r}."
            )
        if padding == "same" and taps % 2 == 0:
            raise ValueError(
                f"TemporalConv: padding 'same' needs an odd number of taps, got {taps}."
            )
        self.filters = filters
        self.taps = taps
        self.strides = strides
        self.padding = padding
        self.dilation_rate = dilation_rate
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    @property
    def spacetime_window(self):
        """((taps, stride) in frames, (taps, stride) in pixels) seen by one output."""
        return (self._extent, self.strides), (1, 1)

    @property
    def _extent(self):
        return self.dilation_rate * (self.taps - 1) + 1

    @property
    def _pad(self):
        return self._extent // 2 if self.padding == "same" else 0

    def build(self, input_shape):
        self._require_length(input_shape)
        channels = input_shape[-1]
        filters = self.filters or channels
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.taps, channels, filters),
            initializer=self.kernel_initializer,
        )
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias", shape=(filters,), initializer="zeros"
            )

    def _require_length(self, shape):
        require_clip(shape, self)
        time = shape[1]
        if time is not None and time + 2 * self._pad < self._extent:
            raise ValueError(
                f"TemporalConv ({self.name}): a clip of {time} frames is shorter than "
                f"the kernel's {self._extent}; use padding='same' or longer clips."
            )

    def call(self, x):
        y = self._convolve(self._fold(x), self.kernel)
        if self.use_bias:
            y = ops.add(y, self.bias)
        return self._unfold(y, like=x)

    def _fold(self, x):
        """All pixels of a frame side by side: [B, T, H, W, C] -> [B, T, H*W, C]."""
        self._require_length(x.shape)
        batch, time, height, width, channels = ops.shape(x)
        return ops.reshape(x, (batch, time, height * width, channels))

    def _unfold(self, y, like):
        batch, _, height, width, _ = ops.shape(like)
        return ops.reshape(y, (batch, ops.shape(y)[1], height, width, y.shape[-1]))

    def _convolve(self, rows, kernel):
        """A 2-D convolution with a k x 1 kernel."""
        same = self.strides == 1 and self.padding == "same"
        if self._pad and not same:
            rows = ops.pad(rows, ((0, 0), (self._pad, self._pad), (0, 0), (0, 0)))
        return ops.conv(
            rows,
            ops.expand_dims(kernel, 1),
            strides=(self.strides, 1),
            padding="same" if same else "valid",
            data_format="channels_last",
            dilation_rate=(self.dilation_rate, 1),
        )

    def compute_output_shape(self, input_shape):
        batch, time, height, width, channels = input_shape
        time = window_output(
            time, self.taps, self.strides, self.dilation_rate, 2 * self._pad
        )
        return (batch, time, height, width, self.filters or channels)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "taps": self.taps,
            "strides": self.strides,
            "padding": self.padding,
            "dilation_rate": self.dilation_rate,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
