"""Non-maximum suppression of fixed shapes, per class as well, and box voting.

The suppression is the greedy one, exactly: boxes in order of their scores, each kept
unless it overlaps one kept before by more than a threshold. What is sequential in it
runs over tiles of boxes. Within a tile, "kept unless a kept one before me overlaps" is
applied to all boxes at once until nothing changes; as every box depends on those before
it only, what no longer changes is the greedy solution, after about as many rounds as
the longest chain of boxes that free each other.

Source: thesis 8.5.2 (thresholds 0.7 for proposals and 0.3 for detections, box voting
before linking, Gidaris and Komodakis 2015).
"""

import keras
from keras import ops

from zoo.layers._clip import require_positive
from zoo.layers._gather import gather
from zoo.layers.boxes import iou

TILE = 128  # boxes looked at together
_EPSILON = 1e-6  # weight of a vote without a score


def require_threshold(layer, **values):
    """Raises ValueError unless every named value is an overlap in 0-1, thesis 8.5.2."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(
                f"{layer}: {name} must be an overlap between 0 and 1, got {value!r}."
            )


def usable(boxes, scores, mask=None):
    """Which of boxes [..., 4] may be selected at all: [...] of bool.

    Those of finite coordinates whose score is neither NaN nor minus infinity and which
    `mask`, if given, marks.

    Source: the padding of batches; thesis 8.5.2 leaves no other box out.
    """
    fine = ops.all(ops.isfinite(boxes), axis=-1) & (scores > -float("inf"))
    return fine if mask is None else fine & ops.cast(mask, "bool")


def nms(boxes, scores, iou_threshold, count, mask=None):
    """Greedy non-maximum suppression of a batch.

    Of equal scores the first box wins. No gradient passes.

    Args:
        boxes: [B, N, 4]. scores: [B, N].
        iou_threshold: overlap above which the box of the lower score is dropped, 0-1.
        count: most boxes kept of each item of the batch.
        mask: [B, N], False where a box must not be selected (nor suppress another).

    Returns:
        Indices into N [B, count] int32 by falling score, 0 where there are no more
        boxes, and [B, count] bool, whether there is one.

    Raises:
        ValueError: a threshold that is no overlap, a count below 1.

    Source: thesis 8.5.2.
    """
    require_threshold("nms", iou_threshold=iou_threshold)
    require_positive("nms", count=count)
    boxes = ops.stop_gradient(ops.cast(boxes, "float32"))
    scores = ops.stop_gradient(ops.cast(scores, "float32"))
    fine = _one_more(usable(boxes, scores, mask), False)
    boxes, scores = _one_more(boxes, 0.0), _one_more(scores, 0.0)
    boxes = ops.where(fine[..., None], boxes, 0.0)
    order = _best(ops.where(fine, scores, -float("inf")), ops.shape(scores)[1])
    boxes = gather(boxes, order)
    number = ops.sum(ops.cast(fine, "int32"), axis=1)
    places, found = _greedy(boxes, number, iou_threshold, count)
    valid = ops.arange(count) < found[:, None]
    indices = gather(order, places)
    return ops.where(valid, indices, 0), valid


def _one_more(x, value):
    """[B, N, ...] with one more of a value, so that there is one at all."""
    ends = [(0, 0), (0, 1), *[(0, 0)] * (len(x.shape) - 2)]
    return ops.pad(x, ends, constant_values=value)


def _best(keys, count):
    """Indices of the `count` largest of [B, N] in order, the first of equal ones."""
    return ops.cast(ops.top_k(keys, count)[1], "int32")


def _greedy(boxes, number, threshold, count):
    """Suppression of boxes in order of their scores.

    Args:
        boxes: [B, N, 4]. number: [B], how many there are, the rest being padding.

    Returns:
        Places of those kept [B, count], and how many there are [B].
    """
    length = ops.shape(boxes)[1]
    slots, offsets = ops.arange(count), ops.arange(TILE)

    def unfinished(begin, places, found):
        return ops.any((found < count) & (begin < number))

    def next_tile(begin, places, found):
        at = begin + offsets
        tile = ops.take(boxes, ops.minimum(at, length - 1), axis=1)
        kept = gather(boxes, places)
        kept = ops.where((slots < found[:, None])[..., None], kept, 0.0)
        free = ~ops.any(iou(kept, tile) > threshold, axis=1) & (at < number[:, None])
        keep = _within(iou(tile, tile) > threshold, free)
        # The places of those kept, in front, moved behind those found before.
        first = _best(ops.where(keep, TILE - offsets, 0), TILE)
        behind = slots - found[:, None]
        new = gather(first, ops.clip(behind, 0, TILE - 1))
        places = ops.where(behind >= 0, ops.minimum(begin + new, length - 1), places)
        found = found + ops.sum(ops.cast(keep, "int32"), axis=1)
        return begin + TILE, places, ops.minimum(found, count)

    found = ops.zeros_like(number)
    places = ops.zeros_like(slots) + found[:, None]
    begin = ops.convert_to_tensor(0, "int32")
    _, places, found = ops.while_loop(
        unfinished, next_tile, (begin, places, found), maximum_iterations=None
    )
    return places, found


def _within(overlap, free):
    """Greedy suppression within a tile: which boxes stay, [B, T].

    Args:
        overlap: [B, T, T], whether two boxes overlap too much. free: [B, T], which
            boxes take part.
    """
    places = ops.arange(TILE)
    before = ops.cast(overlap & (places[:, None] < places), "float32")

    def changing(keep, last):
        return ops.any(keep != last)

    def next_round(keep, last):
        rivals = ops.matmul(ops.cast(keep, "float32")[:, None], before)[:, 0]
        return free & (rivals == 0), keep

    return ops.while_loop(changing, next_round, (free, ops.zeros_like(free)))[0]


def vote(boxes, candidates, scores, iou_threshold=0.5):
    """Box voting: each box becomes the mean of the candidates that overlap it.

    Weighed by max(0, score) + epsilon. A box that no candidate overlaps stays. Empty
    candidates and those of coordinates or scores that are not finite have no vote.

    Args:
        boxes: [..., K, 4]. candidates: [..., N, 4].
        scores: of the candidates, [..., N]; or [..., K, N], those that count for
            every box, where the boxes are of different classes.
        iou_threshold: overlap from which on a candidate has a vote, 0-1.

    Returns:
        Boxes [..., K, 4], float32.

    Raises:
        ValueError: a threshold that is no overlap.

    Source: thesis 8.5.2; Gidaris and Komodakis 2015, section 5.
    """
    require_threshold("vote", iou_threshold=iou_threshold)
    boxes = ops.cast(boxes, "float32")
    candidates = ops.cast(candidates, "float32")
    scores = ops.cast(scores, "float32")
    if len(scores.shape) < len(boxes.shape):
        scores = scores[..., None, :]
    fine = ops.all(ops.isfinite(candidates), axis=-1)
    candidates = ops.where(fine[..., None], candidates, 0.0)
    votes = (iou(boxes, candidates) >= iou_threshold) & ops.isfinite(scores)
    votes = votes & fine[..., None, :]
    weights = ops.where(votes, ops.relu(scores) + _EPSILON, 0.0)
    total = ops.sum(weights, axis=-1)[..., None]
    # Sums instead of a product of matrices, which a GPU may compute in 10 bits.
    means = ops.sum(weights[..., None] * candidates[..., None, :, :], axis=-2)
    return ops.where(total > 0, means / ops.where(total > 0, total, 1.0), boxes)


@keras.saving.register_keras_serializable(package="zoo")
class ClassNMS(keras.layers.Layer):
    """Non-maximum suppression of every class by itself, then the best of all classes.

    Called with [boxes, probabilities, mask]: boxes [B, N, 4] that all classes share,
    probabilities [B, N, C] of the classes (without background), mask [B, N]. Computes
    in float32; no gradient passes.

    Returns a dictionary, all by falling score and [B, count] long:
        boxes: [B, count, 4]. scores: the probabilities. classes: int32, 0..C-1.
        indices: int32, the box's place in N. valid: bool; where it is False there is no
        detection: boxes, scores and indices are 0 and the class is -1.

    Args:
        iou_threshold: overlap above which the lower box of a class is dropped, 0-1.
        count: detections kept of all classes together.
        per_class: detections kept of each class at most; None sets no limit.
        min_score: only boxes whose probability exceeds it are looked at, 0-1. There
            is a round of work for each box kept of a class, so it saves time.

    Raises:
        ValueError: a threshold that is no overlap, counts below 1, inputs of other
            shapes.

    Source: thesis 8.5.2 (threshold 0.3).
    """

    def __init__(
        self, iou_threshold=0.3, count=100, per_class=None, min_score=0.0, **kwargs
    ):
        super().__init__(autocast=False, **kwargs)
        require_threshold("ClassNMS", iou_threshold=iou_threshold)
        limits = {} if per_class is None else {"per_class": per_class}
        require_positive("ClassNMS", count=count, **limits)
        self.iou_threshold = float(iou_threshold)
        self.count = count
        self.per_class = per_class
        self.min_score = float(min_score)

    def build(self, input_shape):
        self._require_shapes(input_shape)

    def _require_shapes(self, shapes):
        ranks = [len(shape) for shape in shapes]
        if ranks != [3, 3, 2] or shapes[0][-1] != 4 or shapes[1][-1] is None:
            raise ValueError(
                f"ClassNMS ({self.name}) takes [boxes [B, N, 4], probabilities "
                "[B, N, C], mask [B, N]] with a known number of classes, got shapes "
                f"{[tuple(shape) for shape in shapes]}."
            )

    def call(self, inputs):
        boxes, probabilities, mask = inputs
        self._require_shapes([x.shape for x in inputs])
        boxes = _one_more(ops.stop_gradient(ops.cast(boxes, "float32")), 0.0)
        scores = ops.stop_gradient(ops.cast(probabilities, "float32"))
        scores = ops.transpose(_one_more(scores, -float("inf")), (0, 2, 1))
        mask = _one_more(ops.cast(mask, "bool"), False)
        fine = usable(boxes[:, None], scores, mask[:, None])
        boxes = ops.where(ops.any(fine, axis=1)[..., None], boxes, 0.0)
        scores = ops.where(fine & (scores > self.min_score), scores, -float("inf"))
        kept = self._kept(iou(boxes, boxes) > self.iou_threshold, scores)
        return self._best(boxes, ops.where(kept, scores, -float("inf")))

    def _kept(self, overlap, scores):
        """Greedy suppression in all classes at once: which stay, [B, C, N].

        Args:
            overlap: [B, N, N] bool. scores: [B, C, N], minus infinity for none.
        """
        places = ops.arange(ops.shape(scores)[2])
        # The largest argument is taken again and again, once per box kept.
        nothing = -float("inf")

        def unfinished(kept, left):
            return ops.any(left > nothing)

        def next_best(kept, left):
            best = ops.cast(ops.argmax(left, axis=-1), "int32")
            one = (places == best[..., None]) & (left > nothing)
            near = gather(overlap, best)
            return kept | one, ops.where(one | near, nothing, left)

        kept, _ = ops.while_loop(
            unfinished,
            next_best,
            (ops.zeros_like(scores, dtype="bool"), scores),
            maximum_iterations=self.per_class,
        )
        return kept

    def _best(self, boxes, scores):
        """The best of all classes, from scores [B, C, N] that are left."""
        batch, classes, length = ops.shape(scores)
        # Padded, for images of fewer candidates than detections.
        flat = ops.reshape(scores, (batch, classes * length))
        flat = ops.pad(flat, ((0, 0), (0, self.count)), constant_values=-float("inf"))
        scores, places = ops.top_k(flat, self.count)
        valid = scores > -float("inf")
        places = ops.where(valid, ops.cast(places, "int32"), 0)
        indices = places % length
        found = gather(boxes, indices)
        return {
            "boxes": ops.where(valid[..., None], found, 0.0),
            "scores": ops.where(valid, scores, 0.0),
            "classes": ops.where(valid, places // length, -1),
            "indices": indices,
            "valid": valid,
        }

    def compute_output_spec(self, inputs):
        self._require_shapes([x.shape for x in inputs])
        shape = (inputs[0].shape[0], self.count)
        kinds = {"scores": "float32", "classes": "int32", "indices": "int32"}
        return {
            "boxes": keras.KerasTensor((*shape, 4), dtype="float32"),
            **{name: keras.KerasTensor(shape, dtype=d) for name, d in kinds.items()},
            "valid": keras.KerasTensor(shape, dtype="bool"),
        }

    def get_config(self):
        return {
            **super().get_config(),
            "iou_threshold": self.iou_threshold,
            "count": self.count,
            "per_class": self.per_class,
            "min_score": self.min_score,
        }
