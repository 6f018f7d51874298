"""Tubes frame by frame: linking and re-scoring that never look into the future.

The thesis says of its online version only that it "performs only causal rescoring
across the tracks" (8.5.3). Linking is causal here, too: each frame's boxes are joined
to the tubes so far, pairs of the highest edge score first (eq. 8.5, where the mean
score of the tube stands for the box in the frame before). A box that is left begins a
tube, a tube that is left waits, so at most `keep` tubes per class are ever alive.

A box is re-scored by the tube up to its own frame. What a tube remembers of its scores
is a histogram, so memory does not grow with the video; the mean of the best half is
exact but for the one bin in which the half ends.

Source: thesis 8.4, eq. 8.5-8.6, and 8.5.3, "Online capabilities and runtime".
"""

import numpy as np

from zoo.evaluation.candidates import linked, ranks, reduce
from zoo.evaluation.tubes import FrameTracks, LinkOptions, check_next, top_count

BINS = 128
"""Bins of a tube's histogram of scores between 0 and 1."""


class OnlineLinker:
    """Joins the detections of each frame to the tubes of the frames before.

    Args:
        options: `LinkOptions`.
        linked_only: True ends a tube that no tracklet links to a box of the next
            frame, for tracks that stay on one object; False, the thesis' rule, lets
            every tube go on through the whole video.

    Source: thesis 8.5.3.
    """

    def __init__(self, options=LinkOptions(), linked_only=False):  # noqa: B008 (frozen)
        self._options, self._linked_only = options, linked_only
        self._frames, self._candidates = [], []  # of the frame before
        self._tubes, self._next_id = None, 0

    def update(self, detections, tracklets=None):
        """Takes the next frame and returns its boxes, which stay as they are.

        Args:
            detections: `FrameDetections`.
            tracklets: `Tracklets` from the previous frame to this one; None at the
                first frame, or where there is none.

        Returns:
            `FrameTracks` of every box that suppression keeps.

        Raises:
            ValueError: if the frame does not come after the previous one, or has
                another number of classes.

        Source: thesis eq. 8.5 and 8.5.3.
        """
        check_next(detections, self._frames, self._candidates)
        found = reduce(detections, self._options)
        if self._tubes is None:
            self._tubes = _Tubes(len(found.counts), self._options.keep)
        psi = None
        if self._candidates and tracklets is not None:
            psi = linked(self._candidates[0], found, tracklets, self._options)
        slots = self._assign(found, psi)
        self._frames, self._candidates = [detections.frame], [found]
        return self._extend(detections.frame, found, slots)

    def _assign(self, found, psi):
        """The tube of every box, int [C, k]; -1 beyond the counts."""
        tubes, count = self._tubes, found.scores.shape[1]
        linked_pairs = np.zeros((*tubes.ids.shape, count), bool)
        if psi is not None and psi.shape[1]:
            rows = np.take_along_axis(psi, tubes.boxes.clip(0)[..., None], axis=1)
            linked_pairs = rows & (tubes.boxes >= 0)[..., None]
        edges = linked_pairs + tubes.means()[..., None] + found.scores[:, None]
        edges[tubes.ids < 0] = -np.inf
        if self._linked_only:
            edges[~linked_pairs] = -np.inf
        slots = _best_first(edges)
        if self._linked_only:
            label, box = np.nonzero(slots >= 0)
            tubes.end_others(label, slots[label, box])
        self._begin(slots, found)
        return slots

    def _begin(self, slots, found):
        """Begins a tube for every box that has none, in the order of classes."""
        label, box = np.nonzero((slots < 0) & (found.scores > -np.inf))
        # The n-th new box of a class takes the class' n-th empty place.
        places = np.argsort(self._tubes.ids >= 0, axis=1, kind="stable")
        slots[label, box] = places[label, ranks(label)]
        self._tubes.begin(label, slots[label, box], self._next_id)
        self._next_id += len(label)

    def _extend(self, frame, found, slots):
        """Adds the boxes to their tubes; returns them re-scored, ordered by id."""
        label, box = np.nonzero(slots >= 0)
        slot = slots[label, box]
        scores = found.scores[label, box]
        bonus = self._tubes.add(label, slot, box, scores, self._options.alpha)
        ids = self._tubes.ids[label, slot]
        order = np.argsort(ids)
        return FrameTracks(
            frame=frame,
            ids=ids[order],
            labels=label[order],
            boxes=found.boxes[label, box][order],
            scores=(scores + bonus).astype(np.float32)[order],
        )


class _Tubes:
    """What is remembered of the tubes: `keep` places for each of C classes.

    ids [C, K] are -1 where a place is empty; boxes [C, K] are the candidates that the
    tubes had in the frame before, -1 if none.
    """

    def __init__(self, classes, keep):
        self.ids = np.full((classes, keep), -1)
        self.boxes = np.full((classes, keep), -1)
        self._counts = np.zeros((classes, keep), int)
        self._totals = np.zeros((classes, keep))
        # Number and sum of the scores in a bin and all higher ones; bin 0 is the top.
        self._number = np.zeros((classes, keep, BINS), np.int32)
        self._sum = np.zeros((classes, keep, BINS))

    def means(self):
        """Mean score of every tube so far, float [C, K]."""
        return self._totals / np.maximum(self._counts, 1)

    def begin(self, label, slot, first_id):
        """Empties places for new tubes, numbered from `first_id`."""
        self.ids[label, slot] = first_id + np.arange(len(label))
        self._counts[label, slot] = 0
        self._totals[label, slot] = 0
        self._number[label, slot] = 0
        self._sum[label, slot] = 0

    def end_others(self, label, slot):
        """Frees all places but these."""
        ids = self.ids[label, slot]
        self.ids[:] = -1
        self.ids[label, slot] = ids

    def add(self, label, slot, box, scores, alpha):
        """Adds a score to tubes; returns the means of their ceil(alpha n) highest."""
        self.boxes[:] = -1
        self.boxes[label, slot] = box
        self._counts[label, slot] += 1
        self._totals[label, slot] += scores
        if alpha is None:
            return np.zeros(len(label))
        # All places at once, those without a box beyond the last bin: no copies.
        bins = np.full((*self.ids.shape, 1), BINS, np.int16)
        bins[label, slot, 0] = np.clip(((1 - scores) * BINS).astype(int), 0, BINS - 1)
        added = np.zeros(bins.shape)
        added[label, slot, 0] = scores
        above = np.arange(BINS, dtype=np.int16) >= bins
        self._number += above
        np.add(self._sum, added, out=self._sum, where=above)
        count = top_count(self._counts, alpha).astype(np.int32)
        return _top_means(self._number, self._sum, count)[label, slot]


def _best_first(edges):
    """Pairs of the highest value first, each tube and each box once.

    Args:
        edges: float [C, K, k] of tubes and boxes, -inf where they do not go together;
            overwritten.

    Returns:
        The tube of every box, int [C, k], -1 for none.
    """
    classes, _, count = edges.shape
    slots, rows = np.full((classes, count), -1), np.arange(classes)
    for _ in range(count):
        best = edges.reshape(classes, -1).argmax(axis=1)
        slot, box = np.divmod(best, count)
        good = np.flatnonzero(edges[rows, slot, box] > -np.inf)
        if not good.size:
            break
        slots[good, box[good]] = slot[good]
        edges[good, slot[good]] = -np.inf
        edges[good, :, box[good]] = -np.inf
    return slots


def _top_means(number, sums, count):
    """Means of the `count` [...] highest of what histograms [..., BINS] hold."""
    count = count[..., None]
    last = (number < count).sum(axis=-1, keepdims=True)  # the bin where the count ends
    last = np.minimum(last, BINS - 1)  # of an empty place
    ends = np.concatenate([np.maximum(last - 1, 0), last], axis=-1)
    higher, number = np.split(np.take_along_axis(number, ends, axis=-1), 2, axis=-1)
    total, sums = np.split(np.take_along_axis(sums, ends, axis=-1), 2, axis=-1)
    higher, total = np.where(last > 0, (higher, total), 0.0)
    of_bin = (sums - total) / np.maximum(number - higher, 1)
    return ((total + (count - higher) * of_bin) / np.maximum(count, 1))[..., 0]
