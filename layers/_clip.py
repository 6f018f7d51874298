"""Shape arithmetic of clips [B, T, H, W, C], shared by the layers of this folder.

Source: the flattening of time into the batch is that of the thesis' released code
(frames of a video are neighbours in the batch); the rest is arithmetic.
"""

import keras
from keras import ops


def fold_time(x):
    """[B, T, H, W, C] -> [B*T, H, W, C], the frames of one clip staying neighbours."""
    batch, time, height, width, channels = ops.shape(x)
    return ops.reshape(x, (batch * time, height, width, channels))


def unfold_time(y, like):
    """[B*T, H', W', C'] -> [B, T, H', W', C'] with B and T of the clip `like`."""
    batch, time = ops.shape(like)[:2]
    return ops.reshape(y, (batch, time, *ops.shape(y)[1:]))


def window_output(size, window, stride=1, dilation=1, padding=0):
    """Number of positions of a window along one axis, or None if `size` is None.

    Args:
        size: length of the axis, None if unknown.
        window, stride, dilation: of the window.
        padding: elements added to the axis in total (both ends together).
    """
    if size is None:
        return None
    return (size + padding - dilation * (window - 1) - 1) // stride + 1


def require_clip(shape, layer):
    """Raises ValueError unless `shape` is that of a clip with known channels."""
    if len(shape) != 5 or shape[-1] is None:
        raise ValueError(
            f"{layer.__class__.__name__} ({layer.name}) takes clips "
            f"[B, T, H, W, C] with a known number of channels, got shape "
            f"{tuple(shape)}. Add the missing axis, e.g. x[:, None] for one frame."
        )


def require_content(shape, layer):
    """Raises ValueError unless `shape` is that of a clip without an empty axis."""
    require_clip(shape, layer)
    if 0 in tuple(shape):
        raise ValueError(
            f"{layer.__class__.__name__} ({layer.name}) got an empty clip, shape "
            f"{tuple(shape)}; every axis must be at least 1."
        )


def require_positive(layer, **values):
    """Raises ValueError unless every named value is an integer of at least 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(
                f"{layer}: {name} must be an integer of at least 1, got {value!r}."
            )


def require_one_of_stride_and_dilation(layer, strides, dilation_rate):
    """Raises ValueError if both exceed 1, which Keras' convolutions do not take."""
    if strides > 1 and dilation_rate > 1:
        raise ValueError(
            f"{layer}: strides ({strides}) and dilation_rate ({dilation_rate}) cannot "
            "both exceed 1; set one of them to 1."
        )


def same_size_as(x, like):
    """`x`, of the same batch, frames, rows and columns as `like`, or an error.

    Sizes that are known beforehand are compared by the layers, with better words. Those
    that are not are compared here, whenever a graph runs: a size of 1 would broadcast
    without a word. Nothing is copied.

    Args:
        x, like: tensors of equal rank, channels last.

    Returns:
        `x`; a graph fails in "streams_of_different_size" if a size is another.
    """
    if None not in (*x.shape[:-1], *like.shape[:-1]):
        return x
    pairs = zip(ops.shape(x)[:-1], ops.shape(like)[:-1], strict=True)
    with keras.name_scope("streams_of_different_size"):
        sizes = [_size_if_equal(a, b) for a, b in pairs]
        return ops.reshape(x, (*sizes, x.shape[-1]))


def _size_if_equal(a, b):
    """A where both sizes are equal; else -1 - a, of which no tensor can be.

    Plain arithmetic, since a choice between integers would leave a GPU waiting.
    """
    if isinstance(a, int) and isinstance(b, int):
        return a
    differ = ops.minimum((a - b) * (a - b), 1)
    return a - differ * (2 * a + 1)


def value_if_known(scalar):
    """The number in a scalar tensor, or None while a graph is traced."""
    try:
        return float(scalar)
    except TypeError:
        return None
