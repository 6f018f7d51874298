"""Normalisation of RGB frames and optical flow inside the network.

Source: thesis 3.3.5 (flow clipped at 20 pixels and stored in 8 bits); the means are
those of the ImageNet networks the thesis starts from.
"""

import math

import keras
from keras import ops

from zoo.layers._clip import require_content, value_if_known


@keras.saving.register_keras_serializable(package="zoo")
class RGBNormalization(keras.layers.Layer):
    """Subtracts the mean colour: RGB [B, T, H, W, 3] in 0-255 -> about -128 to 128.

    With a deviation the difference is divided by it, -> about -2 to 2. Works in float32
    at least, since bfloat16 cannot hold 0-255 minus a mean to a grey level; the
    result has the policy's compute dtype.

    Args:
        mean: mean of red, green and blue, 0-255.
        deviation: standard deviations of the same, positive, or None for 1.

    Raises:
        ValueError: an input that does not have three channels, or a deviation that is
            not three positive numbers.

    Source: spatial mean of the ImageNet mean image (He et al. 2015); deviations are
    those of ResNeXt (Xie et al. 2017).
    """

    def __init__(self, mean, deviation=None, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.mean = tuple(float(m) for m in mean)
        self.deviation = deviation and tuple(float(d) for d in deviation)
        if deviation and (
            len(self.deviation) != len(self.mean) or min(self.deviation) <= 0
        ):
            raise ValueError(
                "RGBNormalization: deviation must be one positive number per channel "
                f"or None, got {deviation!r}."
            )

    def build(self, input_shape):
        self._require_rgb(input_shape)

    def _require_rgb(self, shape):
        require_content(shape, self)
        if shape[-1] != len(self.mean):
            raise ValueError(
                f"RGBNormalization ({self.name}) takes RGB frames, "
                f"{len(self.mean)} channels, got shape {tuple(shape)}. Repeat the "
                "channel of grey frames three times."
            )

    def call(self, x):
        # Again at every call: one channel would broadcast against three means.
        self._require_rgb(x.shape)
        full = keras.backend.result_type(self.compute_dtype, "float32")
        x = ops.cast(x, full) - ops.convert_to_tensor(self.mean, full)
        if self.deviation:
            x = x / ops.convert_to_tensor(self.deviation, full)
        return ops.cast(x, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "mean": self.mean,
            "deviation": self.deviation,
        }


@keras.saving.register_keras_serializable(package="zoo")
class FlowNormalization(keras.layers.Layer):
    """Clips optical flow and scales it to the range of 8-bit images around zero.

    Flow [B, T, H, W, 2L] in pixels -> clip(flow, -bound, bound) * 127.5 / bound +
    offset, about -127.5 to 127.5: what flow stored in 8 bits is after its mean has
    been subtracted, without the rounding.

    Args:
        bound: largest displacement kept, in pixels.
        offset: added at the end. The released code stores zero motion as 127.5 and
            subtracts 128: an offset of -0.5 reproduces it.

    Raises:
        ValueError: a bound that is not positive, an odd number of channels, NaN, or
            8-bit codes (0-255) instead of pixels. The codes are told by their mean,
            wherever the values can be seen: not in a graph, so neither in `model.fit`
            and `model.predict` nor under `tf.function`.

    Source: thesis 3.3.5, displacements clipped at 20 pixels.
    """

    def __init__(self, bound=20.0, offset=0.0, **kwargs):
        super().__init__(autocast=False, **kwargs)
        if bound <= 0:
            raise ValueError(f"FlowNormalization: bound must be positive, got {bound}.")
        self.bound = float(bound)
        self.offset = float(offset)

    def build(self, input_shape):
        self._require_flow(input_shape)

    def _require_flow(self, shape):
        require_content(shape, self)
        if shape[-1] % 2:
            raise ValueError(
                f"FlowNormalization ({self.name}) takes interleaved u, v: an even "
                f"number of channels, got shape {tuple(shape)}."
            )

    def _require_pixels(self, x):
        mean = value_if_known(ops.mean(x))
        if mean is not None and not math.isfinite(mean):
            raise ValueError(
                f"FlowNormalization ({self.name}) takes finite flow, this one "
                "holds NaN or infinite values; compute it again."
            )
        if mean is not None and mean > 2 * self.bound:
            raise ValueError(
                f"FlowNormalization ({self.name}) takes flow in pixels, of which "
                f"{-self.bound:g} to {self.bound:g} are told apart; the mean of this "
                f"one is {mean:.4g}, which looks like 8-bit codes. Decode them first: "
                f"codes * {2 * self.bound:g} / 255 - {self.bound:g}."
            )

    def call(self, x):
        self._require_flow(x.shape)
        x = ops.cast(x, keras.backend.result_type(self.compute_dtype, "float32"))
        self._require_pixels(x)
        x = ops.clip(x, -self.bound, self.bound)
        x = x * (127.5 / self.bound)
        return ops.cast(x + self.offset if self.offset else x, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "bound": self.bound, "offset": self.offset}
