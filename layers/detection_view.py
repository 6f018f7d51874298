"""Frames in the size that a detector works on, and its boxes back on the frames.

Source: thesis 8.5.2, "single scale images with shorter dimension of 600 pixels"; the
release keeps the longer one within 1000 and resizes bilinearly, without antialiasing.
"""

import keras
from keras import ops

from zoo.layers._clip import require_positive
from zoo.layers.clip_view import resize_matrix


@keras.saving.register_keras_serializable(package="zoo")
class DetectionView(keras.layers.Layer):
    """Frames of any size -> frames of a set shorter side, the longer one limited.

    [B, T, H, W, 3] uint8 or float -> [B, T, H', W', 3] float32 in the same range, and
    the factors [4] by which boxes x1, y1, x2, y2 grow with them. The aspect ratio is
    kept to the pixel.

    Args:
        shorter_side: of the result in pixels, unless the longer one forbids it.
        longer_side: at most, in pixels.

    Raises:
        ValueError: a side that is no positive whole number, or a limit of the longer
            side below the shorter one.

    Source: thesis 8.5.2; 1000 pixels and the interpolation from the release.
    """

    def __init__(self, shorter_side=600, longer_side=1000, **kwargs):
        super().__init__(autocast=False, **kwargs)
        require_positive(
            "DetectionView", shorter_side=shorter_side, longer_side=longer_side
        )
        if longer_side < shorter_side:
            raise ValueError(
                f"DetectionView: longer_side {longer_side} is less than shorter_side "
                f"{shorter_side}; raise it."
            )
        self.shorter_side = shorter_side
        self.longer_side = longer_side

    def call(self, clips):
        x = ops.cast(clips, "float32")
        height, width = ops.shape(x)[2:4]
        rows, columns = self._scaled(height, width), self._scaled(width, height)
        factors = [
            ops.cast(new, "float32") / ops.cast(old, "float32")
            for new, old in ((columns, width), (rows, height))
        ]
        rows = resize_matrix(height, rows, antialias=False)
        columns = resize_matrix(width, columns, antialias=False)
        x = ops.einsum("ih,bthwc,jw->btijc", rows, x, columns)
        return x, ops.stack(factors * 2)

    def _scaled(self, size, other):
        """A side of the result, rounded in integers so that every machine agrees."""
        shorter, longer = ops.minimum(size, other), ops.maximum(size, other)
        fits = self.shorter_side * longer <= self.longer_side * shorter
        target = ops.where(fits, self.shorter_side, self.longer_side)
        reference = ops.where(fits, shorter, longer)
        return ops.maximum((2 * size * target + reference) // (2 * reference), 1)

    def compute_output_shape(self, input_shape):
        batch, length, _, _, channels = input_shape
        return (batch, length, None, None, channels), (4,)

    def compute_output_spec(self, clips):
        view, factors = self.compute_output_shape(clips.shape)
        return (
            keras.KerasTensor(view, dtype="float32"),
            keras.KerasTensor(factors, dtype="float32"),
        )

    def get_config(self):
        return {
            **super().get_config(),
            "shorter_side": self.shorter_side,
            "longer_side": self.longer_side,
        }
