"""The boxes of a frame that go into linking, and which of them tracklets link.

Source: thesis 8.5.2 (25 detections per image and class) and eq. 8.6.
"""

import dataclasses

import numpy as np

from zoo.evaluation import box_arithmetic


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
    """The boxes of a frame after suppression and voting, best first.

    Attributes:
        boxes: float32 [C, k, 4]. scores: float32 [C, k], -inf beyond the count.
        counts: int [C], the number of boxes of every class.

    Source: thesis 8.5.2.
    """

    boxes: np.ndarray
    scores: np.ndarray
    counts: np.ndarray


def reduce(detections, options):
    """Suppression, at most `keep` boxes per class, and voting.

    Args:
        detections: `FrameDetections`. options: `LinkOptions`.

    Returns:
        `Candidates`, k being the largest number of boxes that a class keeps.

    Source: thesis 8.5.2.
    """
    boxes, scores = detections.boxes, detections.scores.T
    scores = np.where(scores > options.min_score, scores, np.float32(-np.inf))
    # A box that is no candidate of any class neither stays nor votes.
    used = (scores > -np.inf).any(axis=0)
    boxes, scores = boxes[used], np.ascontiguousarray(scores[:, used])
    limits = [(options.suppression, False)]
    if options.voting is not None:
        limits.append((options.voting, True))
    overlaps = box_arithmetic.overlapping(boxes, boxes, *limits)
    itself = np.arange(len(boxes))
    overlaps[:, itself, itself] = True
    kept, counts = box_arithmetic.suppress(overlaps[0], scores, options.keep)
    found = boxes[kept]
    if options.voting is not None and kept.size:
        found = box_arithmetic.vote(boxes, scores, overlaps[1], kept)
    valid = np.arange(kept.shape[1]) < counts[:, None]
    scores = np.take_along_axis(scores, kept, axis=1)
    return Candidates(
        boxes=np.where(valid[..., None], found, np.float32(0)),
        scores=np.where(valid, scores, np.float32(-np.inf)),
        counts=counts,
    )


def predecessors(earlier, later, tracklets, options):
    """The boxes of the earlier frame to which a tracklet links those of the later.

    Args:
        earlier, later: `Candidates`; the earlier may be None (the first frame).
        tracklets: `Tracklets` between them, or None. options: `LinkOptions`.

    Returns:
        int16 [P, C, k], for every later box its P or fewer predecessors in ascending
        order, -1 for none.

    Source: thesis eq. 8.6.
    """
    classes, count = later.scores.shape
    none = np.zeros((0, classes, count), np.int16)
    if earlier is None or tracklets is None:
        return none
    label, j, i = _pairs(earlier, later, tracklets, options)
    if not label.size:
        return none
    rank = ranks(label * count + j)
    found = np.full((rank.max() + 1, classes, count), -1, np.int16)
    found[rank, label, j] = i
    return found


def ranks(values):
    """How many equal values stand before each, int [n].

    Args:
        values: int [n], ascending, at least 0.

    Source: arithmetic, for lists of pairs such as those of eq. 8.6.
    """
    first = np.flatnonzero(np.diff(values, prepend=-1))
    return np.arange(len(values)) - np.repeat(first, np.diff(first, append=len(values)))


def linked(earlier, later, tracklets, options):
    """Whether a tracklet links two boxes: psi of all pairs of a class, bool [C, k, l].

    Args:
        earlier, later: `Candidates`. tracklets: `Tracklets`. options: `LinkOptions`.

    Source: thesis eq. 8.6.
    """
    found = np.zeros((*earlier.scores.shape, later.scores.shape[1]), bool)
    label, j, i = _pairs(earlier, later, tracklets, options)
    found[label, i, j] = True
    return found


def _pairs(earlier, later, tracklets, options):
    """Linked pairs: class, later box, earlier box, ascending in this order."""
    starts, i = _touched(earlier, tracklets.starts, options)
    ends, j = _touched(later, tracklets.ends, options)
    # Every box at the start of a tracklet goes with every box of its class at the end.
    first, last = np.searchsorted(ends, starts), np.searchsorted(ends, starts, "right")
    partners = last - first
    place = np.arange(partners.sum())
    place += np.repeat(first - np.cumsum(partners) + partners, partners)
    label = np.repeat(starts % len(later.counts), partners)
    shape = *later.scores.shape, earlier.scores.shape[1]
    pairs = np.ravel_multi_index((label, j[place], np.repeat(i, partners)), shape)
    return np.unravel_index(np.unique(pairs), shape)


def _touched(candidates, boxes, options):
    """Which boxes tracklets overlap: tracklet * C + class, ascending, and the box."""
    classes, count = candidates.scores.shape
    limit = options.track_overlap, options.inclusive
    flat = candidates.boxes.reshape(-1, 4)
    found = np.flatnonzero(box_arithmetic.overlapping(boxes, flat, limit))
    # [M, C, k] in one row: the last number is the box, the others are the key.
    return np.divmod(found, max(count, 1))
