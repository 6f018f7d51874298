"""The view of a video that a network is tested on: equally spaced frames, resized.

Source: thesis 7.3.3 (16 equally spaced frames, the whole frame, fully convolutional)
and 3.3.5 (frames rescaled so that the smaller side equals 256).
"""

import keras
from keras import ops

from zoo.layers._clip import require_positive


def equally_spaced(num_frames, frames):
    """Indices of `frames` equally spaced frames of `num_frames`: [frames], ascending.

    Index i is floor((i + 1/2) num_frames / frames), the middle of the i-th of equal
    pieces; a video shorter than `frames` repeats its frames in order. Taking the view
    of a view changes nothing.

    Args:
        num_frames: length of the video, a number or a scalar tensor.
        frames: how many to take.

    Source: thesis 7.3.3.
    """
    return ((2 * ops.arange(frames) + 1) * num_frames) // (2 * frames)


def take_frames(clips, frames):
    """[B, T, ...] -> [B, frames, ...], equally spaced in time (thesis 7.3.3)."""
    return ops.take(clips, equally_spaced(ops.shape(clips)[1], frames), axis=1)


def resize_matrix(source, target, antialias=True):
    """Linear map [target, source] that resizes one axis.

    A triangle filter, centres aligned half a pixel in, rows summing to 1 (as
    tf.image.resize). A product works with sizes known only at run time, and on every
    backend.

    Args:
        source, target: lengths in pixels, numbers or scalar tensors.
        antialias: the filter is as wide as the larger of the two pixel grids; else it
            reaches to the next pixels only.

    Source: linear interpolation; Turkowski 1990, "Filters for common resampling tasks".
    """
    ratio = ops.cast(source, "float32") / ops.cast(target, "float32")
    centres = (ops.cast(ops.arange(target), "float32") + 0.5) * ratio - 0.5
    distance = ops.cast(ops.arange(source), "float32")[None] - centres[:, None]
    reach = ops.maximum(ratio, 1.0) if antialias else 1.0
    weights = ops.relu(1 - ops.abs(distance) / reach)
    return weights / ops.sum(weights, axis=1, keepdims=True)


@keras.saving.register_keras_serializable(package="zoo")
class ClipView(keras.layers.Layer):
    """Clips of any length and size -> equally spaced frames of a set shorter side.

    [B, T, H, W, C] uint8 or float -> [B, frames, H', W', C] float32 in the same
    range, min(H', W') = shorter_side, the aspect ratio kept to the pixel.

    Args:
        frames: number of frames taken, see `equally_spaced`; None takes all.
        shorter_side: of the result, in pixels.
        flow: whether the clips are optical flow in pixels, whose displacements grow
            and shrink with the frames.

    Source: thesis 7.3.3 and 3.3.5.
    """

    def __init__(self, frames=16, shorter_side=256, flow=False, **kwargs):
        super().__init__(autocast=False, **kwargs)
        counts = {} if frames is None else {"frames": frames}
        require_positive("ClipView", **counts, shorter_side=shorter_side)
        self.frames = frames
        self.shorter_side = shorter_side
        self.flow = bool(flow)

    def call(self, clips):
        x = clips if self.frames is None else take_frames(clips, self.frames)
        x = ops.cast(x, "float32")
        height, width = ops.shape(x)[2:4]
        shorter = ops.minimum(height, width)
        rows = resize_matrix(height, self._scaled(height, shorter))
        columns = resize_matrix(width, self._scaled(width, shorter))
        if self.flow:
            rows = rows * (self.shorter_side / ops.cast(shorter, "float32"))
        return ops.einsum("ih,bthwc,jw->btijc", rows, x, columns)

    def _scaled(self, size, shorter):
        # Rounded in integers, so that every backend and machine agrees.
        return (2 * size * self.shorter_side + shorter) // (2 * shorter)

    def compute_output_shape(self, input_shape):
        batch, length, height, width, channels = input_shape
        if height is not None and width is not None:
            shorter = min(height, width)
            height = self._scaled(height, shorter)
            width = self._scaled(width, shorter)
        else:
            height = width = None
        return (batch, self.frames or length, height, width, channels)

    def compute_output_spec(self, clips):
        shape = self.compute_output_shape(clips.shape)
        return keras.KerasTensor(shape, dtype="float32")

    def get_config(self):
        return {
            **super().get_config(),
            "frames": self.frames,
            "shorter_side": self.shorter_side,
            "flow": self.flow,
        }
