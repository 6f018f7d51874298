"""Assertions on requests, which run in the server: shapes, limits, values.

What fails them is answered with INVALID_ARGUMENT and a message that says what is
expected and what came.

Source: thesis 2.3 for the inputs; TensorFlow Serving's errors are absl's status codes.
"""

import tensorflow as tf

from zoo.models.inputs import CHANNELS as KINDS
from zoo.models.testing import FRAMES_PER_VIEW, VIDEO_INPUTS

TYPES = {
    "clips": tf.uint8,
    "flow": tf.float32,
    "frames": tf.uint8,
    "rgb": tf.float32,
}
CHANNELS = {**KINDS, **{VIDEO_INPUTS[kind]: count for kind, count in KINDS.items()}}
CONTENTS = {
    "clips": "uint8 [batch, frames, height, width, 3], RGB",
    "flow": "float32 [batch, frames, height, width, 20], optical flow in pixels",
    "frames": "uint8 [batch, frames, height, width, 3], RGB",
    "rgb": "float32 [batch, frames, height, width, 3], RGB 0-255",
}
# Above this mean, in pixels, flow is taken for 8-bit codes.
LARGEST_MEAN_FLOW = 40.0
# Of the two matrices that resize a frame; one of 256 x 4000 has as many.
MAX_RESIZE_WEIGHTS = 2**24


def checked(inputs, fits):
    """The inputs of a request, after assertions that run in the server.

    Args:
        inputs: {name: tensor [B, T, H, W, C]}, names as in `CONTENTS`.
        fits: function of (name, shape int64 [5]) of the first to more assertions.

    Returns:
        {name: tensor}, of the declared shape.

    Source: thesis 2.3.
    """
    shapes, checks = {}, []
    for name, tensor in inputs.items():
        fed = as_fed(tensor)
        shapes[name] = tf.shape(fed, out_type=tf.int64)
        checks.append(_is_clip(name, shapes[name], tensor.shape[-1]))
    first = next(iter(shapes))
    with tf.control_dependencies(checks):
        shape = tf.identity(shapes[first])
        checks = fits(first, shape)
        checks += [
            _same_size(first, shapes[first], name, shape)
            for name, shape in shapes.items()
            if name != first
        ]
    with tf.control_dependencies(checks):  # values last, once their number is known
        checks += [
            VALUES[name](as_fed(x)) for name, x in inputs.items() if name in VALUES
        ]
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


def fits_view(contract, all_frames):
    """Function of (name, shape) to assertions that clips keep a contract's limits.

    Args:
        contract: `Contract`. all_frames: whether flow is computed between all frames.

    Source: thesis 7.3.3 for the view.
    """
    decoded = fits_decoded(contract, all_frames)

    def fits(name, shape):
        sent = [fits_frames(shape, contract), fits_pixels(shape, contract)]
        return sent + decoded(name, shape)

    return fits


def fits_decoded(contract, all_frames):
    """The same for clips that come as files, whose pixels are not sent.

    Args:
        contract: `Contract`. all_frames: whether flow is computed between all frames.

    Source: thesis 7.3.3 for the view.
    """

    def fits(name, shape):
        checks = [_small_view(shape, contract, all_frames), _not_thin(shape, contract)]
        return checks + ([_is_video(name, shape)] if all_frames else [])

    return fits


def fits_network(contract):
    """Function of (name, shape) to assertions that a network may see all of a request.

    Args:
        contract: `Contract`.

    Source: thesis 7.3.3 for the view, which this has the size of.
    """

    def fits(_, shape):
        sees = "all of which the network sees"
        few = _few_pixels(shape, contract.max_view_pixels, f"may be sent, {sees}")
        return [fits_frames(shape, contract), few]

    return fits


def finite(scores):
    """The scores of a network, after an assertion that they are finite.

    Args:
        scores: float [B, K].

    Source: none; maps that are smaller than a filter have no mean.
    """
    message = (
        "The network's scores are not finite: the clips are smaller than it can see, "
        "or their values too large."
    )
    is_finite = tf.reduce_all(tf.math.is_finite(scores))
    with tf.control_dependencies([tf.debugging.Assert(is_finite, [message])]):
        return tf.identity(scores)


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
    return tf.debugging.Assert(shape[1] >= 2, [message, shape], summarize=8)


def fits_frames(shape, limits):
    """An assertion that a request holds few frames.

    Args:
        shape: int64 [5]. limits: `Contract`, or whatever has `max_frames`.

    Source: arithmetic.
    """
    message = (
        f"The request is too large: at most {limits.max_frames} frames may be sent; "
        "send fewer or shorter clips, or export with other limits. Got shape:"
    )
    few = shape[0] * shape[1] <= limits.max_frames
    return tf.debugging.Assert(few, [message, shape], summarize=8)


def fits_pixels(shape, limits):
    """An assertion that a request holds few pixels.

    Args:
        shape: int64 [5]. limits: `Contract`, or whatever has `max_pixels`.

    Source: arithmetic.
    """
    return _few_pixels(shape, limits.max_pixels, "may be sent")


def _few_pixels(shape, most, what):
    pixels = tf.reduce_prod(shape[:4])
    message = (
        f"The request is too large: at most {most} pixels {what}; send fewer, smaller "
        "or shorter clips, or export with other limits. Got shape, pixels sent:"
    )
    return tf.debugging.Assert(pixels <= most, [message, shape, pixels], summarize=8)


def _small_view(shape, contract, all_frames):
    batch, time, height, width, _ = tf.unstack(shape, num=5)
    shorter, longer = tf.minimum(height, width), tf.maximum(height, width)
    side = contract.shorter_side
    # Frames between which flow is computed cost less than those the network sees.
    frames = contract.frames
    if all_frames:
        frames = tf.maximum(tf.constant(frames, tf.int64), time // FRAMES_PER_VIEW)
    view = batch * frames * side * (side * longer // shorter)
    taken = "all" if all_frames else contract.frames
    message = (
        f"The request is too large: pixels of which {contract.max_view_pixels} remain "
        f"are accepted, after taking {taken} frames and resizing them to a shorter "
        f"side of {side}; send fewer, smaller or shorter clips, or export with other "
        "limits. Got shape, pixels remaining:"
    )
    small = view <= contract.max_view_pixels
    return tf.debugging.Assert(small, [message, shape, view], summarize=8)


def resize_weights(size, side):
    """How many weights resizing takes, a matrix for each axis, int64 scalar.

    Args:
        size: height and width, int64 [2]. side: of the result, the shorter one.

    Source: zoo.layers.clip_view.
    """
    shorter = tf.reduce_min(size)
    return tf.reduce_sum(size * (size * side // shorter))


def _not_thin(shape, contract):
    weights = resize_weights(shape[2:4], contract.shorter_side)
    message = (
        f"The frames are too large for their shape: {MAX_RESIZE_WEIGHTS} weights are "
        f"accepted that resize them to a shorter side of {contract.shorter_side}, and "
        "a long and thin frame takes more. Got shape, weights:"
    )
    few = weights <= MAX_RESIZE_WEIGHTS
    return tf.debugging.Assert(few, [message, shape, weights], summarize=8)


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
    # That of flow with an infinite value is infinite or no number.
    in_pixels = tf.math.is_finite(mean) & (mean <= LARGEST_MEAN_FLOW)
    return tf.debugging.Assert(in_pixels, [message, mean])


def _in_colours(rgb):
    least, most = tf.reduce_min(rgb), tf.reduce_max(rgb)
    message = "`rgb` must be finite and within 0-255; got least and most:"
    # The mean tells of a value that is no number; minimum and maximum may pass it.
    is_number = tf.math.is_finite(tf.reduce_mean(rgb))
    facts = [is_number, least >= 0, most <= 255]
    return tf.debugging.Assert(tf.reduce_all(facts), [message, least, most])


VALUES = {"flow": _in_pixels, "rgb": _in_colours}
