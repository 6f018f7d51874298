"""Spatial convolution of every frame of a clip.

Source: the two-dimensional convolutions of thesis chapters 3-7 (eq. 7.2); padding as
in Caffe and MatConvNet, where He's networks (arXiv:1512.03385, 2015) were trained.
"""

import keras
from keras import ops

from zoo.layers._clip import (
    fold_time,
    require_clip,
    require_one_of_stride_and_dilation,
    require_positive,
    unfold_time,
    window_output,
)


@keras.saving.register_keras_serializable(package="zoo")
class SpatialConv(keras.layers.Layer):
    """2-D convolution of each frame: [B, T, H, W, C] -> [B, T, H', W', filters].

    It computes f(W x + b), f and b on request. The kernel [k, k, C, filters] is that
    of an image network, so image weights move over as they are. Padding is symmetric,
    `padding` zeros on each of the four sides (Keras' "same" is not symmetric at stride
    2 and shifts the features of a network trained elsewhere by a pixel);
    H' = floor((H + 2 padding - d (k - 1) - 1) / s) + 1.

    Args:
        filters: number of output channels.
        kernel_size: k, height and width of the kernel in pixels.
        strides: s, pixels between neighbouring outputs.
        padding: zeros on each side; None keeps the size at stride 1: d (k // 2).
        dilation_rate: d, pixels between neighbouring taps.
        use_bias: add a bias per output channel.
        activation: f, e.g. "relu", or None. TensorFlow runs a convolution, its bias
            and its ReLU as one operation if all three stand in this layer.
        kernel_initializer: initialiser of the kernel.
        groups: of input channels, each seen by an equal share of the filters; the
            kernel is then [k, k, C / groups, filters].

    Raises:
        ValueError: a size below 1, strides and dilation both above 1, a negative
            padding, groups that do not divide channels and filters, or an input that
            is no clip or (if its size is known) smaller than the kernel.

    Source: thesis eq. 7.2, W_{l,k}; He et al. 2015 for the padding.
    """

    def __init__(
        self,
        filters,
        kernel_size,
        strides=1,
        padding=None,
        dilation_rate=1,
        use_bias=False,
        activation=None,
        kernel_initializer="he_normal",
        groups=1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        require_positive(
            "SpatialConv",
            groups=groups,
            filters=filters,
            kernel_size=kernel_size,
            strides=strides,
            dilation_rate=dilation_rate,
        )
        require_one_of_stride_and_dilation("SpatialConv", strides, dilation_rate)
        if padding is None:
            padding = dilation_rate * (kernel_size // 2)
        if padding < 0:
            raise ValueError(f"SpatialConv: padding must be >= 0, got {padding}.")
        if filters % groups:
            raise ValueError(
                f"SpatialConv: {groups} groups do not divide {filters} filters; let "
                "groups divide filters."
            )
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.padding = padding
        self.dilation_rate = dilation_rate
        self.use_bias = use_bias
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.groups = groups

    @property
    def spacetime_window(self):
        """((taps, stride) in frames, (taps, stride) in pixels) seen by one output."""
        extent = self.dilation_rate * (self.kernel_size - 1) + 1
        return (1, 1), (extent, self.strides)

    def build(self, input_shape):
        self._require_room(input_shape)
        k, channels = self.kernel_size, input_shape[-1]
        if channels % self.groups:
            raise ValueError(
                f"SpatialConv ({self.name}): {self.groups} groups do not divide "
                f"{channels} channels; let groups divide them."
            )
        self.kernel = self.add_weight(
            name="kernel",
            shape=(k, k, channels // self.groups, self.filters),
            initializer=self.kernel_initializer,
        )
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias", shape=(self.filters,), initializer="zeros"
            )

    def _require_room(self, shape):
        require_clip(shape, self)
        extent = self.dilation_rate * (self.kernel_size - 1) + 1
        for size in shape[2:4]:
            if size is not None and size + 2 * self.padding < extent:
                raise ValueError(
                    f"{self.__class__.__name__} ({self.name}): maps of {shape[2]} x "
                    f"{shape[3]} are smaller than the kernel of {extent}; use larger "
                    "frames."
                )

    def call(self, x):
        y = self._convolve(self._fold(x), self.kernel)
        if self.use_bias:
            # Not y + bias: ops.add becomes TensorFlow's BiasAdd, which its graph
            # optimiser merges into the convolution.
            y = ops.add(y, self.bias)
        return self._unfold(self.activation(y), like=x)

    def _fold(self, x):
        self._require_room(x.shape)
        return fold_time(x)

    def _unfold(self, y, like):
        return unfold_time(y, like)

    def _convolve(self, frames, kernel):
        keeps_size = 2 * self.padding == self.dilation_rate * (self.kernel_size - 1)
        same = self.strides == 1 and keeps_size
        if self.padding and not same:
            p = self.padding
            frames = ops.pad(frames, ((0, 0), (p, p), (p, p), (0, 0)))
        arguments = {
            "strides": self.strides,
            "padding": "same" if same else "valid",
            "data_format": "channels_last",
            "dilation_rate": self.dilation_rate,
        }
        if self.groups == 1:
            return ops.conv(frames, kernel, **arguments)
        kernels = block_kernels(kernel, self.groups)
        parts = ops.split(frames, len(kernels), axis=-1)
        results = [
            ops.conv(*pair, **arguments) for pair in zip(parts, kernels, strict=True)
        ]
        return ops.concatenate(results, axis=-1)

    def compute_output_shape(self, input_shape):
        batch, time, *size = input_shape[:4]
        size = (
            window_output(
                n,
                self.kernel_size,
                self.strides,
                self.dilation_rate,
                2 * self.padding,
            )
            for n in size
        )
        return (batch, time, *size, self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "dilation_rate": self.dilation_rate,
            "use_bias": self.use_bias,
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "groups": self.groups,
        }


# Channels of a dense convolution below which it runs no faster.
BLOCK = 64


def block_kernels(kernel, groups):
    """A grouped kernel as a few dense ones, with zeros between groups: a list.

    Keras 3.15 compiles grouped convolutions of TensorFlow with XLA, which is many times
    slower on CPUs, and in training more so.

    Args:
        kernel: [k, k, C / groups, filters]. groups: their number.

    Returns:
        Kernels [k, k, C', filters'] of about 64 channels each, for equal shares of
        the channels in their order.

    Source: Xie et al. 2017 (arXiv:1611.05431), section 3.3: equivalent forms.
    """
    height, width, channels, filters = kernel.shape
    together = next(
        n
        for n in range(1, groups + 1)
        if groups % n == 0 and (n * channels >= BLOCK or n == groups)
    )
    shape = (height, width, channels, groups // together, together, filters // groups)
    grouped = ops.reshape(kernel, shape)
    # Of input group m and filter group n, zero unless they are the same.
    same = ops.reshape(
        ops.eye(together, dtype=kernel.dtype), (together, 1, together, 1)
    )
    dense = (together * channels, filters // groups * together)
    return [
        ops.reshape(
            ops.expand_dims(grouped[:, :, :, block], 2) * same, (height, width, *dense)
        )
        for block in range(groups // together)
    ]
