"""Convolution, batch normalisation, shortcut and nonlinearity in one layer.

Source: f(W x) and f(x + F(x)) of thesis eq. 7.1-7.3, in which batch normalisation is
"omitted for simplicity"; folding it into the kernel at inference is exact algebra.
"""

import keras
from keras import ops

from zoo.layers.spatial_conv import SpatialConv
from zoo.layers.sub_batch_normalization import SubBatchNormalization
from zoo.layers.temporal_conv import TemporalConv


class _Fused:
    """Mixed into a convolution: f(W x + b + shortcut) without a reshape in between."""

    def _answer(self, x, kernel, bias, shortcut):
        """On the folded axes of the convolution, so that TensorFlow fuses it all."""
        y = self._convolve(self._fold(x), ops.cast(kernel, x.dtype))
        y = ops.add(y, ops.cast(bias, x.dtype))
        if shortcut is not None:
            y = y + self._fold(shortcut)
        return self._unfold(self.activation(y), like=x)

    def compute_output_shape(self, x_shape, shortcut_shape=None):
        return super().compute_output_shape(x_shape)


class _Normalized(_Fused):
    """Mixed into a convolution: f(BN(W x) + shortcut).

    In training it is the convolution, `SubBatchNormalization`, the sum and the
    nonlinearity, one after the other. At inference the normalisation is folded into
    the kernel, and everything happens on the folded axes of the convolution without a
    reshape in between, so that TensorFlow runs it as a single fused convolution.
    """

    def _add_norm(self, activation, sub_batch, norm_name):
        self.activation = keras.activations.get(activation)
        self.sub_batch = sub_batch
        self.norm_name = norm_name
        self.norm = SubBatchNormalization(
            sub_batch, name=norm_name, dtype=self.dtype_policy
        )

    def build(self, x_shape, shortcut_shape=None):
        super().build(x_shape)
        self.norm.build((*x_shape[:-1], self.filters))

    def call(self, x, shortcut=None, training=None):
        if training and self.norm.trainable:
            y = self._unfold(self._convolve(self._fold(x), self.kernel), like=x)
            y = self.norm(y, training=True)
            return self.activation(y if shortcut is None else shortcut + y)
        factor, offset = self.norm.inference_affine()
        return self._answer(x, self.kernel * factor, offset, shortcut)

    def get_config(self):
        config = super().get_config()
        del config["use_bias"]
        return {
            **config,
            "activation": keras.activations.serialize(self.activation),
            "sub_batch": self.sub_batch,
            "norm_name": self.norm_name,
        }


@keras.saving.register_keras_serializable(package="zoo")
class ConvNorm(_Normalized, SpatialConv):
    """f(BN(W x) + shortcut) on every frame: [B, T, H, W, C] -> [B, T, H', W', filters].

    Call it on a clip, or on a clip and a shortcut of the shape of the result. At
    inference TensorFlow runs it as a single fused convolution.

    Args:
        filters, kernel_size, strides, padding, dilation_rate, kernel_initializer: of
            the convolution, which has no bias, see `SpatialConv`.
        activation: f, e.g. "relu", or None.
        sub_batch: clips per group of the normalisation, None for the whole batch.
        norm_name: name of the normalisation within the layer.

    Raises:
        ValueError: as `SpatialConv` and `SubBatchNormalization`.

    Source: thesis eq. 7.1-7.3; Ioffe and Szegedy 2015.
    """

    def __init__(
        self,
        filters,
        kernel_size,
        strides=1,
        activation=None,
        sub_batch=None,
        norm_name="norm",
        **kwargs,
    ):
        super().__init__(filters, kernel_size, strides, **kwargs)
        self._add_norm(activation, sub_batch, norm_name)


@keras.saving.register_keras_serializable(package="zoo")
class TemporalConvNorm(_Normalized, TemporalConv):
    """f(BN(W x) + shortcut), W over time: [B, T, H, W, C] -> [B, T, H, W, filters].

    The dimensionality mapping of a residual unit, spread over time: with the kernel of
    a 1x1 `ConvNorm` inflated (`inflate`) it answers like that on frames that do not
    change, the first and last aside, where zeros stand beside the clip.

    Args:
        filters, taps, kernel_initializer: of the convolution, which has no bias and is
            padded to keep the number of frames, see `TemporalConv`.
        activation, sub_batch, norm_name: as for `ConvNorm`.

    Raises:
        ValueError: as `TemporalConv` and `SubBatchNormalization`.

    Source: thesis eq. 4.5 and Table 4.1; Ioffe and Szegedy 2015.
    """

    def __init__(
        self,
        filters,
        taps=3,
        activation=None,
        sub_batch=None,
        norm_name="norm",
        **kwargs,
    ):
        super().__init__(filters, taps, use_bias=False, **kwargs)
        self._add_norm(activation, sub_batch, norm_name)


class _Folded(_Fused):
    """Mixed into a convolution: f(W x + b + shortcut), W and b holding a BN."""

    def _add_activation(self, activation):
        self.activation = keras.activations.get(activation)

    def build(self, x_shape, shortcut_shape=None):
        super().build(x_shape)

    def call(self, x, shortcut=None):
        return self._answer(x, self.kernel, self.bias, shortcut)

    def get_config(self):
        config = super().get_config()
        del config["use_bias"]
        return {**config, "activation": keras.activations.serialize(self.activation)}


@keras.saving.register_keras_serializable(package="zoo")
class FoldedConv(_Folded, SpatialConv):
    """A `ConvNorm` whose normalisation is in its kernel and bias for good.

    It computes f(W x + b + shortcut) and is made by `zoo.exports.optimized`.

    Args:
        filters, kernel_size, strides, padding, dilation_rate, kernel_initializer,
            groups: of the convolution, see `SpatialConv`.
        activation: f, e.g. "relu", or None.

    Raises:
        ValueError: as `SpatialConv`.

    Source: thesis eq. 7.1-7.3; Ioffe and Szegedy 2015, algorithm 2, step 11.
    """

    def __init__(self, filters, kernel_size, strides=1, activation=None, **kwargs):
        super().__init__(filters, kernel_size, strides, use_bias=True, **kwargs)
        self._add_activation(activation)


@keras.saving.register_keras_serializable(package="zoo")
class FoldedTemporalConv(_Folded, TemporalConv):
    """A `TemporalConvNorm` whose normalisation is in its kernel and bias for good.

    It computes f(W x + b + shortcut) and is made by `zoo.exports.optimized`.

    Args:
        filters, taps, kernel_initializer: of the convolution, see `TemporalConv`.
        activation: f, e.g. "relu", or None.

    Raises:
        ValueError: as `TemporalConv`.

    Source: thesis eq. 4.5; Ioffe and Szegedy 2015, algorithm 2, step 11.
    """

    def __init__(self, filters, taps=3, activation=None, **kwargs):
        super().__init__(filters, taps, use_bias=True, **kwargs)
        self._add_activation(activation)
