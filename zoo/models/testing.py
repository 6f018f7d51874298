"""The network a video is tested on: view of the video, mirror, averaged scores.

Source: thesis 7.3.3: 16 equally spaced frames, fully convolutional on the original
images and their horizontal flips, the predictions of all locations averaged.
"""

import keras

from zoo.layers import ClipView
from zoo.models.endpoints import features

# Pixels that a network may see of one video by default, frames x H' x W': memory and
# time go with them, and a thin frame is large once its shorter side is stretched.
MAX_VIEW_PIXELS = 2**25


def video_classifier(model, frames=16, shorter_side=256, flip=True):
    """Wraps a classifier of clips into one of whole videos.

    Evaluation, prediction and export all run this network, so that they agree.

    Args:
        model: a model of the zoo with the input `rgb`.
        frames: number of equally spaced frames taken from the video.
        shorter_side: to which frames are resized, in pixels.
        flip: average the raw scores over the frames and their mirror images.

    Returns:
        A keras.Model from `clips` [B, T, H, W, 3], uint8 or float, RGB 0-255, any T,
        H and W, to {"logits": [B, K], "predictions": [B, K]}: raw scores, and the
        activation of `model` on them.

    Source: thesis 7.3.3.
    """
    scores = features(model, ["logits"])
    clips = keras.Input((None, None, None, 3), name="clips")
    view = ClipView(frames, shorter_side, name="view")(clips)
    logits = scores(view)["logits"]
    if flip:
        mirrored = scores(Mirror(name="mirror")(view))["logits"]
        logits = keras.layers.Average(dtype="float32")([logits, mirrored])
    activation = model.get_layer("predictions").activation
    predictions = keras.layers.Activation(activation, dtype="float32")(logits)
    outputs = {"logits": logits, "predictions": predictions}
    return keras.Model(clips, outputs, name=f"{model.name}_on_videos")


@keras.saving.register_keras_serializable(package="zoo")
class Mirror(keras.layers.Layer):
    """Horizontal flip of clips [B, T, H, W, C] (thesis 7.3.3)."""

    def call(self, x):
        return keras.ops.flip(x, axis=3)

    def compute_output_shape(self, input_shape):
        return input_shape
