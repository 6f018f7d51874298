"""Connection of two streams at the level of features.

Source: thesis eq. 4.2 (additive) and 5.5 (multiplicative interaction).
"""

import keras
from keras import ops

from zoo.layers._clip import require_clip, same_size_as

INTERACTIONS = {"add": ops.add, "multiply": ops.multiply}


@keras.saving.register_keras_serializable(package="zoo")
class CrossStream(keras.layers.Layer):
    """Lets the signal of one stream into the other: [B, T, H, W, C] twice -> the same.

    Called on [x, signal], it returns x + signal or x * signal, element by element. The
    product is a gate: the gradient of each stream is the other's signal times that of
    the output (eq. 5.6 and 5.7), so both learn only what corresponds.

    Args:
        interaction: "add" (eq. 4.2, 5.2) or "multiply" (eq. 5.5).

    Raises:
        ValueError: an unknown interaction, or maps of different shapes; where shapes
            are not known beforehand, an error of the backend when the graph runs.

    Source: thesis eq. 4.2, 5.5.
    """

    def __init__(self, interaction="multiply", **kwargs):
        super().__init__(**kwargs)
        if interaction not in list(INTERACTIONS):
            raise ValueError(
                f"Unknown interaction {interaction!r}; accepted are "
                f"{', '.join(INTERACTIONS)}."
            )
        self.interaction = interaction

    def build(self, input_shape):
        self._require_same(input_shape)

    def _require_same(self, shapes):
        for shape in shapes:
            require_clip(shape, self)
        x, signal = shapes
        pairs = zip(x, signal, strict=True)
        if any(None not in pair and pair[0] != pair[1] for pair in pairs):
            raise ValueError(
                f"CrossStream ({self.name}) connects maps of equal shape, got "
                f"{tuple(x)} and {tuple(signal)}; give rgb and flow of the same length "
                "and size."
            )

    def call(self, inputs):
        # Again at every call: a single frame would broadcast against many.
        self._require_same([tuple(x.shape) for x in inputs])
        x, signal = inputs
        return INTERACTIONS[self.interaction](x, same_size_as(signal, x))

    def compute_output_shape(self, input_shape):
        return input_shape[0]

    def get_config(self):
        return {**super().get_config(), "interaction": self.interaction}
