"""Channel-wise affine scaling of a residual signal.

Source: S_l of thesis eq. 7.6, initialised with a scale of 0.01 and zero bias.
"""

import keras


@keras.saving.register_keras_serializable(package="zoo")
class ChannelScale(keras.layers.Layer):
    """y = scale * x + bias, one scale and one bias per channel of [..., C].

    A small scale lets a new branch into a trained network without disturbing it.

    Args:
        scale: initial value of every scale.

    Source: S_l of thesis eq. 7.6.
    """

    def __init__(self, scale=0.01, **kwargs):
        super().__init__(**kwargs)
        self.initial_scale = float(scale)

    def build(self, input_shape):
        channels = (input_shape[-1],)
        self.scale = self.add_weight(
            name="scale",
            shape=channels,
            initializer=keras.initializers.Constant(self.initial_scale),
        )
        self.bias = self.add_weight(name="bias", shape=channels, initializer="zeros")

    def call(self, x):
        return self.scale * x + self.bias

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "scale": self.initial_scale}
