"""Tubes seen as frames, frames seen as tubes, and the frames between sampled ones.

Source: thesis 8.5.2 (the boxes of the tubes are what is evaluated) and 8.5.3
(temporal stride tau: every tau-th frame is processed).
"""

import dataclasses

import numpy as np

from zoo.evaluation.tubes import FrameTracks, Tube


def interpolate(tubes, max_step=None):
    """Tubes with a box in every frame between their sampled ones.

    Boxes and scores between two sampled frames lie on a line.

    Args:
        tubes: iterable of `Tube`.
        max_step: a gap of more frames than this stays a gap, for classes that are
            skipped in some frames; None fills all.

    Returns:
        List of `Tube`.

    Raises:
        ValueError: if max_step is less than 1.

    Source: thesis 8.5.3, increasing temporal stride.
    """
    if max_step is not None and max_step < 1:
        raise ValueError(f"max_step must be 1 or more frames, or None; got {max_step}.")
    return [_filled(tube, max_step) for tube in tubes]


def _filled(tube, max_step):
    """A tube with a box in every frame."""
    frames = np.arange(tube.frames[0], tube.frames[-1] + 1)
    if max_step is not None:
        after = np.searchsorted(tube.frames, frames)
        wide = np.diff(tube.frames, prepend=tube.frames[0])[after] > max_step
        frames = frames[~wide | (tube.frames[after] == frames)]
    columns = np.column_stack([tube.boxes, tube.scores])
    filled = [np.interp(frames, tube.frames, column) for column in columns.T]
    filled = np.stack(filled, axis=1).astype(np.float32)
    return dataclasses.replace(
        tube, frames=frames, boxes=filled[:, :4], scores=filled[:, 4]
    )


def by_frame(tubes):
    """{frame: `FrameTracks`} of all frames in which a tube has a box, ascending.

    Args:
        tubes: sequence of `Tube`.

    Source: thesis 8.5.2.
    """
    if not tubes:
        return {}
    lengths = [len(tube.frames) for tube in tubes]
    frames = np.concatenate([tube.frames for tube in tubes])
    columns = {
        "ids": np.repeat([tube.id for tube in tubes], lengths),
        "labels": np.repeat([tube.label for tube in tubes], lengths),
        "boxes": np.concatenate([tube.boxes for tube in tubes]),
        "scores": np.concatenate([tube.scores for tube in tubes]),
    }
    return {
        int(frame): FrameTracks(int(frame), **{k: v[i] for k, v in columns.items()})
        for frame, i in _groups(frames, columns["ids"])
    }


def gather(tracks):
    """Tubes of what an `OnlineLinker` has returned, in the order of their ids.

    Args:
        tracks: iterable of `FrameTracks`, frames ascending.

    Returns:
        List of `Tube`; the score of one is the mean of its boxes' scores.

    Source: thesis 8.5.3.
    """
    tracks = list(tracks)
    if not tracks:
        return []
    frames = np.repeat([t.frame for t in tracks], [len(t.ids) for t in tracks])
    ids = np.concatenate([t.ids for t in tracks])
    labels = np.concatenate([t.labels for t in tracks])
    boxes = np.concatenate([t.boxes for t in tracks])
    scores = np.concatenate([t.scores for t in tracks])
    return [
        Tube(
            id=int(number),
            label=int(labels[i[0]]),
            score=float(scores[i].mean()),
            frames=frames[i],
            boxes=boxes[i],
            scores=scores[i],
        )
        for number, i in _groups(ids, frames)
    ]


def _groups(values, then):
    """(value, indices of it in the order of `then`), ascending."""
    if not len(values):
        return
    order = np.lexsort((then, values))
    starts = np.flatnonzero(np.diff(values[order])) + 1
    for indices in np.split(order, starts):
        yield values[indices[0]], indices
