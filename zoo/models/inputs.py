"""What networks see: RGB frames, and stacks of optical flow around each of them.

Source: thesis 2.3 and 3.3.5: L = 10 horizontal and vertical flow fields, displacements
clipped at 20 pixels.

Flow is in pixels, not in the 8-bit codes that it is stored in: `codes * 40 / 255 - 20`
decodes them, as `zoo.datasets` does. Networks tell codes from pixels only where they
are called on values, not in `model.fit`, `model.predict` or a `tf.function`, whose
answers to codes are worthless; exported models refuse codes.
"""

import keras

from zoo import layers
from zoo.layers.flow_stack import FIELDS  # L, frames t - 5 ... t + 4

CHANNELS = {"rgb": 3, "flow": 2 * FIELDS}
RGB = "[B, T, H, W, 3] RGB, 0-255, uint8 or float; normalised inside"
FLOW = (
    "[B, T, H, W, 20] optical flow in pixels, u right and v down, interleaved u, v of "
    "frames t-5 ... t+4; clipped at 20 and normalised inside"
)
DESCRIPTIONS = {"rgb": RGB, "flow": FLOW}
# Streams of a two-stream network and what they see (thesis 2.3).
STREAMS = {"appearance": "rgb", "motion": "flow"}


def video_input(kind):
    """The input "rgb" or "flow", a clip of any number, length and size (thesis 2.3)."""
    return keras.Input((None, None, None, CHANNELS[kind]), name=kind)


# Flow stored in 8 bits has zero motion at 127.5, from which the release subtracts 128.
RELEASED_OFFSET = -0.5


def normalized(x, mean, prefix="", flow_offset=0.0):
    """RGB less its mean colour, or flow clipped and scaled to the same range.

    Args:
        x: an input tensor of `video_input`.
        mean: of R, G, B in 0-255; flow has none.
        prefix: of the layer's name, "appearance_" or "motion_" in two-stream networks.
        flow_offset: what zero motion becomes, `RELEASED_OFFSET` for released weights.

    Source: thesis 3.3.5.
    """
    if x.shape[-1] == CHANNELS["rgb"]:
        return layers.RGBNormalization(mean, name=f"{prefix}rgb_normalization")(x)
    name = f"{prefix}flow_normalization"
    return layers.FlowNormalization(offset=flow_offset, name=name)(x)
