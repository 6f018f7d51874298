"""The best path through the boxes of a video, the next best of what is left, and so on.

All classes are walked through at once. A step looks at the boxes that a tracklet links
and at the best box of the frame before, not at all pairs: every pair without a tracklet
scores the same but for the box that it comes from.

Source: thesis eq. 8.5-8.7, solved as in Gkioxari and Malik (2015).
"""

import numpy as np

_BYTES = 256 * 2**20  # for the tables of as many classes as are walked at once


def disjoint_paths(candidates, links):
    """Paths of the highest sum of edge scores, each without the boxes of those before.

    The inner boxes of a path count twice, the first and the last once (eq. 8.5 summed
    over the edges). There are as many paths as boxes in the frame that has the fewest;
    frames without a box of the class are skipped.

    Args:
        candidates: `Candidates` of every frame.
        links: for every frame int [P, C, k], what `predecessors` returns.

    Yields:
        For every class that has boxes: its number, the sums float64 [R], best first,
        and the boxes of the paths, int16 [R, T], -1 where the class has none.

    Source: thesis eq. 8.7 and the paragraph below it.
    """
    counts = np.stack([found.counts for found in candidates])
    width = max(found.scores.shape[1] for found in candidates)
    present = counts > 0
    rounds = np.where(present, counts, width + 1).min(axis=0)
    rounds[~present.any(axis=0)] = 0
    # Classes with as many paths stand together, so that all of a block end together.
    order = np.argsort(-rounds, kind="stable")
    order = order[rounds[order] > 0]
    if not order.size:
        return
    depth = 3 + max(len(found) for found in links)
    block = max(1, _BYTES // (8 * depth * width * len(candidates)))
    results = {}
    for start in range(0, len(order), block):
        labels = order[start : start + block]
        lattice = _Lattice(candidates, links, labels, width, present[:, labels])
        results.update(lattice.paths(rounds[labels]))
    for label in sorted(results):
        yield label, *results[label]


class _Lattice:
    """The tables of a block of classes: states, gains, predecessors.

    A state is a box of a class, numbered class * width + box. Behind the N = classes *
    width states of a row of sums stand one that is never reached (-inf), and for every
    class the best sum of the row less 1: what a step without tracklet (psi = 0) starts
    from, beside states that a tracklet links (psi = 1).
    """

    def __init__(self, candidates, links, labels, width, present):
        self._labels, self._width, self._present = labels, width, present
        self._size = len(labels) * width
        # How many edges a box has: one at either end of the video, else two.
        frames = np.arange(len(candidates))[:, None]
        first, last = present.argmax(axis=0), present[::-1].argmax(axis=0)
        edges = (frames > first) + (frames < len(present) - 1 - last).astype(float)
        pairs = zip(candidates, edges.clip(1), strict=True)
        self._gains = np.stack([self._gain(*pair) for pair in pairs])
        self._gains[np.repeat(~present, width, axis=1)] = 0  # skipped: the sums stay
        pairs = zip(links, present, strict=True)
        self._before = [self._predecessors(*pair) for pair in pairs]

    def _gain(self, found, edges):
        """What entering a state adds to the sum, float64 [N]."""
        gain = np.full((len(self._labels), self._width), -np.inf)
        gain[:, : found.scores.shape[1]] = found.scores[self._labels]
        return (gain * edges[:, None] + 1).ravel()

    def _predecessors(self, links, present):
        """Where in the row before a state is reached from, int [P + 1, N]."""
        classes, count = len(self._labels), links.shape[2]
        first = np.arange(classes)[:, None] * self._width
        states = np.full((len(links) + 1, classes, self._width), self._size)
        known = links[:, self._labels].astype(int)
        states[:-1, :, :count] = np.where(known < 0, self._size, known + first)
        states[-1] = self._size + 1 + np.arange(classes)[:, None]
        own = first + np.arange(self._width)
        states[:, ~present] = self._size
        states[-1, ~present] = own[~present]
        return states.reshape(len(states), -1)

    def paths(self, rounds):
        """{label: (sums [R], boxes [R, T])}; `rounds` descend over the classes."""
        frames, classes = len(self._before), len(rounds)
        boxes = np.full((rounds[0], frames, classes), -1, np.int16)
        sums = np.zeros((rounds[0], classes))
        table = np.zeros((frames + 1, self._size + 1 + classes))
        table[:, self._size] = -np.inf
        table[0, self._size + 1 :] = -1
        for number in range(rounds[0]):
            active = int(np.sum(rounds > number))
            states = active * self._width
            before = [row[:, :states] for row in self._before]
            self._forward(table, before, active)
            path, sums[number, :active] = self._backward(table, before, active)
            t, label = np.nonzero(self._present[:, :active])
            boxes[number, t, label] = path[t, label] % self._width
            self._gains[t, path[t, label]] = -np.inf
        return {
            int(label): (sums[:n, c], boxes[:n, :, c])
            for c, (label, n) in enumerate(zip(self._labels, rounds, strict=True))
        }

    def _forward(self, table, before, active):
        """Fills the rows of sums: sum(j) = gain(j) + max over its predecessors."""
        states, tail = active * self._width, self._size + 1
        for t, predecessors in enumerate(before):
            row = table[t + 1, :states]
            table[t].take(predecessors, mode="clip").max(axis=0, out=row)
            row += self._gains[t, :states]
            best = table[t + 1, tail : tail + active]
            row.reshape(active, -1).max(axis=1, out=best)
            best -= 1

    def _backward(self, table, before, active):
        """The best states of all frames, int [T, classes], and the sums."""
        size = self._size
        tops = table[:, : active * self._width].reshape(len(table), active, -1)
        tops = tops.argmax(axis=2) + np.arange(active) * self._width
        path = np.empty((len(before), active), int)
        state, columns = tops[-1], np.arange(active)
        # Where a step starts from the best state of the row, this one is looked up.
        places = np.arange(size + 1 + active)
        for t in range(len(before) - 1, -1, -1):
            path[t] = state
            options = before[t].take(state, axis=1)
            state = options[table[t].take(options).argmax(axis=0), columns]
            places[size + 1 :] = tops[t]
            state = places.take(state)
        return path, table[-1, tops[-1]]
