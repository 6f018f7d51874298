"""Linking once more, box by box in plain Python, written from thesis 8.4 and 8.5.2.

The tests compare with it, and so does benchmarks/tubes.py.
"""

import itertools
import math

EPSILON = 2.0**-23


def overlap(a, b):
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def reduced(boxes, scores, nms=0.4, keep=25, voting=0.5):
    """Boxes of a class as [(box, score)] after suppression and voting, best first."""
    order = sorted(range(len(boxes)), key=lambda n: -scores[n])
    order = [n for n in order if scores[n] > 0]
    left, kept = list(order), []
    while left and len(kept) < keep:
        best = left.pop(0)
        kept.append(best)
        left = [n for n in left if overlap(boxes[best], boxes[n]) <= nms]
    found = []
    for best in kept:
        voters = [
            n
            for n in order
            if n == best or voting and overlap(boxes[best], boxes[n]) >= voting
        ]
        weights = [max(0, scores[n]) + EPSILON for n in voters]
        box = [
            sum(w * boxes[n][side] for w, n in zip(weights, voters, strict=True))
            / sum(weights)
            for side in range(4)
        ]
        found.append((box, scores[best]))
    return found


def edge(one, other, tracks):
    """Score of an edge, eq. 8.5; `tracks` is a list of (start, end)."""
    linked = any(
        overlap(one[0], start) > 0.5 and overlap(other[0], end) > 0.5
        for start, end in tracks
    )
    return one[1] + other[1] + linked


def sum_of_edges(path, frames, edges):
    """Sum over a path, the box of every frame by its number; the score of one box."""
    if len(path) == 1:
        return frames[0][path[0]][1]
    pairs = itertools.pairwise(path)
    return sum(table[pair] for table, pair in zip(edges, pairs, strict=True))


def edge_tables(frames, tracks):
    """{(i, j): score} of all pairs between neighbouring frames."""
    return [
        {
            (i, j): edge(one, other, between)
            for (i, one), (j, other) in itertools.product(
                enumerate(frames[t]), enumerate(frames[t + 1])
            )
        }
        for t, between in enumerate(tracks)
    ]


def viterbi(frames, edges, gone):
    """The best path that avoids the boxes in `gone`, a set of (t, i)."""
    best = [{i: 0.0 for i in range(len(frames[0])) if (0, i) not in gone}]
    back = []
    for t, table in enumerate(edges, 1):
        sums, pointers = {}, {}
        for j in range(len(frames[t])):
            if (t, j) in gone:
                continue
            options = {i: value + table[i, j] for i, value in best[-1].items()}
            pointers[j] = max(options, key=options.get)
            sums[j] = options[pointers[j]]
        best.append(sums)
        back.append(pointers)
    if len(frames) == 1:
        best[0] = {i: frames[0][i][1] for i in best[0]}
    path = [max(best[-1], key=best[-1].get)]
    for pointers in reversed(back):
        path.append(pointers[path[-1]])
    return path[::-1]


def enumerate_paths(frames, edges, gone):
    """The same by trying every path."""
    choices = [
        [i for i in range(len(boxes)) if (t, i) not in gone]
        for t, boxes in enumerate(frames)
    ]
    paths = itertools.product(*choices)
    return list(max(paths, key=lambda path: sum_of_edges(path, frames, edges)))


def class_tubes(frames, tracks, alpha=0.5, search=viterbi):
    """Tubes of a class as (sum over frames, path, re-scored scores), best first.

    Args:
        frames: [(box, score)] of every frame, none of them empty.
        tracks: [(start, end)] between frame and next frame.
        search: `viterbi` or `enumerate_paths`.
    """
    edges, gone, tubes = edge_tables(frames, tracks), set(), []
    for _ in range(min(map(len, frames))):
        path = search(frames, edges, gone)
        gone |= set(enumerate(path))
        scores = [frames[t][i][1] for t, i in enumerate(path)]
        top = sorted(scores, reverse=True)[: math.ceil(alpha * len(scores))]
        total = sum_of_edges(path, frames, edges) / len(frames)
        mean = sum(top) / len(top)
        tubes.append((total, path, [score + mean for score in scores]))
    return tubes


def video_tubes(detections, tracklets):
    """Tubes of all classes: (label, score, frames, boxes, scores), as `link` orders."""
    found = []
    plain = [(d.frame, d.boxes.tolist(), d.scores.T.tolist()) for d in detections]
    tracks = [
        list(zip(t.starts.tolist(), t.ends.tolist(), strict=True)) for t in tracklets
    ]
    for label in range(detections[0].scores.shape[1] if detections else 0):
        boxes = [reduced(boxes, scores[label]) for _, boxes, scores in plain]
        kept = [t for t, of_frame in enumerate(boxes) if of_frame]
        if not kept:
            continue
        # Over a skipped frame there is no tracklet.
        between = [tracks[a] if b == a + 1 else [] for a, b in itertools.pairwise(kept)]
        boxes = [boxes[t] for t in kept]
        for total, path, scores in class_tubes(boxes, between):
            chosen = [boxes[t][i][0] for t, i in enumerate(path)]
            numbers = [plain[t][0] for t in kept]
            found.append((label, total, numbers, chosen, scores))
    return found


def online_tubes(detections, tracklets):
    """The causal version: {tube: (label, [(frame, box, re-scored)])}.

    Args:
        detections: of every frame. tracklets: to every frame from the one before; the
            first is None.
    """
    tubes = {}
    for t, (found, tracks) in enumerate(zip(detections, tracklets, strict=True)):
        pairs = []
        if tracks:
            ends = tracks.ends.tolist()
            pairs = list(zip(tracks.starts.tolist(), ends, strict=True))
        for label, scores in enumerate(found.scores.T.tolist()):
            boxes = reduced(found.boxes.tolist(), scores)
            alive = {n for n, (c, _) in tubes.items() if c == label}
            values = {}
            for n in alive:
                frames, last, plain = zip(*tubes[n][1], strict=True)
                mean = sum(plain) / len(plain)
                for j, (box, score) in enumerate(boxes):
                    fresh = frames[-1] == t - 1
                    bonus = fresh and edge((last[-1], 0), (box, 0), pairs)
                    values[n, j] = mean + score + bonus
            taken = {}
            while values:
                n, j = max(values, key=values.get)
                taken[j] = n
                values = {k: v for k, v in values.items() if k[0] != n and k[1] != j}
            for j, (box, score) in enumerate(boxes):
                tube = tubes.setdefault(taken.get(j, len(tubes)), (label, []))
                tube[1].append((t, box, score))
    return {
        n: (label, [row[:2] + (_so_far(rows, k),) for k, row in enumerate(rows)])
        for n, (label, rows) in tubes.items()
    }


def _so_far(rows, last):
    """Score of a row, and the mean of the best half of the scores up to it."""
    best = sorted((score for *_, score in rows[: last + 1]), reverse=True)
    best = best[: math.ceil(len(best) / 2)]
    return rows[last][2] + sum(best) / len(best)
