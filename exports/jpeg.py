"""JPEG files in a graph: looked at before they are decoded, refused by name.

A failed decoder ends the whole request with a message that does not say which file it
was. So every file passes a dataset that drops those that fail; what is missing is then
named. Only headers are read until the request is known to fit.

Source: tensorflow.org/api_docs/python/tf/data/Dataset; ITU-T T.81 for JPEG.
"""

import tensorflow as tf

from zoo.exports.checks import as_fed

MAX_FRAME_PIXELS = 2**25  # of one file, H x W; a frame of 8K video is a bit less
MAX_FILE_BYTES = 2**16  # of one file beside three bytes a pixel, for its header
# Pixels that are decoded at a time, 15 bytes each, while they are resized.
AT_A_TIME = 2**22


def read(jpeg, contract, fits, choose=None, view=None):
    """Frames of JPEG files [B, T], which are checked by their headers first.

    Args:
        jpeg: string tensor, fed; files of B clips of T frames, all of one size.
        contract: `Contract`, or whatever has `max_pixels` and `max_frames`.
        fits: function of the shape [B, T, H, W, 3] of all frames, int64 [5], to more
            assertions.
        choose: function of T to the indices of those that are decoded; None for all.
        view: function of one frame uint8 [1, 1, H, W, 3] to what is kept of it, float
            likewise; None keeps it.

    Returns:
        uint8 or float [B, chosen, H', W', 3].

    Raises:
        tf.errors.InvalidArgumentError: when it runs, if the request is empty or above
            a limit, a file is none or damaged, or sizes differ; the message names clip
            and frame.

    Source: see the module.
    """
    files = _checked(jpeg, contract)
    batch, time = tf.unstack(tf.shape(files, out_type=tf.int64))
    chosen = tf.range(time) if choose is None else tf.cast(choose(time), tf.int64)
    size = _checked_size(files)
    shape = tf.concat([[batch, time], size, [3]], 0)
    decoded = batch * tf.size(chosen, tf.int64) * tf.reduce_prod(size)
    checks = [_fits(size, decoded, contract), *fits(shape)]
    with tf.control_dependencies(checks):
        taken = tf.reshape(tf.gather(files, chosen, axis=1), [-1])
    frames = _decoded(taken, size, view, lambda i: _place(i, chosen))
    return tf.reshape(frames, tf.concat([[batch, -1], tf.shape(frames)[1:]], 0))


def decode(file):
    """One JPEG file as RGB, uint8 [H, W, 3]; grey and CMYK are converted.

    The accurate transform, not TensorFlow's default: it rounds alike on every machine
    and in other decoders.

    Args:
        file: string scalar.

    Source: ITU-T T.81.
    """
    return tf.io.decode_jpeg(file, channels=3, dct_method="INTEGER_ACCURATE")


def _checked(jpeg, contract):
    """The files, after assertions of their number and length."""
    fed = as_fed(jpeg)
    shape = tf.shape(fed, out_type=tf.int64)
    # By the number of axes longer than 0, since the declared rank would be folded in.
    axes = tf.math.count_nonzero(shape > 0)
    is_batch = tf.reduce_all(tf.concat([[tf.equal(axes, 2)], shape > 0], 0))
    wrong = (
        "`jpeg` must be strings [batch, frames], JPEG files of the frames of every "
        "clip, with no axis of length 0, e.g. one clip of shape [1, 16]; got shape:"
    )
    with tf.control_dependencies([tf.debugging.Assert(is_batch, [wrong, shape])]):
        files = tf.ensure_shape(tf.identity(fed), (None, None))
    count = tf.size(files, tf.int64)
    length = tf.reduce_sum(tf.cast(tf.strings.length(files), tf.int64))
    most = 3 * contract.max_pixels + MAX_FILE_BYTES * count
    many = (
        f"The request is too large: at most {contract.max_frames} frames may be sent; "
        "send fewer or shorter clips, or export with other limits. Got shape:"
    )
    long = (
        f"The request is too large: at most three bytes for each of "
        f"{contract.max_pixels} pixels and {MAX_FILE_BYTES} a file may be sent; got "
        "bytes:"
    )
    checks = [
        tf.debugging.Assert(count <= contract.max_frames, [many, shape]),
        tf.debugging.Assert(length <= most, [long, length]),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(files)


def _checked_size(files):
    """Height and width of all files, int64 [2], after assertions that it is one."""
    flat, time = tf.reshape(files, [-1]), tf.shape(files, out_type=tf.int64)[1]
    found = _each(
        lambda file: tf.io.extract_jpeg_shape(file, tf.int64)[:2], flat, (2,), tf.int64
    )
    place = _place_of(time)
    with tf.control_dependencies([_all_there(found[0], flat, place, "read")]):
        sizes = tf.identity(found[1])
    differs = tf.reduce_any(sizes != sizes[:1], axis=1)
    first = tf.argmax(tf.cast(differs, tf.int8))
    message = (
        "The frames of all clips must have one height and width. Got clip, frame, "
        "its height and width, those of the first frame:"
    )
    same = tf.debugging.Assert(
        tf.logical_not(tf.reduce_any(differs)),
        [message, *place(first), sizes[first], sizes[0]],
    )
    with tf.control_dependencies([same]):
        return tf.identity(sizes[0])


def _place_of(time):
    """Function of a place among the files of [B, T] to clip and frame."""
    return lambda index: (index // time, index % time)


def _place(index, chosen):
    """Clip and frame of a place among the chosen files."""
    count = tf.size(chosen, tf.int64)
    return index // count, tf.gather(chosen, index % count)


def _fits(size, decoded, contract):
    pixels = min(MAX_FRAME_PIXELS, contract.max_pixels)
    message = (
        f"The request is too large: at most {contract.max_pixels} pixels may be "
        f"decoded and {pixels} of one frame; send fewer, smaller or shorter clips, or "
        "export with other limits. Got height and width, pixels to decode:"
    )
    fits = tf.logical_and(
        tf.reduce_prod(size) <= pixels, decoded <= contract.max_pixels
    )
    return tf.debugging.Assert(fits, [message, size, decoded])


def _decoded(files, size, view, place):
    """Frames [N, H', W', 3] of checked files [N], or an error that names one."""

    def frame(file):
        frame = decode(file)
        return frame if view is None else view(frame[None, None])[0, 0]

    dtype = tf.uint8 if view is None else tf.float32
    at_a_time = tf.clip_by_value(AT_A_TIME // tf.reduce_prod(size), 1, 16)
    found = _each(frame, files, (None, None, 3), dtype, at_a_time)
    with tf.control_dependencies([_all_there(found[0], files, place, "decoded")]):
        return tf.identity(found[1])


def _each(function, files, shape, dtype, at_a_time=16):
    """A function of every file that it does not fail on: places [n], results [n, ...].

    Args:
        function: of a string scalar. files: [N], N > 0. shape, dtype: of its results.
        at_a_time: how many at the same time.
    """

    def one(place, file):
        return place, tf.ensure_shape(function(file), shape)

    options = tf.data.Options()
    options.autotune.enabled = False  # it would start a thread for every request
    options.experimental_optimization.apply_default_optimizations = False
    results = tf.data.Dataset.from_tensor_slices(files).enumerate()
    results = results.map(one, num_parallel_calls=at_a_time, deterministic=True)
    results = results.ignore_errors(log_warning=False)
    results = results.batch(tf.size(files, tf.int64))
    none = tf.zeros([0], tf.int64), tf.zeros([0, *(x or 0 for x in shape)], dtype)
    results = results.concatenate(tf.data.Dataset.from_tensors(none)).take(1)
    return results.with_options(options).get_single_element()


def _all_there(places, files, place, done):
    """An assertion that no file is missing; it names the first one that is."""
    count = tf.size(places, tf.int64)
    first = tf.math.count_nonzero(tf.equal(places, tf.range(count)))
    first = tf.minimum(first, tf.size(files, tf.int64) - 1)
    message = (
        f"A file could not be {done}: it is no JPEG, damaged or cut off. Got clip, "
        "frame, length in bytes:"
    )
    length = tf.strings.length(files[first])
    every = tf.equal(count, tf.size(files, tf.int64))
    return tf.debugging.Assert(every, [message, *place(first), length])
