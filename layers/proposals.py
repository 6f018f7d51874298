"""Proposals: the best boxes that the region proposal network refines from anchors.

Source: thesis 8.5.2 (15 anchors, suppression at an overlap of 0.7, the top 300).
"""

import keras
from keras import ops

from zoo.layers._clip import require_positive
from zoo.layers._gather import gather
from zoo.layers.anchors import RATIOS, SCALES, anchors_of, require_anchors
from zoo.layers.boxes import clip, decode
from zoo.layers.nms import nms, require_threshold


@keras.saving.register_keras_serializable(package="zoo")
class Proposals(keras.layers.Layer):
    """Anchors, refined, suppressed and sorted: the boxes to classify.

    Called with [objectness, deltas, frames]: objectness [B, h, w, A] (logits or
    probabilities), deltas [B, h, w, 4 A] of eq. 8.2-8.3, channels 4 a to 4 a + 3
    being those of anchor a, and the frames [..., H, W, C], of which only the size is
    read, to clip the boxes. The anchors are those of `anchors_of`.

    Returns boxes [B, count, 4] float32 within the frame, by falling objectness, and
    [B, count] bool, whether there is one; the rest are zeros. Works in float32; no
    gradient passes.

    Args:
        count: proposals of each frame.
        pre_nms: how many of the anchors of best objectness are refined at all.
        iou_threshold: overlap above which the worse of two is dropped, 0-1.
        min_size: least width and height in pixels, after clipping.
        stride, scales, ratios: of the anchors, see `Anchors`.

    Raises:
        ValueError: arguments out of range, inputs of other shapes.

    Source: thesis 8.5.2. 6000 boxes and 16 pixels are those of Ren et al. 2016.
    """

    def __init__(
        self,
        count=300,
        pre_nms=6000,
        iou_threshold=0.7,
        min_size=16.0,
        stride=16,
        scales=SCALES,
        ratios=RATIOS,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        require_positive("Proposals", count=count, pre_nms=pre_nms)
        require_threshold("Proposals", iou_threshold=iou_threshold)
        require_anchors("Proposals", stride, scales, ratios)
        if min_size < 0:
            raise ValueError(
                f"Proposals: min_size must be at least 0 pixels, got {min_size}."
            )
        self.count = count
        self.pre_nms = pre_nms
        self.iou_threshold = float(iou_threshold)
        self.min_size = float(min_size)
        self.stride = stride
        self.scales = tuple(float(scale) for scale in scales)
        self.ratios = tuple(float(ratio) for ratio in ratios)

    def build(self, input_shape):
        self._require_shapes(input_shape)

    def _require_shapes(self, shapes):
        anchors = len(self.scales) * len(self.ratios)
        objectness, deltas, frames = (tuple(shape) for shape in shapes)
        fine = len(objectness) == len(deltas) == 4 and len(frames) >= 3
        if not fine or (objectness[-1], deltas[-1]) != (anchors, 4 * anchors):
            raise ValueError(
                f"Proposals ({self.name}) takes [objectness [B, h, w, {anchors}], "
                f"deltas [B, h, w, {4 * anchors}], frames [..., H, W, C]] for its "
                f"{len(self.ratios)} ratios x {len(self.scales)} scales, got shapes "
                f"{[objectness, deltas, frames]}."
            )

    def call(self, inputs):
        objectness, deltas, frames = inputs
        self._require_shapes([x.shape for x in inputs])
        batch, height, width, _ = ops.shape(objectness)
        anchors = anchors_of(height, width, self.stride, self.scales, self.ratios)
        number = ops.shape(anchors)[0]
        scores = _as_data(ops.reshape(objectness, (batch, number)))
        deltas = _as_data(ops.reshape(deltas, (batch, number, 4)))
        best = _smaller(number, self.pre_nms)
        # NaN would leave the order undefined.
        scores = ops.where(ops.isnan(scores), -float("inf"), scores)
        scores, order = ops.top_k(scores, best)
        deltas = gather(deltas, order)
        boxes = decode(ops.take(anchors, order, axis=0), deltas)
        boxes = clip(boxes, *ops.shape(frames)[-3:-1])
        return self._selected(boxes, scores)

    def _selected(self, boxes, scores):
        """The proposals among refined boxes [B, N, 4] of these scores."""
        sizes = boxes[..., 2:] - boxes[..., :2]
        large = ops.all(sizes >= self.min_size, axis=-1)
        indices, valid = nms(boxes, scores, self.iou_threshold, self.count, large)
        boxes = gather(boxes, indices)
        return ops.where(valid[..., None], boxes, 0.0), valid

    def compute_output_spec(self, inputs):
        self._require_shapes([x.shape for x in inputs])
        shape = (inputs[0].shape[0], self.count)
        return (
            keras.KerasTensor((*shape, 4), dtype="float32"),
            keras.KerasTensor(shape, dtype="bool"),
        )

    def get_config(self):
        return {
            **super().get_config(),
            "count": self.count,
            "pre_nms": self.pre_nms,
            "iou_threshold": self.iou_threshold,
            "min_size": self.min_size,
            "stride": self.stride,
            "scales": self.scales,
            "ratios": self.ratios,
        }


def _smaller(a, b):
    """The smaller of two sizes: a number wherever both are known."""
    known = isinstance(a, int) and isinstance(b, int)
    return min(a, b) if known else ops.minimum(a, b)


def _as_data(x):
    """`x` in float32, of no gradient."""
    return ops.stop_gradient(ops.cast(x, "float32"))
