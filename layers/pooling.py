"""Pooling of clips: in space, sliding in space, and over time.

Source: thesis eq. 5.10 and 7.7 (max over time), section 4.3 and Table 4.1 (windowed
temporal pooling), section 7.3.3 (fully convolutional testing).
"""

import keras
from keras import ops

from zoo.layers._clip import (
    fold_time,
    require_clip,
    require_positive,
    unfold_time,
    window_output,
)


@keras.saving.register_keras_serializable(package="zoo")
class SpatialMaxPooling(keras.layers.Layer):
    """Max over windows of every frame: [B, T, H, W, C] -> [B, T, H', W', C].

    Args:
        pool_size: k, height and width of the window in pixels.
        strides: s, pixels between neighbouring windows.
        padding: (before, after), rows and columns added at top/left and bottom/right;
            padding never wins the maximum. (0, 1) is what Caffe's rounding up amounts
            to for He's 3x3 stride 2 pooling; H' = floor((H + before + after - k)/s)+1.

    Raises:
        ValueError: a size below 1, or a frame (if its size is known) smaller than
            the window.

    Source: pool1 of Table 5.1; released code (pad [0 1 0 1]).
    """

    def __init__(self, pool_size=2, strides=2, padding=(0, 0), **kwargs):
        super().__init__(**kwargs)
        require_positive("SpatialMaxPooling", pool_size=pool_size, strides=strides)
        self.pool_size = pool_size
        self.strides = strides
        self.padding = tuple(padding)

    @property
    def spacetime_window(self):
        """((taps, stride) in frames, (taps, stride) in pixels) seen by one output."""
        return (1, 1), (self.pool_size, self.strides)

    def build(self, input_shape):
        self._require_room(input_shape)

    def _require_room(self, shape):
        require_clip(shape, self)
        for size in shape[2:4]:
            if size is not None and size + sum(self.padding) < self.pool_size:
                raise ValueError(
                    f"SpatialMaxPooling ({self.name}): frames of {shape[2]} x "
                    f"{shape[3]} are smaller than the window of {self.pool_size}; use "
                    "larger frames."
                )

    def call(self, x):
        self._require_room(x.shape)
        frames = fold_time(x)
        same = all(self._is_same(size) for size in x.shape[2:4])
        if any(self.padding) and not same:
            pad = ((0, 0), self.padding, self.padding, (0, 0))
            frames = ops.pad(frames, pad, constant_values=float("-inf"))
        y = ops.max_pool(
            frames,
            self.pool_size,
            self.strides,
            padding="same" if same else "valid",
            data_format="channels_last",
        )
        return unfold_time(y, like=x)

    def _is_same(self, size):
        """Whether Keras' padding "same" makes the same windows, without a copy.

        It depends on the remainder of the size; an unknown one must be so for all.
        """
        if size is None:
            far = self.pool_size * self.strides
            return all(map(self._is_same, range(far, far + self.strides)))
        windows = -(-size // self.strides)
        total = max((windows - 1) * self.strides + self.pool_size - size, 0)
        ours = window_output(
            size, self.pool_size, self.strides, padding=sum(self.padding)
        )
        return ours == windows and total // 2 == self.padding[0]

    def compute_output_shape(self, input_shape):
        batch, time, height, width, channels = input_shape
        height, width = (
            window_output(n, self.pool_size, self.strides, padding=sum(self.padding))
            for n in (height, width)
        )
        return (batch, time, height, width, channels)

    def get_config(self):
        return {
            **super().get_config(),
            "pool_size": self.pool_size,
            "strides": self.strides,
            "padding": self.padding,
        }


@keras.saving.register_keras_serializable(package="zoo")
class SlidingAveragePooling(keras.layers.Layer):
    """Average over every k x k window of a frame, stride 1, no padding.

    [B, T, H, W, C] -> [B, T, max(1, H - k + 1), max(1, W - k + 1), C]. At the training
    size (7 x 7 maps for 224 pixels and k = 7) this is the global average; on larger
    frames it slides, which makes the classifier fully convolutional. Along an axis
    shorter than k the window shrinks to the axis.

    Args:
        window: k, in pixels of the map.

    Source: pool5 of thesis Table 5.1 (7 x 7 average) and section 7.3.3, testing.
    """

    def __init__(self, window=7, **kwargs):
        super().__init__(**kwargs)
        require_positive("SlidingAveragePooling", window=window)
        self.window = window

    @property
    def spacetime_window(self):
        """((taps, stride) in frames, (taps, stride) in pixels) seen by one output."""
        return (1, 1), (self.window, 1)

    def build(self, input_shape):
        require_clip(input_shape, self)

    def call(self, x):
        height, width = ops.shape(x)[2:4]
        rows = self._averages(height, x.dtype)
        columns = self._averages(width, x.dtype)
        return ops.einsum("ih,bthwc,jw->btijc", rows, x, columns)

    def _averages(self, size, dtype):
        """[positions, size], each row the average over one window."""
        # A size known while tracing stays a number, which JAX needs for `arange`.
        smaller = min if isinstance(size, int) else ops.minimum
        window = smaller(self.window, size)
        offset = ops.arange(size)[None, :] - ops.arange(size - window + 1)[:, None]
        inside = ops.logical_and(offset >= 0, offset < window)
        return ops.cast(inside, dtype) / ops.cast(window, dtype)

    def compute_output_shape(self, input_shape):
        batch, time, height, width, channels = input_shape
        height, width = (
            None if n is None else max(1, n - self.window + 1) for n in (height, width)
        )
        return (batch, time, height, width, channels)

    def get_config(self):
        return {**super().get_config(), "window": self.window}


@keras.saving.register_keras_serializable(package="zoo")
class TemporalMaxPooling(keras.layers.Layer):
    """Max over time: [B, T, H, W, C] -> [B, T', H, W, C].

    Args:
        pool_size: window in frames; None takes the maximum over all frames (T' = 1).
        strides: frames between neighbouring windows; no padding, so
            T' = floor((T - pool_size) / strides) + 1.

    Raises:
        ValueError: a size below 1, or a clip (if its length is known) shorter than
            the window.

    Source: thesis eq. 5.10 and 7.7 (all frames); Table 4.1 (windowed).
    """

    def __init__(self, pool_size=None, strides=1, **kwargs):
        super().__init__(**kwargs)
        require_positive("TemporalMaxPooling", strides=strides)
        if pool_size is not None:
            require_positive("TemporalMaxPooling", pool_size=pool_size)
        self.pool_size = pool_size
        self.strides = strides

    @property
    def spacetime_window(self):
        """((taps, stride) in frames, (taps, stride) in pixels) seen by one output.

        None instead of the number of taps stands for all frames.
        """
        return (self.pool_size, self.strides), (1, 1)

    def build(self, input_shape):
        self._require_length(input_shape)

    def _require_length(self, shape):
        require_clip(shape, self)
        time = shape[1]
        if None not in (time, self.pool_size) and time < self.pool_size:
            raise ValueError(
                f"TemporalMaxPooling ({self.name}): a clip of {time} frames is shorter "
                f"than the window of {self.pool_size}; use longer clips."
            )

    def call(self, x):
        self._require_length(x.shape)
        if self.pool_size is None:
            return ops.max(x, axis=1, keepdims=True)
        batch, time, height, width, channels = ops.shape(x)
        rows = ops.reshape(x, (batch, time, height * width, channels))
        y = ops.max_pool(
            rows,
            (self.pool_size, 1),
            (self.strides, 1),
            data_format="channels_last",
        )
        return ops.reshape(y, (batch, ops.shape(y)[1], height, width, channels))

    def compute_output_shape(self, input_shape):
        batch, time, *rest = input_shape
        if self.pool_size is None:
            time = 1
        else:
            time = window_output(time, self.pool_size, self.strides)
        return (batch, time, *rest)

    def get_config(self):
        return {
            **super().get_config(),
            "pool_size": self.pool_size,
            "strides": self.strides,
        }
