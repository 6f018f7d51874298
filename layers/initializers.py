"""Initialisations of new kernels that keep a trained network intact.

Source: thesis eq. 4.5 (inflation of a spatial kernel), eq. 5.8-5.9 (feature identity
times a temporal filter; the filters are those of Table 5.3), section 3.3.5 (identity
and Gaussian of a fusion kernel).
"""

import keras
from keras import ops

FILTERS = ("centre", "average")
ORDERS = ("interleaved", "block")  # of concatenated channels, eq. 3.3 and release


def temporal_filter(name, taps):
    """The one-dimensional filter f of eq. 5.9 as a list of `taps` numbers, sum 1.

    Args:
        name: "centre" (1 at the middle tap) or "average" (1/taps everywhere).
        taps: length, odd.

    Raises:
        ValueError: unknown name or even number of taps.

    Source: thesis eq. 5.9 and Table 5.3.
    """
    if name not in FILTERS:
        raise ValueError(
            f"Unknown temporal filter {name!r}; accepted are {', '.join(FILTERS)}."
        )
    if taps < 1 or taps % 2 == 0:
        raise ValueError(f"A temporal filter needs an odd number of taps, got {taps}.")
    if name == "average":
        return [1 / taps] * taps
    return [1.0 if t == taps // 2 else 0.0 for t in range(taps)]


def inflate(kernel, taps):
    """Spreads a spatial kernel evenly over `taps` frames, w / T' each (eq. 4.5).

    Args:
        kernel: [..., C, C'] weights of a spatial kernel of any size.
        taps: T', number of frames.

    Returns:
        [taps, ..., C, C']; on frames that do not change it answers like `kernel`.

    Source: thesis eq. 4.5.
    """
    return ops.stack([ops.convert_to_tensor(kernel) / taps] * taps)


@keras.saving.register_keras_serializable(package="zoo")
class FeatureIdentity(keras.initializers.Initializer):
    """Identity between channels times a temporal filter: kernel = f (x) 1.

    Args:
        filter: "centre" or "average", see `temporal_filter`.

    Raises:
        ValueError: unknown filter, or a kernel that changes the number of channels.

    Source: thesis eq. 5.8-5.9.
    """

    def __init__(self, filter="centre"):
        temporal_filter(filter, 1)
        self.filter = filter

    def __call__(self, shape, dtype=None):
        taps, channels, filters = shape
        if channels != filters:
            raise ValueError(
                "FeatureIdentity keeps the number of channels; the kernel maps "
                f"{channels} to {filters}. Use as many filters as input channels."
            )
        taps = ops.convert_to_tensor(temporal_filter(self.filter, taps), dtype=dtype)
        return taps[:, None, None] * ops.eye(channels, dtype=dtype)

    def get_config(self):
        return {"filter": self.filter}


@keras.saving.register_keras_serializable(package="zoo")
class Inflated(keras.initializers.Initializer):
    """Draws a 1x1 spatial kernel and inflates it over time, w / T' at each tap.

    To inflate a trained kernel, assign `inflate(kernel, taps)`.

    Args:
        initializer: initialiser of the spatial kernel [C, C'].

    Source: thesis eq. 4.5.
    """

    def __init__(self, initializer="he_normal"):
        self.initializer = keras.initializers.get(initializer)

    def __call__(self, shape, dtype=None):
        taps, *spatial = shape
        return inflate(self.initializer(tuple(spatial), dtype=dtype), taps)

    def get_config(self):
        return {"initializer": keras.initializers.serialize(self.initializer)}


def gaussian(taps, height, width):
    """exp(-(t^2 + i^2 + j^2) / 2) around the middle, sum 1: [taps, height, width].

    Source: thesis 3.3.5, "a Gaussian of size 3 x 3 x 3 and sigma = 1".
    """
    squares = [
        ops.square(ops.arange(size, dtype="float32") - (size - 1) / 2)
        for size in (taps, height, width)
    ]
    t, i, j = squares
    bell = ops.exp(-(t[:, None, None] + i[:, None] + j) / 2)
    return bell / ops.sum(bell)


@keras.saving.register_keras_serializable(package="zoo")
class FusionIdentity(keras.initializers.Initializer):
    """Fusion kernel that sums two streams: Gaussian (x) weighted identities.

    [taps, k, k, 2C, C]: output channel c is streams[0] times channel c of the first
    stream plus streams[1] times channel c of the second, blurred by a Gaussian of
    sigma 1 that sums to 1.

    Args:
        streams: the two weights. order: of the 2C channels, "interleaved" or "block",
            see `zoo.layers.ConcatFusion`.

    Raises:
        ValueError: an input that is not twice as deep as the output.

    Source: thesis 3.3.5; the released code weighs 0.25 and 0.75.
    """

    def __init__(self, streams=(1.0, 1.0), order="interleaved"):
        self.streams = tuple(streams)
        self.order = order

    def __call__(self, shape, dtype=None):
        *window, channels, filters = shape
        if channels != 2 * filters:
            raise ValueError(
                "FusionIdentity maps two streams of C channels to C; the kernel maps "
                f"{channels} to {filters}."
            )
        one = ops.eye(filters, dtype="float32")
        first, second = (weight * one for weight in self.streams)
        if self.order == "block":
            identity = ops.concatenate([first, second], axis=0)
        else:
            identity = ops.reshape(ops.stack([second, first], axis=1), (-1, filters))
        kernel = gaussian(*window)[..., None, None] * identity
        return ops.cast(kernel, dtype or keras.config.floatx())

    def get_config(self):
        return {"streams": self.streams, "order": self.order}
