"""The served function: clips, flow or both in, scores, top classes and labels out.

Source: the test-time network of thesis 7.3.3; the wiring is TensorFlow's own guide,
tensorflow.org/guide/saved_model.
"""

import dataclasses

import tensorflow as tf
from keras import ops

from zoo.layers.clip_view import take_frames
from zoo.models.plain_rgb import flow_stack_of
from zoo.models.testing import FRAMES_PER_VIEW, MAX_VIEW_PIXELS, alone_or_all

TYPES = {"clips": tf.uint8, "flow": tf.float32}
CONTENTS = {
    "clips": "uint8 [batch, frames, height, width, 3], RGB",
    "flow": "float32 [batch, frames, height, width, 20], optical flow in pixels",
}
# Above this mean, in pixels, flow is taken for 8-bit codes.
LARGEST_MEAN_FLOW = 40.0


@dataclasses.dataclass(frozen=True)
class Contract:
    """What a served model promises, and how much a request may ask of it.

    Attributes:
        labels: names of the classes in order; empty for "class_0", "class_1", ...
        frames: number of equally spaced frames taken from a clip.
        shorter_side: to which they are resized, in pixels.
        flip: average the raw scores over the frames and their mirror images.
        top_k: number of best classes returned, at most the number of classes.
        max_pixels: that a request may send, B x T x H x W; three bytes each. The
            default is 1.6 GB, e.g. one clip of 1,700 frames of 640 x 480.
        max_view_pixels: that the network may see of it after sampling and resizing,
            B x frames x H' x W'; memory and time go with it. The default holds 18
            clips of 16 frames of 256 x 455. A thin frame is large here, since its
            shorter side is stretched.
        provenance: what else to write into zoo.json, e.g. the options of the model
            and the data it was trained on; anything that JSON can hold.

    Raises:
        ValueError: a number that is no positive integer, or labels that are no names.

    Source: thesis 7.3.3 for the view; the rest is arithmetic.
    """

    labels: tuple = ()
    frames: int = 16
    shorter_side: int = 256
    flip: bool = True
    top_k: int = 5
    max_pixels: int = 2**29
    max_view_pixels: int = MAX_VIEW_PIXELS
    provenance: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        numbers = "frames", "shorter_side", "top_k", "max_pixels", "max_view_pixels"
        for name in numbers:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"{name} must be an integer of at least 1, got {value!r}."
                )
        if isinstance(self.labels, str):
            raise ValueError(
                f"labels must be a sequence of names, got the string {self.labels!r}."
            )
        object.__setattr__(self, "labels", tuple(self.labels))
        for label in self.labels:
            if not (isinstance(label, str) and label.strip()):
                raise ValueError(f"labels must be names, not empty; got {label!r}.")


def signature(network, contract):
    """Traces the served function of a network.

    The weights are plain tf.Variables holding copies of the network's values, and the
    network computes with them statelessly. A Keras model as an attribute would be
    saved in a form that TensorFlow Serving cannot load, and variables created
    under tf.distribute are one per replica; the copies have neither problem.

    Args:
        network: of `zoo.models.testing.video_classifier`.
        contract: `Contract` with one label per class, by which `network` was made.

    Returns:
        The tf.Module that owns the weights, and the concrete function; together they
        are what tf.saved_model.save takes.

    Source: thesis 7.3.3.
    """
    module = tf.Module()
    module.trained = copies(network.trainable_variables)
    module.fixed = copies(network.non_trainable_variables)

    def serve(**inputs):
        checked = _checked(inputs, contract, computes_flow(network))
        if computes_flow(network):  # between all frames
            taken = checked
        else:
            # Sampled while it is bytes; a long video is never converted whole.
            taken = {k: take_frames(x, contract.frames) for k, x in checked.items()}
        outputs, _ = network.stateless_call(
            module.trained, module.fixed, alone_or_all(taken), training=False
        )
        return _named(outputs, contract)

    specs = {
        name: tf.TensorSpec((None,) * 4 + (channels,), TYPES[name], name=name)
        for name, channels in channels_of(network).items()
    }
    function = tf.function(serve, autograph=False)
    # The concrete function: given the other, tf.saved_model.save traces it again.
    return module, function.get_concrete_function(**specs)


def channels_of(network):
    """{input: channels} of a network, "clips" and "flow" (thesis 2.3)."""
    return {tensor.name: tensor.shape[-1] for tensor in network.inputs}


def copies(variables):
    """Plain variables of the same values, the mean over replicas where they differ.

    Args:
        variables: of a Keras model.

    Source: tensorflow.org/guide/saved_model.
    """
    return [
        tf.Variable(ops.convert_to_numpy(v), trainable=False, name=v.path)
        for v in variables
    ]


def _named(outputs, contract):
    """The outputs of the signature, see docs/serving.md."""
    logits, scores = outputs["logits"], outputs["predictions"]
    # Ranked by raw score: probabilities can be equal where they round to 0 or 1.
    _, classes = tf.math.top_k(logits, k=min(contract.top_k, len(contract.labels)))
    return {
        "scores": scores,
        "logits": logits,
        "classes": classes,
        "labels": tf.gather(tf.constant(contract.labels), classes),
        "top_scores": tf.gather(scores, classes, batch_dims=1),
    }


def computes_flow(network):
    """Whether a network of videos computes optical flow itself (thesis 3.3.5)."""
    return flow_stack_of(network) is not None


def _checked(inputs, contract, all_frames):
    """The inputs, after assertions that run in the server."""
    shapes, checks = {}, []
    for name, tensor in inputs.items():
        fed = as_fed(tensor)
        shapes[name] = tf.shape(fed, out_type=tf.int64)
        checks.append(_is_clip(name, shapes[name], tensor.shape[-1]))
    first = next(iter(shapes))
    with tf.control_dependencies(checks):
        shape = tf.identity(shapes[first])
        checks = [_fits(first, shape, contract, all_frames)]
        if all_frames:
            checks.append(_is_video(first, shape))
        checks += [
            _same_size(first, shapes[first], name, shape)
            for name, shape in shapes.items()
            if name != first
        ]
        if "flow" in inputs:
            checks.append(_in_pixels(inputs["flow"]))
    with tf.control_dependencies(checks):
        return {
            name: tf.ensure_shape(tf.identity(as_fed(x)), x.shape)
            for name, x in inputs.items()
        }


def as_fed(tensor):
    """The tensor without its declared shape (TensorFlow's C++ sessions).

    They do not compare what is fed with the shape that was declared; this operation
    forgets the declaration, so that assertions see the true shape.
    """
    return tf.raw_ops.PlaceholderWithDefault(input=tensor, shape=None)


def _is_clip(name, shape, channels):
    # The graph's optimiser remembers the declared shape and would put 5 for tf.rank;
    # the number of axes longer than 0 has to be counted.
    axes = tf.math.count_nonzero(shape > 0)
    facts = [[tf.equal(axes, 5)], shape > 0, tf.equal(shape[-1:], channels)]
    expected = (
        f"`{name}` must be {CONTENTS[name]}, with no axis of length 0, e.g. one clip "
        f"of shape [1, 16, 240, 320, {channels}]; got shape:"
    )
    is_clip = tf.reduce_all(tf.concat(facts, 0))
    return tf.debugging.Assert(is_clip, [expected, shape], summarize=8)


def _is_video(name, shape):
    message = (
        f"`{name}` must hold the consecutive frames of a video, at least 2, between "
        "which there is optical flow; got shape:"
    )
    return tf.debugging.Assert(shape[1] >= 2, [message, shape])


def _fits(name, shape, contract, all_frames):
    batch, time, height, width, _ = tf.unstack(shape, num=5)
    pixels = batch * time * height * width
    shorter, longer = tf.minimum(height, width), tf.maximum(height, width)
    side = contract.shorter_side
    # Frames between which flow is computed cost less than those the network sees.
    frames = contract.frames
    if all_frames:
        frames = tf.maximum(tf.constant(frames, tf.int64), time // FRAMES_PER_VIEW)
    view = batch * frames * side * (side * longer // shorter)
    taken = "all" if all_frames else contract.frames
    too_large = (
        f"The request is too large: at most {contract.max_pixels} pixels may be sent "
        f"and {contract.max_view_pixels} remain after taking {taken} frames and "
        f"resizing them to a shorter side of {side}; send fewer, smaller or shorter "
        "clips, or export with other limits. Got shape, pixels sent, pixels remaining:"
    )
    fits = tf.logical_and(
        pixels <= contract.max_pixels, view <= contract.max_view_pixels
    )
    return tf.debugging.Assert(fits, [too_large, shape, pixels, view], summarize=8)


def _same_size(first, shape, name, other):
    message = (
        f"`{first}` and `{name}` must have the same batch, frames, height and width, "
        "one stack of flow for every frame; got shapes:"
    )
    same = tf.reduce_all(tf.equal(shape[:4], other[:4]))
    return tf.debugging.Assert(same, [message, shape, other], summarize=8)


def _in_pixels(flow):
    mean = tf.reduce_mean(flow)
    message = (
        "`flow` must be finite and in pixels. A mean like that of this comes from "
        "8-bit codes; decode them first: codes * 40 / 255 - 20. Got mean:"
    )
    return tf.debugging.Assert(mean <= LARGEST_MEAN_FLOW, [message, mean])
