"""Convolution, batch normalisation, shortcut and nonlinearity in one layer.

Source: f(W x) and f(x + F(x)) of thesis eq. 7.1-7.3, in which batch normalisation is
"omitted for simplicity"; folding it into the kernel at inference is exact algebra.
"""

import keras
from keras import ops

from zoo.layers._clip import fold_time, unfold_time
from zoo.layers.spatial_conv import SpatialConv
from zoo.layers.sub_batch_normalization import SubBatchNormalization


@keras.saving.register_keras_serializable(package="zoo")
class ConvNorm(SpatialConv):
    """f(BN(W x) + shortcut) on every frame: [B, T, H, W, C] -> [B, T, H', W', filters].

    In training it is the convolution, `SubBatchNormalization`, the sum and the
    nonlinearity, one after the other. At inference the normalisation is folded into
    the kernel, and everything happens on folded frames without a reshape in between,
    so that TensorFlow runs it as a single fused convolution.

    Call it on a clip, or on a clip and a shortcut of the shape of the result.

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
            frames = self._convolve(fold_time(x), self.kernel)
            y = self.norm(unfold_time(frames, like=x), training=True)
            return self.activation(y if shortcut is None else shortcut + y)
        factor, offset = self.norm.inference_affine()
        kernel = ops.cast(self.kernel * factor, x.dtype)
        y = self._convolve(fold_time(x), kernel)
        y = ops.add(y, ops.cast(offset, x.dtype))
        if shortcut is not None:
            y = y + fold_time(shortcut)
        return unfold_time(self.activation(y), like=x)

    def compute_output_shape(self, x_shape, shortcut_shape=None):
        return super().compute_output_shape(x_shape)

    def get_config(self):
        config = super().get_config()
        del config["use_bias"]
        return {
            **config,
            "activation": keras.activations.serialize(self.activation),
            "sub_batch": self.sub_batch,
            "norm_name": self.norm_name,
        }
