"""Local response normalisation across channels.

Source: Krizhevsky, Sutskever and Hinton 2012, section 3.3, as the thesis' VGG-M has it
after its first two convolutions (norm1, norm2 of Table 2.1).
"""

import keras
from keras import ops

from zoo.layers._clip import require_positive


@keras.saving.register_keras_serializable(package="zoo")
class LocalResponseNormalization(keras.layers.Layer):
    """y_c = x_c / (kappa + alpha sum_d x_d^2)^beta, over `depth` channels d around c.

    [..., C] -> [..., C]. Channels beyond the first and last count as zero. Works in
    float32 whatever the dtype policy, since the squares of 8-bit images outrun half
    precision.

    Args:
        depth: number of neighbouring channels summed, odd, c in their middle.
        kappa, alpha, beta: of the formula. The defaults are those of the released
            VGG-M; alpha is not divided by `depth`.

    Raises:
        ValueError: a depth that is no odd positive integer.

    Source: Krizhevsky et al. 2012, section 3.3; parameters [5 2 1e-4 0.75] of the
    ImageNet model VGG-M-2048.
    """

    def __init__(self, depth=5, kappa=2.0, alpha=1e-4, beta=0.75, **kwargs):
        super().__init__(autocast=False, **kwargs)
        require_positive("LocalResponseNormalization", depth=depth)
        if depth % 2 == 0:
            raise ValueError(
                f"LocalResponseNormalization: depth must be odd, got {depth}."
            )
        self.depth = depth
        self.kappa = float(kappa)
        self.alpha = float(alpha)
        self.beta = float(beta)

    def call(self, x):
        x = ops.cast(x, keras.backend.result_type(self.compute_dtype, "float32"))
        sums = ops.matmul(x * x, self._neighbours(x.shape[-1], x.dtype))
        y = x * (self.kappa + self.alpha * sums) ** -self.beta
        return ops.cast(y, self.compute_dtype)

    def _neighbours(self, channels, dtype):
        """[C, C], 1 where two channels are at most depth // 2 apart."""
        index = ops.arange(channels)
        apart = ops.abs(index[:, None] - index[None])
        return ops.cast(apart <= self.depth // 2, dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "depth": self.depth,
            "kappa": self.kappa,
            "alpha": self.alpha,
            "beta": self.beta,
        }
