"""Batch normalisation over groups of clips.

Source: thesis section 4.3 and Table 4.2 (statistics over 4 clips of a batch of 128),
section 5.4.1 ("smaller batches increase the regularization effect"); Ioffe and
Szegedy 2015, arXiv:1502.03167.
"""

import keras
from keras import ops

from zoo.layers._clip import require_positive


def average(x):
    """Mean over positions: [groups, positions, C] -> [groups, 1, C].

    A product with a row of ones is one pass over memory on all cores; the sums of
    TensorFlow and XLA over all axes but the last take several times as long on a CPU.

    Source: Ioffe and Szegedy 2015, algorithm 1.
    """
    groups, positions, _ = ops.shape(x)
    ones = ops.ones((groups, 1, positions), x.dtype)
    return ops.matmul(ones, x) / ops.cast(positions, x.dtype)


@ops.custom_gradient
def scale_centred(x, inverse, gamma, beta):
    """Returns gamma * x * inverse + beta, with batch normalisation's gradient.

    The gradient of the mean and of the variance is that of the closed form and comes
    with the gradient of `x`, in half the time of automatic differentiation.

    Args:
        x: [groups, positions, C], of mean zero in every group.
        inverse: 1 / standard deviation [groups, 1, C], taken as a constant.
        gamma, beta: [1, 1, C].

    Source: Ioffe and Szegedy 2015, gradients of section 3.
    """

    def gradient(*args, upstream=None):
        dy = args[0] if upstream is None else upstream
        mean = average(dy)
        slope = average(dy * x) * inverse
        dx = (dy - mean - x * (slope * inverse)) * (gamma * inverse)
        count = ops.cast(ops.shape(x)[1], x.dtype)
        d_gamma = ops.sum(slope * count, axis=0, keepdims=True)
        d_beta = ops.sum(mean * count, axis=0, keepdims=True)
        return dx, ops.zeros_like(inverse), d_gamma, d_beta

    return x * (gamma * inverse) + beta, gradient


@keras.saving.register_keras_serializable(package="zoo")
class SubBatchNormalization(keras.layers.Layer):
    """Batch normalisation whose statistics are those of groups of `clips` clips.

    In training, a batch [B, ..., C] is cut into B / clips groups of neighbouring
    clips, and each group is normalised by its own mean and variance over its clips,
    frames and positions. A large batch thus trains like the thesis' small
    ones; so do its parts under gradient accumulation and its shares on several
    replicas, as long as these are multiples of `clips`. At inference, or with
    `trainable = False`, it is ordinary batch normalisation by moving statistics.

    The moving statistics are averaged over the groups and over the replicas of
    tf.distribute (Keras' own layer keeps those of the first replica).

    Args:
        clips: clips per group; None normalises the replica's whole batch together,
            which is keras.layers.BatchNormalization.
        momentum: m of the moving statistics, new = m old + (1 - m) batch. 0.95 is
            the released code's averaging rate of 0.05.
        epsilon: added to the variance.

    Raises:
        ValueError: a batch that is known not to be a multiple of `clips`; a batch of
            unknown size fails at run time.

    Source: thesis Table 4.2; released code for momentum and epsilon.
    """

    def __init__(self, clips=None, momentum=0.95, epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        if clips is not None:
            require_positive("SubBatchNormalization", clips=clips)
        self.clips = clips
        self.momentum = momentum
        self.epsilon = epsilon

    def build(self, input_shape):
        channels = (input_shape[-1],)
        weight = {"shape": channels, "autocast": False}
        self.gamma = self.add_weight(name="gamma", initializer="ones", **weight)
        self.beta = self.add_weight(name="beta", initializer="zeros", **weight)
        self.moving_mean = self._statistic("moving_mean", "zeros", channels)
        self.moving_variance = self._statistic("moving_variance", "ones", channels)

    def _statistic(self, name, initializer, shape):
        # "on_read" keeps one copy per replica and averages the copies when saving;
        # add_weight cannot say so.
        return keras.Variable(
            initializer=keras.initializers.get(initializer),
            shape=shape,
            dtype=self.variable_dtype,
            trainable=False,
            autocast=False,
            aggregation="mean",
            synchronization="on_read",
            name=name,
        )

    def call(self, x, training=None):
        dtype = x.dtype
        # Half precision has too few digits for means over millions of pixels.
        x = ops.cast(x, keras.backend.result_type(dtype, "float32"))
        if training and self.trainable:
            y = self._normalize_by_groups(x)
        else:
            factor, offset = self.inference_affine()
            y = x * factor + offset
        return ops.cast(y, dtype)

    def _normalize_by_groups(self, x):
        groups = self._group(x)
        mean = ops.stop_gradient(average(groups))
        centred = groups - mean
        variance = ops.stop_gradient(average(centred * centred))
        self._update(self.moving_mean, mean)
        self._update(self.moving_variance, variance)
        y = scale_centred(
            centred,
            ops.rsqrt(variance + self.epsilon),
            ops.reshape(self.gamma, (1, 1, -1)),
            ops.reshape(self.beta, (1, 1, -1)),
        )
        return ops.reshape(y, ops.shape(x))

    def _group(self, x):
        """[B, ..., C] -> [groups, positions, C]."""
        batch, *positions, channels = ops.shape(x)
        if self.clips is None:
            return ops.reshape(x, (1, -1, channels))
        if isinstance(batch, int) and batch % self.clips:
            raise ValueError(
                f"SubBatchNormalization ({self.name}): a batch of {batch} clips cannot "
                f"be cut into groups of {self.clips}; use a batch size that is a "
                "multiple of it on every replica and drop the remainder."
            )
        # Counted, not left to the reshape: a remainder must fail, not shift groups.
        count = self.clips
        for size in positions:
            count = count * size
        return ops.reshape(x, (batch // self.clips, count, channels))

    def _update(self, moving, batch):
        batch = ops.mean(batch, axis=(0, 1))
        moving.assign(self.momentum * moving + (1 - self.momentum) * batch)

    def inference_affine(self):
        """(factor, offset) per channel of what the layer does at inference.

        Source: Ioffe and Szegedy 2015, algorithm 2, step 11.
        """
        variance = ops.convert_to_tensor(self.moving_variance)
        factor = self.gamma * ops.rsqrt(variance + self.epsilon)
        return factor, self.beta - self.moving_mean * factor

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "clips": self.clips,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
        }
