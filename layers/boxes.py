"""Boxes: overlap, the regression parametrisation and its inverse, clipping.

Boxes are [..., 4]: x1, y1, x2, y2 in pixels of the input, in continuous coordinates
(width = x2 - x1). All is computed in float32, whatever the precision of the network:
float16 places a coordinate near 1000 to half a pixel.

Source: thesis eq. 8.2-8.3; R-CNN's box regression (Girshick et al. 2014).
"""

import math

import keras
from keras import ops

# Growth of a side by which `decode` stops, as usual since Detectron (Girshick 2018).
MAX_LOG_GROWTH = math.log(1000 / 16)


def _sides(boxes):
    """The four coordinates in float32, each [...]."""
    boxes = ops.cast(boxes, "float32")
    return tuple(boxes[..., i] for i in range(4))


def _centres_and_sizes(boxes):
    """(x, y, width, height) of boxes, each [...]."""
    x1, y1, x2, y2 = _sides(boxes)
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def area(boxes):
    """Area of boxes [..., 4] -> [...] float32, 0 where a side is not positive.

    Source: continuous coordinates, as the overlap of thesis 8.4 and 8.5.
    """
    x1, y1, x2, y2 = _sides(boxes)
    return ops.relu(x2 - x1) * ops.relu(y2 - y1)


def iou(a, b):
    """Intersection over union of all pairs: [..., N, 4], [..., M, 4] -> [..., N, M].

    In 0-1, float32. A pair with an empty box, as the padding of batches is, has 0.

    Source: thesis 8.3.3 (RoIs are assigned by their overlap) and 8.4.
    """
    left, top, right, bottom = (side[..., :, None] for side in _sides(a))
    left_b, top_b, right_b, bottom_b = (side[..., None, :] for side in _sides(b))
    width = ops.minimum(right, right_b) - ops.maximum(left, left_b)
    height = ops.minimum(bottom, bottom_b) - ops.maximum(top, top_b)
    shared = ops.relu(width) * ops.relu(height)
    union = area(a)[..., :, None] + area(b)[..., None, :] - shared
    # An intersection without area has a union that may be 0.
    return ops.where(shared > 0, shared / ops.where(shared > 0, union, 1.0), 0.0)


def encode(reference, boxes):
    """Regression targets that take `reference` to `boxes`, eq. 8.2-8.3.

    ((x - x_r) / w_r, (y - y_r) / h_r, log(w / w_r), log(h / h_r)) with the centres x, y
    and sizes w, h; all zero where either box is empty.

    Args:
        reference, boxes: [..., 4], broadcast against each other.

    Returns:
        Deltas [..., 4], float32.

    Source: thesis eq. 8.2-8.3.
    """
    x_r, y_r, w_r, h_r = _centres_and_sizes(reference)
    x, y, w, h = _centres_and_sizes(boxes)
    proper = (w_r > 0) & (h_r > 0) & (w > 0) & (h > 0)
    # Chosen before the division and the logarithm, or their gradients would be NaN.
    w_r, h_r, w, h = (ops.where(proper, size, 1.0) for size in (w_r, h_r, w, h))
    deltas = ((x - x_r) / w_r, (y - y_r) / h_r, ops.log(w / w_r), ops.log(h / h_r))
    return ops.stack([ops.where(proper, delta, 0.0) for delta in deltas], axis=-1)


def decode(reference, deltas):
    """The boxes that deltas make of `reference`: the inverse of `encode`.

    A side grows at most by the factor 1000 / 16 = 62.5, which keeps wild predictions
    finite and gives them no gradient. An empty reference stays empty.

    Args:
        reference: [..., 4]. deltas: [..., 4], broadcast against each other.

    Returns:
        Boxes [..., 4], float32, not clipped.

    Source: thesis eq. 8.2-8.3.
    """
    x, y, w, h = _centres_and_sizes(reference)
    return _moved(x, y, w, h, deltas)


def _moved(x, y, w, h, deltas, shrink=0.0):
    """Boxes of centres and sizes moved by deltas; their sides `shrink` shorter."""
    dx, dy, dw, dh = _sides(deltas)
    x, y = x + dx * w, y + dy * h
    half_w = (w * ops.exp(ops.minimum(dw, MAX_LOG_GROWTH)) - shrink) / 2
    half_h = (h * ops.exp(ops.minimum(dh, MAX_LOG_GROWTH)) - shrink) / 2
    return ops.stack([x - half_w, y - half_h, x + half_w, y + half_h], axis=-1)


def clip(boxes, height, width):
    """Boxes [..., 4] cut to the image: x into 0..width, y into 0..height, float32.

    Args:
        boxes: [..., 4]. height, width: of the image, numbers or scalar tensors.

    Source: proposals "crossing image boundaries are clipped", Ren et al. 2016.
    """
    height, width = ops.cast(height, "float32"), ops.cast(width, "float32")
    x1, y1, x2, y2 = _sides(boxes)
    x1, x2 = (ops.minimum(ops.maximum(x, 0.0), width) for x in (x1, x2))
    y1, y2 = (ops.minimum(ops.maximum(y, 0.0), height) for y in (y1, y2))
    return ops.stack([x1, y1, x2, y2], axis=-1)


@keras.saving.register_keras_serializable(package="zoo")
class BoxTransform(keras.layers.Layer):
    """Applies predicted deltas to boxes: [..., 4] and [..., 4] -> [..., 4] float32.

    Called with [boxes, deltas]; the deltas are first multiplied by `stds`, and `means`
    added, with which the targets were normalised.

    Args:
        means, stds: of the four deltas.
        released: compute as the released layer of the same name: boxes of whole pixels
            (width = x2 - x1 + 1) in and out, and the centre at x1 + width / 2 - 1,
            half a pixel left of (and above) the right one. Only the limit of growth
            of `decode` is ours.

    Raises:
        ValueError: means or stds that are not four numbers, boxes or deltas whose last
            axis is not 4.

    Source: thesis eq. 8.2-8.3; `released`: BoxTransform of the code of Feichtenhofer
    et al. 2017.
    """

    def __init__(
        self,
        means=(0.0, 0.0, 0.0, 0.0),
        stds=(1.0, 1.0, 1.0, 1.0),
        released=False,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        for name, values in (("means", means), ("stds", stds)):
            if len(tuple(values)) != 4:
                raise ValueError(
                    f"BoxTransform: {name} must be four numbers, of dx, dy, dw and dh, "
                    f"got {values!r}."
                )
        self.means = tuple(float(mean) for mean in means)
        self.stds = tuple(float(std) for std in stds)
        self.released = bool(released)

    def build(self, input_shape):
        self._require_fours(input_shape)

    def _require_fours(self, shapes):
        if len(shapes) != 2 or any(shape[-1] != 4 for shape in shapes):
            raise ValueError(
                f"BoxTransform ({self.name}) takes [boxes, deltas], both [..., 4], got "
                f"shapes {[tuple(shape) for shape in shapes]}. Of eight deltas, four "
                "of the background first, take the last four."
            )

    def call(self, inputs):
        boxes, deltas = inputs
        self._require_fours([boxes.shape, deltas.shape])
        stds, means = (ops.convert_to_tensor(v, "float32") for v in self._moments)
        deltas = ops.cast(deltas, "float32") * stds + means
        if not self.released:
            return decode(boxes, deltas)
        x1, y1, x2, y2 = _sides(boxes)
        w, h = x2 - x1 + 1, y2 - y1 + 1
        return _moved(x1 + w / 2 - 1, y1 + h / 2 - 1, w, h, deltas, shrink=1.0)

    @property
    def _moments(self):
        return self.stds, self.means

    def compute_output_shape(self, input_shape):
        boxes, deltas = input_shape
        return tuple(boxes) if len(boxes) >= len(deltas) else tuple(deltas)

    def compute_output_spec(self, inputs):
        shape = self.compute_output_shape([x.shape for x in inputs])
        return keras.KerasTensor(shape, dtype="float32")

    def get_config(self):
        return {
            **super().get_config(),
            "means": self.means,
            "stds": self.stds,
            "released": self.released,
        }
