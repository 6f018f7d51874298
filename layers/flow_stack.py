"""From frames to what a two-stream network sees of them, inside the graph.

Source: thesis 2.3 (stacks of L = 10 flow fields, u and v in turn) and 3.3.5 (TV-L1).
"""

import keras
from keras import ops

from zoo.layers._clip import require_positive
from zoo.layers.camera_motion import RemoveCameraMotion
from zoo.layers.clip_view import equally_spaced
from zoo.layers.tv_l1 import TVL1Flow

BEFORE, FIELDS = 5, 10  # of a stack before its frame, and in all
BOUND = 20.0  # pixels, the largest displacement kept (thesis 3.3.5)


@keras.saving.register_keras_serializable(package="zoo")
class FlowStack(keras.layers.Layer):
    """Consecutive frames -> frames and the stack of optical flow around each.

    Takes `frames` [B, N, H, W, 3], RGB, 0-255, uint8 or float, of one video without
    gaps, N >= 2; returns {"rgb": [B, T, H, W, 3] in the type of the frames, "flow":
    float32 [B, T, H, W, 20] in pixels, interleaved u, v of frames t-5 ... t+4, clipped
    at 20}. These are the stacks that `zoo.datasets` reads, without the rounding to 8
    bits: frames t with a whole stack around them, or, in a video of fewer than 11, all
    frames, whose fields are repeated at the ends. Fields are computed once each.

    Args:
        positions: T, how many equally spaced frames t; None takes all.
        preset: of `TVL1Flow`.
        camera_motion: remove the dominant motion of each field, `RemoveCameraMotion`.

    Raises:
        ValueError: positions not a positive integer; an unknown preset; inputs of
            another shape; a single frame.

    Source: thesis 2.3, 3.3.5.
    """

    def __init__(self, positions=None, preset="default", camera_motion=False, **kwargs):
        super().__init__(autocast=False, **kwargs)
        if positions is not None:
            require_positive("FlowStack", positions=positions)
        self.positions = positions
        self.preset = preset
        self.camera_motion = bool(camera_motion)
        self.tv_l1 = TVL1Flow(preset, name="tv_l1")
        self.removal = RemoveCameraMotion(dtype="float32") if camera_motion else None

    def _require_frames(self, shape):
        if len(shape) != 5 or shape[-1] != 3:
            raise ValueError(
                f"FlowStack ({self.name}) takes frames [B, N, H, W, 3], got {shape}."
            )
        if shape[1] is not None and shape[1] < 2:
            raise ValueError(
                f"FlowStack ({self.name}): optical flow needs at least 2 frames, got "
                f"{shape[1]} in {shape}."
            )

    def build(self, input_shape):
        self._require_frames(tuple(input_shape))

    def call(self, frames):
        self._require_frames(tuple(frames.shape))
        count = ops.shape(frames)[1]
        chosen = _centres(count, self.positions)
        stacks = ops.clip(_around(chosen), 0, count - 2)
        needed, places = _needed(stacks, count - 1)
        fields = ops.map(lambda i: self._field(frames, i), needed)
        # [10 T, B, H, W, 2] -> [B, T, H, W, 10, 2] -> interleaved channels.
        flow = ops.take(fields, ops.reshape(places, (-1,)), axis=0)
        batch, height, width = ops.shape(flow)[1:4]
        flow = ops.reshape(flow, (-1, FIELDS, batch, height, width, 2))
        flow = ops.transpose(flow, (2, 0, 3, 4, 1, 5))
        flow = ops.reshape(flow, (*ops.shape(flow)[:4], 2 * FIELDS))
        return {"rgb": ops.take(frames, chosen, axis=1), "flow": flow}

    def _field(self, frames, i):
        """Field i of every video of the batch, [B, H, W, 2]."""
        pair = [ops.take(frames, i, axis=1), ops.take(frames, i + 1, axis=1)]
        flow = self.tv_l1(pair)
        flow = self.removal(flow) if self.removal else flow
        return ops.clip(flow, -BOUND, BOUND)

    def compute_output_spec(self, frames):
        self._require_frames(tuple(frames.shape))
        batch, count, height, width, _ = frames.shape
        length = self.positions
        if length is None and count is not None:
            length = count - FIELDS if count > FIELDS else count
        leading = (batch, length, height, width)
        return {
            "rgb": keras.KerasTensor((*leading, 3), dtype=frames.dtype),
            "flow": keras.KerasTensor((*leading, 2 * FIELDS), dtype="float32"),
        }

    def get_config(self):
        return {
            **super().get_config(),
            "positions": self.positions,
            "preset": self.preset,
            "camera_motion": self.camera_motion,
        }


def _centres(count, positions):
    """Frames with a whole stack around them, all or equally spaced: int [T]."""
    if isinstance(count, int):
        first, whole = (BEFORE, count - FIELDS) if count > FIELDS else (0, count)
    else:
        enough = ops.cast(count > FIELDS, "int32")
        first, whole = enough * BEFORE, count - enough * FIELDS
    if positions is None:
        return first + ops.arange(whole)
    return first + equally_spaced(whole, positions)


def _around(chosen):
    """Fields of the stack of every frame, int [T, 10]."""
    return chosen[:, None] + ops.arange(-BEFORE, FIELDS - BEFORE)


def _needed(stacks, total):
    """Fields to compute and the places of the stacks' fields among them.

    All fields of the video where the stacks overlap much, else those of the stacks one
    after the other: whichever are fewer.
    """
    one_by_one = ops.reshape(stacks, (-1,))
    size = ops.shape(one_by_one)[0]
    known = isinstance(size, int) and isinstance(total, int)
    fewest = min(size, total) if known else ops.minimum(size, total)
    overlapping = ops.cast(total, "int32") <= ops.cast(size, "int32")
    needed = ops.where(overlapping, ops.arange(fewest), one_by_one[:fewest])
    in_order = ops.reshape(ops.arange(size), ops.shape(stacks))
    return needed, ops.where(overlapping, stacks, in_order)
