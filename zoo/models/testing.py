"""The network a video is tested on: view of the video, mirror, averaged scores.

Source: thesis 7.3.3: 16 equally spaced frames, fully convolutional on the original
images and their horizontal flips, the predictions of all locations averaged. 4.3.5 and
5.4.2 do the same with 25 frames and their stacks of flow.
"""

import keras

from zoo.layers import ClipView, FlowStack
from zoo.models.endpoints import features
from zoo.models.inputs import CHANNELS
from zoo.models.plain_rgb import flow_stack_of, network_of

# Pixels that a network may see of one video by default, frames x H' x W': memory and
# time go with them, and a thin frame is large once its shorter side is stretched.
MAX_VIEW_PIXELS = 2**25
# So many frames between which flow is computed count as one that the network sees.
FRAMES_PER_VIEW = 4
# Names of a video's frames and flow, beside the names of what a model sees of them.
VIDEO_INPUTS = {"rgb": "clips", "flow": "flow"}


def inputs_of(model):
    """What a model sees, ("rgb",), ("flow",) or both (thesis 2.3)."""
    if isinstance(model.input, dict):
        return tuple(model.input)
    return (model.input.name,)


def alone_or_all(named):
    """The value of a dict of one; else the dict, as Keras takes inputs (thesis 2.3)."""
    return next(iter(named.values())) if len(named) == 1 else named


def video_classifier(model, frames=16, shorter_side=256, flip=True):
    """Wraps a classifier of clips into one of whole videos.

    Evaluation, prediction and export all run this network, so that they agree.

    Args:
        model: a model of the zoo that sees `rgb`, `flow`, or both.
        frames: number of equally spaced frames taken from the video.
        shorter_side: to which frames are resized, in pixels; flow is scaled alike.
        flip: average the raw scores over the frames and their mirror images.

    Returns:
        A keras.Model to {"logits": [B, K], "predictions": [B, K]}: raw scores, and the
        activation of `model` on them. Its inputs are `clips` [B, T, H, W, 3], uint8 or
        float, RGB 0-255, and `flow` [B, T, H, W, 20] in pixels, the stack around every
        frame, any T, H and W, the same in both; a dict where the model sees both. A
        model of `zoo.models.plain_rgb` takes `clips` alone, all frames of a video.

    Source: thesis 7.3.3, 4.3.5.
    """
    scores = features(network_of(model), ["logits"])
    given, views = _views(model, frames, shorter_side)
    model = network_of(model)
    mirrors = {
        kind: Mirror(kind == "flow", name=f"{kind}_mirror")(view)
        for kind, view in views.items()
    }
    logits = scores(alone_or_all(views))["logits"]
    if flip:
        mirrored = scores(alone_or_all(mirrors))["logits"]
        logits = keras.layers.Average(dtype="float32")([logits, mirrored])
    activation = model.get_layer("predictions").activation
    predictions = keras.layers.Activation(activation, dtype="float32")(logits)
    outputs = {"logits": logits, "predictions": predictions}
    return keras.Model(alone_or_all(given), outputs, name=f"{model.name}_on_videos")


def video_view(model, frames=16, shorter_side=256):
    """What a classifier sees of a video: the part of `video_classifier` before it.

    Args:
        model, frames, shorter_side: as of `video_classifier`.

    Returns:
        A keras.Model without weights, from the inputs of `video_classifier` to {"rgb":
        [B, frames, H', W', 3], "flow": [B, frames, H', W', 20]} float32, or one of
        them, as `zoo.models.plain_rgb.network_of(model)` sees them.

    Source: thesis 7.3.3, 4.3.5.
    """
    given, views = _views(model, frames, shorter_side)
    return keras.Model(alone_or_all(given), views, name=f"{model.name}_view")


def _views(model, frames, shorter_side):
    """Inputs of a network of videos, and what it sees of them, {"rgb", "flow"}."""
    stack, model = flow_stack_of(model), network_of(model)
    if stack is None:
        return _given_views(model, frames, shorter_side)
    return _computed_views(model, stack, frames, shorter_side)


def _given_views(model, frames, shorter_side):
    """Inputs of a network of videos, and what it sees of them, {"rgb", "flow"}."""
    given, views = {}, {}
    for kind in inputs_of(model):
        name = VIDEO_INPUTS[kind]
        given[name] = keras.Input((None, None, None, CHANNELS[kind]), name=name)
        view = ClipView(frames, shorter_side, kind == "flow", name=f"{kind}_view")
        views[kind] = view(given[name])
    return given, views


def _computed_views(model, stack, frames, shorter_side):
    """The same with flow computed from all frames, in the size of the view."""
    clips = keras.Input((None, None, None, CHANNELS["rgb"]), name="clips")
    resized = ClipView(None, shorter_side, name="frames_view")(clips)
    settings = {**stack.get_config(), "positions": frames}
    views = FlowStack.from_config(settings)(resized)
    return {"clips": clips}, {kind: views[kind] for kind in inputs_of(model)}


@keras.saving.register_keras_serializable(package="zoo")
class Mirror(keras.layers.Layer):
    """Horizontal flip of clips [B, T, H, W, C] (thesis 7.3.3).

    Args:
        flow: whether they are optical flow, u and v in turn, whose u turns around.
    """

    def __init__(self, flow=False, **kwargs):
        super().__init__(**kwargs)
        self.flow = bool(flow)

    def call(self, x):
        x = keras.ops.flip(x, axis=3)
        if self.flow:
            x = x * keras.ops.convert_to_tensor(
                [-1.0, 1.0] * (x.shape[-1] // 2), x.dtype
            )
        return x

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "flow": self.flow}
