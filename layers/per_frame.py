"""Layers of single images on the frames of clips, and clips as pairs of frames.

Source: thesis 8.3.1: detection works on every frame, tracking on adjacent ones.
"""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="zoo")
class PerFrame(keras.layers.Wrapper):
    """A layer of images, applied to every frame: all tensors gain an axis T.

    Inputs [B, T, ...], one or a list, of equal B and T, are folded to [B*T, ...],
    and so are the outputs back. The layer alone decides on their precision: boxes in
    float16 would be half a pixel off. `keras.layers.TimeDistributed` takes one input
    only, and takes the batch for the time where T is unknown (Keras 3.15).

    Args:
        layer: a layer of tensors [B, ...].

    Raises:
        ValueError: an input without an axis of frames.

    Source: thesis 8.3.1.
    """

    def __init__(self, layer, **kwargs):
        super().__init__(layer, autocast=False, **kwargs)

    def build(self, input_shape):
        if not self.layer.built:
            folded = [(None, *shape[2:]) for shape in _shapes(input_shape)]
            many = isinstance(input_shape[0], tuple | list)
            self.layer.build(folded if many else folded[0])
        self.built = True

    def call(self, inputs):
        tensors = keras.tree.flatten(inputs)
        for x in tensors:
            if len(x.shape) < 2:
                raise ValueError(
                    f"{self.name} takes tensors [B, T, ...], got shape {x.shape}."
                )
        batch, frames = ops.shape(tensors[0])[:2]
        outputs = self.layer(keras.tree.map_structure(_folded, inputs))
        return keras.tree.map_structure(
            lambda y: ops.reshape(y, (batch, frames, *_sizes(y, 1))), outputs
        )

    def compute_output_spec(self, inputs):
        batch, frames = keras.tree.flatten(inputs)[0].shape[:2]
        folded = keras.tree.map_structure(
            lambda x: keras.KerasTensor((None, *x.shape[2:]), x.dtype), inputs
        )
        return keras.tree.map_structure(
            lambda y: keras.KerasTensor((batch, frames, *y.shape[1:]), y.dtype),
            self.layer.compute_output_spec(folded),
        )

    def compute_output_shape(self, input_shape):
        tensors = [keras.KerasTensor(shape) for shape in _shapes(input_shape)]
        many = isinstance(input_shape[0], tuple | list)
        outputs = self.compute_output_spec(tensors if many else tensors[0])
        return keras.tree.map_structure(lambda y: tuple(y.shape), outputs)


def _shapes(shape):
    return shape if isinstance(shape[0], tuple | list) else [shape]


def _sizes(x, first):
    """Sizes of the axes from `first` on, as numbers where they are known."""
    dynamic = ops.shape(x)
    return [n if n is not None else dynamic[i] for i, n in enumerate(x.shape)][first:]


def _folded(x):
    batch, frames = ops.shape(x)[:2]
    return ops.reshape(x, (batch * frames, *_sizes(x, 2)))


@keras.saving.register_keras_serializable(package="zoo")
class FramePairs(keras.layers.Layer):
    """Adjacent frames of a clip: [B, T, ...] -> two tensors [B, T - 1, ...].

    The first holds frames t = 0 ... T - 2, the second their successors t + 1, which
    lie tau frames of the video later where the clip was taken at a stride of tau. Both
    keep the precision of the clip.

    Source: thesis 8.3.2, the pair I^t, I^(t + tau).
    """

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, x):
        return x[:, :-1], x[:, 1:]

    def compute_output_shape(self, input_shape):
        batch, frames, *rest = input_shape
        shape = (batch, None if frames is None else frames - 1, *rest)
        return shape, shape

    def compute_output_spec(self, x):
        shapes = self.compute_output_shape(x.shape)
        return tuple(keras.KerasTensor(shape, x.dtype) for shape in shapes)
