"""Anchors: the boxes that the region proposal network refines.

Source: thesis 8.5.2 (15 anchors, 5 scales and 3 aspect ratios); their sizes are those
of the code of the proposal network that the released code points to.
"""

import math

import keras
from keras import ops

# Side lengths of the squares in pixels: 22.6, 45.3, 90.5, 181.0, 362.0.
SCALES = tuple(16 * math.sqrt(2) ** power for power in (1, 3, 5, 7, 9))
# Width over height: squares, then wide ones (sqrt(2) l x l / sqrt(2)), then tall ones.
RATIOS = (1.0, 2.0, 0.5)


def anchors_of(height, width, stride=16, scales=SCALES, ratios=RATIOS):
    """All anchors of a feature map: [height * width * A, 4] float32, not clipped.

    Row by row, column by column, and at each place A = ratios x scales boxes centred in
    its cell, at ((x + 1/2) stride, (y + 1/2) stride): all scales of the first ratio,
    then of the second. The area of a box is the square of its scale. So they lie in
    the order of a [B, h, w, A] map that is flattened.

    Args:
        height, width: of the map, numbers or scalar tensors.
        stride: pixels of the input per cell.
        scales: roots of the areas, in pixels. ratios: widths over heights.

    Source: thesis 8.5.2. The code's centre is 16 x + 7.5 where a box ends in its last
    pixel, which is the same place.
    """
    sizes = [
        (scale * math.sqrt(ratio), scale / math.sqrt(ratio))
        for ratio in ratios
        for scale in scales
    ]
    shapes = [(-w / 2, -h / 2, w / 2, h / 2) for w, h in sizes]
    x, y = (
        (ops.cast(ops.arange(size), "float32") + 0.5) * stride
        for size in (width, height)
    )
    y, x = ops.meshgrid(y, x, indexing="ij")
    centres = ops.stack([x, y, x, y], axis=-1)[:, :, None]
    anchors = centres + ops.convert_to_tensor(shapes, "float32")
    return ops.reshape(anchors, (-1, 4))


def require_anchors(layer, stride, scales, ratios):
    """Raises ValueError unless these describe anchors, thesis 8.5.2."""
    for name, values in (("scales", scales), ("ratios", ratios)):
        if not values or any(value <= 0 for value in values):
            raise ValueError(
                f"{layer}: {name} must be positive numbers, at least one, "
                f"got {tuple(values)}."
            )
    if stride <= 0:
        raise ValueError(f"{layer}: stride must be positive, got {stride}.")


@keras.saving.register_keras_serializable(package="zoo")
class Anchors(keras.layers.Layer):
    """The anchors of a feature map [B, h, w, C] -> [h * w * A, 4] float32.

    The same for all items of the batch, and of no gradient; see `anchors_of`.

    Args:
        stride: pixels of the input per cell of the map.
        scales: roots of the areas, in pixels. ratios: widths over heights.

    Raises:
        ValueError: a size that is not positive, an input that is no map.

    Source: thesis 8.5.2.
    """

    def __init__(self, stride=16, scales=SCALES, ratios=RATIOS, **kwargs):
        super().__init__(autocast=False, **kwargs)
        require_anchors("Anchors", stride, scales, ratios)
        self.stride = stride
        self.scales = tuple(float(scale) for scale in scales)
        self.ratios = tuple(float(ratio) for ratio in ratios)

    @property
    def per_place(self):
        """A, the number of anchors at each place of the map."""
        return len(self.scales) * len(self.ratios)

    def build(self, input_shape):
        if len(input_shape) != 4:
            raise ValueError(
                f"Anchors ({self.name}) takes a feature map [B, h, w, C], got shape "
                f"{tuple(input_shape)}; fold the frames of a clip into the batch."
            )

    def call(self, features):
        height, width = ops.shape(features)[1:3]
        return anchors_of(height, width, self.stride, self.scales, self.ratios)

    def compute_output_shape(self, input_shape):
        _, height, width, _ = input_shape
        known = height is not None and width is not None
        return (height * width * self.per_place if known else None, 4)

    def compute_output_spec(self, features):
        shape = self.compute_output_shape(features.shape)
        return keras.KerasTensor(shape, dtype="float32")

    def get_config(self):
        return {
            **super().get_config(),
            "stride": self.stride,
            "scales": self.scales,
            "ratios": self.ratios,
        }
