"""Boxes in NumPy: overlap, suppression of all classes at once, voting.

Boxes are [..., 4] = x1, y1, x2, y2 in pixels with continuous coordinates: the width is
x2 - x1. A box without area overlaps nothing.

Source: thesis 8.5.2 (suppression and voting before linking); voting is Gidaris and
Komodakis (2015).
"""

import numpy as np

_ROWS = 64  # rows of an overlap matrix computed at a time, to stay in the cache


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


def overlapping(a, b, threshold, inclusive=False):
    """Whether the IoU of boxes [N, 4] and [M, 4] exceeds a threshold, bool [N, M].

    The same as `iou(a, b) > threshold`, without the division and with the intermediate
    results in the cache: s / (A + B - s) > t is s (1 + t) / t > A + B.

    Args:
        a, b: float32. threshold: 0 < t < 1. inclusive: whether exactly t is enough.

    Source: thesis eq. 8.6.
    """
    found = np.empty((len(a), len(b)), bool)
    compare = np.greater_equal if inclusive else np.greater
    # Boxes without area: 0 >= 0 would be an overlap.
    a_area, b_area = np.maximum(area(a), np.finfo(np.float32).tiny), area(b)
    # The factor is put into the heights: 3 or 3.5 for thresholds of 0.5 and 0.4.
    factor = np.float32([1, (1 + threshold) / threshold] * 2)
    a, b = np.multiply(a, factor).T[:, :, None].copy(), np.multiply(b, factor).T.copy()
    width, height, edge = np.empty((3, _ROWS, b.shape[1]), np.float32)
    for start in range(0, len(found), _ROWS):
        rows = slice(start, start + _ROWS)
        count = len(found[rows])
        w, h, e = width[:count], height[:count], edge[:count]
        np.subtract(
            np.minimum(a[2, rows], b[2], out=w), np.maximum(a[0, rows], b[0], out=e), w
        )
        np.subtract(
            np.minimum(a[3, rows], b[3], out=h), np.maximum(a[1, rows], b[1], out=e), h
        )
        np.maximum(w, 0, out=w)  # one of two is enough: a negative product is below all
        np.multiply(w, h, out=w)
        compare(w, np.add(a_area[rows, None], b_area, out=e), out=found[rows])
    return found


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
    scores, classes = scores.copy(), np.arange(len(scores))
    rows, kept, valid = np.empty_like(scores), [], []
    for _ in range(min(keep, scores.shape[1])):
        best = scores.argmax(axis=1)
        alive = scores[classes, best] > -np.inf
        if not alive.any():
            break
        kept.append(np.where(alive, best, 0))
        valid.append(alive)
        np.take(penalty, best, axis=0, out=rows, mode="clip")
        scores += rows
    if not kept:
        return np.zeros((len(scores), 0), int), np.zeros(len(scores), int)
    return np.stack(kept, axis=1), np.sum(valid, axis=0)


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
    rows, place = np.unique(kept, return_inverse=True)
    weights = np.maximum(scores, 0) + np.finfo(np.float32).eps
    weights[np.isneginf(scores)] = 0
    # Relative to the mean corner, since float32 sums of coordinates lose digits.
    origin = boxes.mean(axis=0)
    columns = np.concatenate([boxes - origin, np.ones_like(boxes[:, :1])], axis=1)
    votes = (weights[:, :, None] * columns).transpose(1, 0, 2)  # [N, C, 5]
    sums = overlaps[rows].astype(np.float32) @ votes.reshape(len(boxes), -1)
    sums = sums.reshape(len(rows), len(scores), 5)
    sums = sums[place.reshape(kept.shape), np.arange(len(scores))[:, None]]
    return sums[..., :4] / np.maximum(sums[..., 4:], 1e-30) + origin
