"""Detections and tracklets linked to tubes that span the video.

For every class the path of boxes with the highest sum of edge scores is found by the
Viterbi algorithm, its boxes are removed, and the next one is found, until some frame
has no box of the class left. A frame in which a class has no box at all is skipped.
The boxes of a tube are then re-scored: the mean of the best half of the tube's scores
is added to each.

Where the released MATLAB code and the thesis differ, or where the thesis is silent:

- "overlap larger than 0.5" (eq. 8.6) is strict here; the code rounds the overlap, so
  that exactly 0.5 passes (`inclusive`).
- The thesis gives no threshold for the suppression before linking; the code has 0.4,
  and after it votes with all candidates that overlap a kept box by at least 0.5. Its
  overlaps there are those of pixels (widths + 1), here those of continuous boxes.
- An edge over skipped frames has no tracklet, so it scores p_i + p_j; the code compares
  the tracks of the last frame with the boxes of the next one that has any.
- "alpha = 50 %" is rounded up to whole boxes, as in the code.
- Among equal sums a linked edge comes before an unlinked one, then the better box; the
  code takes the first in its order.
- The code's smoothed scores, its penalty for edges without track, its halved bonus for
  three frames and its cutting of paths are unused or not the thesis', and left out.

Source: thesis 8.4, eq. 8.5-8.7, and 8.5.2; Gkioxari and Malik (2015).
"""

import dataclasses

import numpy as np

from zoo.evaluation import box_arithmetic
from zoo.evaluation.candidates import predecessors, reduce
from zoo.evaluation.paths import disjoint_paths

MAX_KEEP = 10_000
"""Largest `keep`: boxes of a class are numbered by 16 bits."""


@dataclasses.dataclass(frozen=True, eq=False)
class FrameDetections:
    """What the detector found in one frame.

    Attributes:
        frame: number of the frame in the video, 0 or more.
        boxes: float32 [N, 4], in pixels, shared by all classes.
        scores: float32 [N, C], probability of every foreground class, 0-1, without the
            background. A class has no box where its score is 0.

    Raises:
        ValueError: if the shapes do not fit, or boxes or scores are not finite.

    Source: thesis 8.4, the detections D of a frame.
    """

    frame: int
    boxes: np.ndarray
    scores: np.ndarray

    def __post_init__(self):
        where = f"frame {self.frame}"
        boxes = box_arithmetic.check_boxes(self.boxes, f"{where}: boxes")
        scores = np.asarray(self.scores, np.float32)
        if scores.ndim != 2 or len(scores) != len(boxes):
            raise ValueError(
                f"{where}: scores must be [{len(boxes)}, C], one row per box; got "
                f"{scores.shape}. A frame without boxes has scores [0, C]."
            )
        if not np.isfinite(scores).all():
            row = int(np.flatnonzero(~np.isfinite(scores).all(axis=1))[0])
            raise ValueError(
                f"{where}: scores must be finite; those of box {row} are not. Give the "
                "probabilities after the softmax."
            )
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "scores", scores)


@dataclasses.dataclass(frozen=True, eq=False)
class Tracklets:
    """Boxes in a frame and where they have moved in the next sampled frame.

    Attributes:
        starts: float32 [M, 4], in the earlier frame.
        ends: float32 [M, 4], in the later one.

    Raises:
        ValueError: if the shapes differ or a box is not finite.

    Source: thesis 8.4, the tracks T from frame t to t + tau.
    """

    starts: np.ndarray
    ends: np.ndarray

    def __post_init__(self):
        starts = box_arithmetic.check_boxes(self.starts, "starts of tracklets")
        ends = box_arithmetic.check_boxes(self.ends, "ends of tracklets")
        if starts.shape != ends.shape:
            raise ValueError(
                f"Tracklets need as many ends as starts; got {len(starts)} starts and "
                f"{len(ends)} ends."
            )
        object.__setattr__(self, "starts", starts)
        object.__setattr__(self, "ends", ends)


@dataclasses.dataclass(frozen=True)
class LinkOptions:
    """How detections are reduced, linked and re-scored; the defaults are the thesis'.

    Attributes:
        suppression: boxes of a class that overlap more than this are suppressed.
        keep: boxes kept per frame and class.
        voting: candidates that overlap a kept box by at least this vote on its place;
            None leaves the boxes where they are.
        track_overlap: a tracklet links boxes that it overlaps more than this (eq. 8.6).
        inclusive: whether exactly `track_overlap` links as well, as in the code.
        alpha: share of a tube's scores, the highest ones, whose mean is added to all;
            None leaves the scores as they are.
        min_score: boxes of a class with no more than this score are no candidates.

    Raises:
        ValueError: if a value is out of its range.

    Source: thesis 8.4 and 8.5.2; 0.4 and voting at 0.5 are of the released code.
    """

    suppression: float = 0.4
    keep: int = 25
    voting: float | None = 0.5
    track_overlap: float = 0.5
    inclusive: bool = False
    alpha: float | None = 0.5
    min_score: float = 0.0

    def __post_init__(self):
        for name in ("suppression", "voting", "track_overlap"):
            value = getattr(self, name)
            if value is None and name == "voting":
                continue
            if value is None or not 0 < value < 1:
                raise ValueError(f"{name} must lie between 0 and 1; got {value}.")
        if not 1 <= self.keep <= MAX_KEEP:
            raise ValueError(f"keep must be 1 to {MAX_KEEP}; got {self.keep}.")
        if self.alpha is not None and not 0 < self.alpha <= 1:
            raise ValueError(f"alpha must be > 0 and <= 1, or None; got {self.alpha}.")
        if not 0 <= self.min_score < 1:
            raise ValueError(f"min_score must be in [0, 1); got {self.min_score}.")


@dataclasses.dataclass(frozen=True, eq=False)
class Tube:
    """An object through a video: a box in every frame that has boxes of its class.

    Attributes:
        id: number of the tube in its video, from 0. label: class, 0 to C - 1.
        score: eq. 8.7, the sum of the edge scores over the number of frames.
        frames: int [n], ascending. boxes: float32 [n, 4].
        scores: float32 [n], re-scored (0-2, as a mean is added to a probability).

    Source: thesis eq. 8.7.
    """

    id: int
    label: int
    score: float
    frames: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray

    def to_dict(self):
        """Plain data for JSON (boxes rounded to hundredths of a pixel)."""
        return {
            "id": self.id,
            "label": self.label,
            "score": round(float(self.score), 6),
            "frames": self.frames.tolist(),
            "boxes": [[round(x, 2) for x in box] for box in self.boxes.tolist()],
            "scores": [round(x, 6) for x in self.scores.tolist()],
        }


@dataclasses.dataclass(frozen=True, eq=False)
class FrameTracks:
    """The boxes of all tubes in one frame, in the order of the tubes' ids.

    Attributes:
        frame: its number. ids: int [n], of the tubes. labels: int [n], classes.
        boxes: float32 [n, 4]. scores: float32 [n], re-scored.

    Source: thesis 8.5.2: what is evaluated are the boxes of the tubes.
    """

    frame: int
    ids: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


def link(detections, tracklets, options=LinkOptions()):  # noqa: B008 (it is frozen)
    """Links the detections of a video to tubes.

    Args:
        detections: iterable of `FrameDetections`, frames ascending.
        tracklets: iterable of `Tracklets`, one less, from each frame to the next.
        options: `LinkOptions`.

    Returns:
        List of `Tube`, by class, best first; empty if nothing was detected.

    Raises:
        ValueError: if frames do not ascend, classes differ between frames or the number
            of tracklets does not fit.

    Source: thesis 8.4.
    """
    linker = TubeLinker(options)
    tracklets = iter(tracklets)
    for number, found in enumerate(detections):
        between = next(tracklets, None) if number else None
        if number and between is None:
            raise ValueError(
                f"Got {number - 1} tracklets, too few: give one less than frames, from "
                "each frame to the next (empty ones where nothing was tracked)."
            )
        linker.update(found, between)
    if next(tracklets, None) is not None:
        raise ValueError("Got more tracklets than steps between frames; give one less.")
    return linker.finish()


class TubeLinker:
    """Collects a video frame by frame and links it at its end.

    Of every frame at most `keep` boxes per class are held, and which of them the
    tracklets link, so a video of any length needs no more than that per frame.

    Args:
        options: `LinkOptions`.

    Source: thesis 8.4.
    """

    def __init__(self, options=LinkOptions()):  # noqa: B008 (it is frozen)
        self._options = options
        self._frames, self._candidates, self._links = [], [], []

    def update(self, detections, tracklets=None):
        """Takes the next frame.

        Args:
            detections: `FrameDetections`.
            tracklets: `Tracklets` from the previous frame to this one; None at the
                first frame, or where there is none.

        Raises:
            ValueError: if the frame does not come after the previous one, or has
                another number of classes.

        Source: thesis 8.4.
        """
        check_next(detections, self._frames, self._candidates)
        found = reduce(detections, self._options)
        previous = self._candidates[-1] if self._candidates else None
        self._links.append(predecessors(previous, found, tracklets, self._options))
        self._frames.append(detections.frame)
        self._candidates.append(found)

    def finish(self):
        """The tubes of all frames so far, as a list of `Tube` (see `link`).

        Source: thesis eq. 8.7 and the re-scoring below it.
        """
        if not self._frames:
            return []
        frames, tubes = np.array(self._frames), []
        boxes, scores, first = self._in_one_row()
        for label, totals, paths in disjoint_paths(self._candidates, self._links):
            # Where the class has boxes: -1 elsewhere, the same frames in every path.
            present = np.flatnonzero(paths[0] >= 0)
            places = first[present, label] + paths[:, present]
            of_class = rescore(scores[places], self._options.alpha)
            for total, path, of_tube in zip(totals, places, of_class, strict=True):
                tubes.append(
                    Tube(
                        id=len(tubes),
                        label=label,
                        score=float(total / len(present)),
                        frames=frames[present],
                        boxes=boxes[path],
                        scores=of_tube,
                    )
                )
        return tubes

    def _in_one_row(self):
        """Boxes [n, 4] and scores [n] of all frames, and where [T, C] classes begin."""
        counts = [found.scores.shape for found in self._candidates]
        sizes = np.array([classes * width for classes, width in counts])
        first = [np.arange(classes) * width for classes, width in counts]
        return (
            np.concatenate([found.boxes.reshape(-1, 4) for found in self._candidates]),
            np.concatenate([found.scores.ravel() for found in self._candidates]),
            np.stack(first) + (np.cumsum(sizes) - sizes)[:, None],
        )


def check_next(detections, frames, candidates):
    """A ValueError if a frame cannot follow the ones before it.

    Args:
        detections: `FrameDetections`. frames: numbers of the frames before.
        candidates: `Candidates` of the frames before; both may hold the last one only.

    Source: thesis 8.5.2, frames t, t + tau, t + 2 tau ...
    """
    if detections.frame < 0 or (frames and detections.frame <= frames[-1]):
        after = f"after {frames[-1]}" if frames else "0 or more"
        raise ValueError(
            f"Frames must ascend: the next one must come {after}; got "
            f"{detections.frame}. Use one linker per video."
        )
    classes = detections.scores.shape[1]
    if candidates and len(candidates[-1].counts) != classes:
        raise ValueError(
            f"Frame {detections.frame} has scores of {classes} classes; the frames "
            f"before it have {len(candidates[-1].counts)}."
        )


def rescore(scores, alpha):
    """Adds to the scores of tubes [..., n] the mean of the ceil(alpha n) highest.

    Args:
        alpha: above 0, at most 1; None adds nothing.

    Source: thesis 8.4, below eq. 8.7.
    """
    if alpha is None:
        return scores
    count = top_count(scores.shape[-1], alpha)
    best = np.sort(scores, axis=-1)[..., scores.shape[-1] - count :]
    return scores + best.mean(axis=-1, keepdims=True)


def top_count(count, alpha):
    """ceil(alpha n); 0.1 of 30 is 3, though 0.1 * 30 is above it in floating point.

    Args:
        count: n, a number or an array of integers. alpha: above 0, at most 1.

    Source: thesis 8.4, alpha = 50 % of the scores of a tube.
    """
    return np.ceil(np.multiply(count, alpha) - 1e-9).astype(int)
