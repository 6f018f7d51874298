"""Boxes in NumPy: overlap, suppression of all classes at once, voting.

Boxes are [..., 4] = x1, y1, x2, y2 in pixels with continuous coordinates: the width is
x2 - x1. A box without area overlaps nothing.

Source: thesis 8.5.2 (suppression and voting before linking); voting is Gidaris and
Komodakis (2015).
"""

import numpy as np

_BLOCK = 32768  # pairs of boxes compared at a time, so that the cache holds them


def check_boxes(boxes, name):
    """Boxes as float32 [N, 4], or a ValueError that says what is wrong with them.

    Args:
        boxes: array-like [N, 4]; [0] and [0, 4] both mean none. name: for the message.

    Source: the conventions above.
    """
    boxes = np.asarray(boxes, np.float32)
    if boxes.size == 0:
        return boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name} must be [N, 4] (x1, y1, x2, y2); got {boxes.shape}.")
    if not np.isfinite(boxes).all():
        row = int(np.flatnonzero(~np.isfinite(boxes).all(axis=1))[0])
        raise ValueError(
            f"{name} must be finite; row {row} is {boxes[row].tolist()}. Look for a "
            "division by zero or an overflow in the network that made them."
        )
    if (boxes[:, 2:] < boxes[:, :2]).any():
        row = int(np.flatnonzero((boxes[:, 2:] < boxes[:, :2]).any(axis=1))[0])
        raise ValueError(
            f"{name} must have x1 <= x2 and y1 <= y2; row {row} is "
            f"{boxes[row].tolist()}. Boxes are corners, not corner and size."
        )
    return boxes


def area(boxes):
    """Area of boxes [..., 4] in square pixels, [...].

    Source: the conventions above.
    """
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(a, b):
    """Intersection over union of boxes [..., N, 4] and [..., M, 4], [..., N, M].

    Source: the usual overlap; thesis 8.3.3 assigns by it.
    """
    a, b = a[..., :, None, :], b[..., None, :, :]
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    union = area(a) + area(b) - shared
    return shared / np.maximum(union, np.finfo(union.dtype).tiny)


def overlapping(a, b, *limits):
    """Whether the IoU of boxes [N, 4] and [M, 4] is above limits, bool [L, N, M].

    The same as `iou(a, b) > limit`, without the division: s / (A + B - s) > t is
    s (1 + t) / t > A + B. The boxes are spread over whole blocks first, as NumPy is
    several times as fast on two full arrays as on a row and a column. It is faster
    with the larger number of boxes in `b`.

    Args:
        a, b: float32. limits: pairs of a threshold, above 0 and below 1, and whether
            exactly the threshold is enough.

    Source: thesis eq. 8.6.
    """
    found = np.empty((len(limits), len(a), len(b)), bool)
    step = max(1, min(_BLOCK // max(1, len(b)), len(a)))
    # Boxes without area: 0 >= 0 would be an overlap.
    columns = np.vstack([a.T, np.maximum(area(a), np.finfo(np.float32).tiny)])
    columns = np.ascontiguousarray(columns)[:, :, None]
    spread = np.repeat(np.vstack([b.T, area(b)])[:, None], step, axis=1)
    blocks = np.empty((3, step, len(b)), np.float32)
    for start in range(0, len(a), step):
        rows = slice(start, start + step)
        x1, y1, x2, y2, areas = columns[:, rows]
        count = len(x1)
        left, top, right, bottom, other = spread[:, :count]
        width, height, edge = blocks[:, :count]
        _extent(x1, x2, left, right, width, edge)
        _extent(y1, y2, top, bottom, height, edge)
        np.maximum(width, 0, out=width)  # one is enough: no product is then positive
        np.multiply(width, height, out=width)
        np.copyto(edge, areas)
        np.add(edge, other, out=edge)
        for limit, (threshold, inclusive) in enumerate(limits):
            compare = np.greater_equal if inclusive else np.greater
            factor = np.float32((1 + threshold) / threshold)
            np.multiply(width, factor, out=height)
            compare(height, edge, out=found[limit, rows])
    return found


def _extent(first, last, other_first, other_last, out, scratch):
    """min(last) - max(first), a column against a block, into `out`."""
    np.copyto(out, last)
    np.minimum(out, other_last, out=out)
    np.copyto(scratch, first)
    np.maximum(scratch, other_first, out=scratch)
    np.subtract(out, scratch, out=out)


def suppress(overlaps, scores, keep):
    """Greedy non-maximum suppression of all classes at once.

    Args:
        overlaps: bool [N, N], which boxes suppress each other, a box itself included.
        scores: float32 [C, N]; -inf where a box is no candidate of the class.
        keep: largest number of boxes kept per class.

    Returns:
        Indices int [C, k] of the kept boxes, best first (of equal scores the first),
        k <= keep, and how many are valid, int [C]; the rest are 0.

    Source: thesis 8.5.2.
    """
    penalty = np.where(overlaps, np.float32(-np.inf), np.float32(0))
    scores, rows = scores.copy(), np.empty_like(scores)
    flat, first = scores.reshape(-1), np.arange(len(scores)) * scores.shape[1]
    kept, values = [], []
    for _ in range(min(keep, scores.shape[1])):
        best = scores.argmax(axis=1)
        values.append(flat[first + best])
        if values[-1].max() == -np.inf:
            break
        kept.append(best)
        # "clip" spares a check; a box that is out of the question stays at -inf.
        np.add(scores, penalty.take(best, axis=0, out=rows, mode="clip"), out=scores)
    if not kept:
        return np.zeros((len(scores), 0), int), np.zeros(len(scores), int)
    valid = np.stack(values[: len(kept)], axis=1) > -np.inf
    return np.where(valid, np.stack(kept, axis=1), 0), valid.sum(axis=1)


def vote(boxes, scores, overlaps, kept):
    """Box voting: a kept box becomes the weighted mean of the candidates around it.

    The weight is max(0, score) + machine epsilon; the scores stay what they are.

    Args:
        boxes: float32 [N, 4]. scores: float32 [C, N]; -inf where no candidate.
        overlaps: bool [N, N], whose votes count for whom, a box itself included.
        kept: indices [C, k] of `suppress`.

    Returns:
        float32 [C, k, 4].

    Source: thesis 8.5.2; Gidaris and Komodakis (2015), eq. 8.
    """
    weights = np.maximum(scores, 0) + np.finfo(np.float32).eps
    weights[np.isneginf(scores)] = 0
    # Relative to the mean corner, since float32 sums of coordinates lose digits.
    origin = boxes.mean(axis=0)
    columns = np.concatenate([boxes - origin, np.ones_like(boxes[:, :1])], axis=1)
    voters = overlaps.astype(np.float32).take(kept, axis=0)  # [C, k, N]
    sums = voters @ (weights[:, :, None] * columns)
    # The sum is 0 only where `kept` points nowhere, which the caller overwrites.
    return sums[..., :4] / np.maximum(sums[..., 4:], 1e-30) + origin
