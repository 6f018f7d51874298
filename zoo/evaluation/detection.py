"""Average precision of detections in video, as ImageNet VID measures it.

What the official kit (ILSVRC2015, eval_vid_detection.m) does is done here:

- Frame by frame and class by class, in descending order of score, a detection takes
  the object of its class that it overlaps most among those not yet taken, if the
  overlap reaches the object's threshold min(0.5, wh / ((w + 10)(h + 10))). Otherwise it
  is a false positive.
- Average precision is the area under the precision that is made monotone, over all
  recalls. The mean is over the classes that have objects.
- Detections in frames without annotation do not count: a list of every tenth frame is
  evaluated by leaving the others out. A class that a frame ignores (the kit's
  blacklist) counts there neither as objects nor as detections.

Boxes are continuous, width x2 - x1; the kit's boxes name first and last pixels and are
wider by 1, so kit coordinates become the same boxes by adding 1 to x2 and y2.

By speed, as Zhu et al. (2017) do it: the motion IoU of an object is the mean overlap of
its box with its own boxes up to 10 frames away; slow is 0.9 and above, fast 0.7 and
below, medium between (a value on a limit belongs to both sides). Objects of other
speeds are ignored: what finds them is neither right nor wrong. A detection that finds
nothing is wrong if the object, of any class, that it overlaps most has the speed, and
ignored if that one has another. Where it overlaps both kinds alike (mostly: not at all)
it counts by the share of ignored objects in its frame; in a frame without objects, by
the share of objects of the speed in the whole set. These two weights, which look odd,
are those of the published numbers.

Source: thesis 8.5.1; Russakovsky et al. (2015); Zhu et al. (2017), Flow-Guided Feature
Aggregation, section 5.1.
"""

import dataclasses

import numpy as np

from zoo.evaluation.box_arithmetic import area, check_boxes, iou
from zoo.evaluation.motion import SPEEDS, motion_iou

TOLERANCE = 10
"""Pixels that a box of a small object may be off (ILSVRC2015 kit)."""
_EMPTY = -1.0  # weight of a false positive in a frame without objects, until the end


@dataclasses.dataclass(frozen=True, eq=False)
class Detections:
    """What is to be evaluated in a frame; `FrameTracks` will do as well.

    Attributes:
        boxes: [N, 4], pixels. labels: int [N], 0 to C - 1, -1 for padding.
        scores: [N], finite, the higher the surer.

    Source: thesis 8.5.1.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Objects:
    """The objects of a frame; the frames of `zoo.datasets.imagenet_vid` do as well.

    Attributes:
        boxes: [G, 4], pixels. labels: int [G], 0 to C - 1, -1 for padding.
        tracks: int [G], the same number in all frames of an object; None if unknown.
        ignored: classes that do not count in this frame.

    Source: thesis 8.5.1.
    """

    boxes: np.ndarray
    labels: np.ndarray
    tracks: np.ndarray | None = None
    ignored: tuple = ()


@dataclasses.dataclass(frozen=True, eq=False)
class VidResults:
    """Average precision of C classes, in all and by speed.

    Attributes:
        classes: C names.
        precision: {"all", and by speed "slow", "medium", "fast"}: float [C], 0-1, NaN
            where the class has no object.
        objects: {the same}: int [C], number of annotated boxes.
        detections: int [C], number of boxes evaluated.

    Source: thesis Table 8.1.
    """

    classes: tuple
    precision: dict
    objects: dict
    detections: np.ndarray

    def mean(self, speed="all"):
        """Mean average precision over the classes with objects; NaN if none has.

        Args:
            speed: "all", "slow", "medium" or "fast".

        Source: thesis 8.5.1.
        """
        if speed not in self.precision:
            known = ", ".join(self.precision)
            raise ValueError(
                f"speed must be one of {known}; got {speed!r}. Speeds are measured "
                "where evaluate_vid is called with by_speed=True."
            )
        found = self.precision[speed][self.objects[speed] > 0]
        return float(found.mean()) if found.size else float("nan")

    def to_dict(self):
        """Plain data for JSON, precision as 0-1; None where there is no object."""

        def number(value):
            return None if np.isnan(value) else round(float(value), 6)

        return {
            "mean": {speed: number(self.mean(speed)) for speed in self.precision},
            "classes": {
                name: {
                    "precision": {s: number(v[c]) for s, v in self.precision.items()},
                    "objects": {s: int(v[c]) for s, v in self.objects.items()},
                    "detections": int(self.detections[c]),
                }
                for c, name in enumerate(self.classes)
            },
        }


def evaluate_vid(detections, annotations, classes, by_speed=True):
    """Average precision of the detections in a set of videos.

    Args:
        detections: {video: {frame: `Detections`}}; frames that are missing have none.
        annotations: {video: {frame: `Objects`}}; these frames are evaluated.
        classes: names of the C classes.
        by_speed: whether to measure by speed, too, which needs the objects' tracks.

    Returns:
        `VidResults`.

    Raises:
        ValueError: if a video is not annotated, or a label, box or score is wrong.

    Source: thesis 8.5.1, Table 8.1.
    """
    unknown = sorted(set(detections) - set(annotations), key=str)
    if unknown:
        raise ValueError(
            f"{len(unknown)} videos have detections but no annotations, {unknown[0]!r} "
            "first. The keys of both must be the same names."
        )
    evaluation = VidEvaluation(classes, by_speed)
    for video, objects in annotations.items():
        evaluation.update(detections.get(video, {}), objects, name=video)
    return evaluation.results()


class VidEvaluation:
    """Takes video after video, so that a large set need not be held at once.

    Args:
        classes: names of the C classes. by_speed: see `evaluate_vid`.

    Source: thesis 8.5.1.
    """

    def __init__(self, classes, by_speed=True):
        self._classes = tuple(classes)
        self._ranges = {"all": (-np.inf, np.inf), **(SPEEDS if by_speed else {})}
        self._objects = np.zeros((len(self._ranges), len(self._classes)), int)
        self._speeds = np.zeros(len(self._ranges), int)  # ignored classes included
        # Of every detection: label, score, right [R], weight of being wrong [R].
        self._rows = [], [], [], []

    def update(self, detections, annotations, name="video", speeds=None):
        """Adds a video.

        Args:
            detections: {frame: `Detections`}. annotations: {frame: `Objects`}.
            name: of the video, for messages.
            speeds: {frame: motion IoU [G]}, where `annotations` leaves out frames that
                motion has to be measured by; by default `motion_iou(annotations)`.

        Raises:
            ValueError: see `evaluate_vid`.

        Source: thesis 8.5.1.
        """
        try:
            if len(self._ranges) > 1 and speeds is None:
                speeds = motion_iou(annotations)
            for frame, objects in annotations.items():
                where = f"frame {frame}"
                found = self._boxes(objects, f"{where}, objects")
                inside = self._inside(found, speeds, frame)
                ignored = tuple(getattr(objects, "ignored", ()))
                self._count(found, inside, ignored)
                if frame in detections:
                    given = self._boxes(detections[frame], f"{where}, detections")
                    scores = _scores(detections[frame], given, where)
                    self._compare(given, scores, found, inside, ignored)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    def _boxes(self, found, where):
        """Boxes float64 and labels without padding, and which are none of it."""
        boxes = check_boxes(found.boxes, f"{where}: boxes").astype(float)
        labels = np.asarray(found.labels).reshape(-1).astype(int)
        if len(boxes) != len(labels):
            raise ValueError(
                f"{where}: got {len(boxes)} boxes and {len(labels)} labels; there must "
                "be as many of each."
            )
        given = labels != -1
        labels = labels[given]
        if labels.size and not 0 <= labels.min() <= labels.max() < len(self._classes):
            raise ValueError(
                f"{where}: labels must be 0 to {len(self._classes) - 1}, or -1 for "
                f"padding; got {labels.min()} to {labels.max()}."
            )
        return boxes[given], labels.astype(np.int16), given

    def _inside(self, found, speeds, frame):
        """Which objects have which speed, bool [R, G]."""
        _, labels, given = found
        if len(self._ranges) == 1:
            return np.ones((1, len(labels)), bool)
        if frame not in speeds or len(speeds[frame]) != len(given):
            raise ValueError(
                f"speeds must hold a motion IoU for each of the {len(given)} objects "
                f"of frame {frame}; take motion_iou of all frames."
            )
        speed = np.asarray(speeds[frame])[given]
        return np.stack([(speed >= a) & (speed <= b) for a, b in self._ranges.values()])

    def _count(self, found, inside, ignored):
        """Counts the objects of a frame."""
        labels = found[1]
        self._speeds += inside.sum(axis=1)
        for number, of_speed in enumerate(inside):
            counted = labels[of_speed & ~np.isin(labels, ignored)]
            self._objects[number] += np.bincount(counted, minlength=len(self._classes))

    def _compare(self, given, scores, found, inside, ignored):
        """Compares the detections of a frame with its objects."""
        boxes, labels, _ = given
        targets, names, _ = found
        order = np.argsort(-scores, kind="stable")
        order = order[~np.isin(labels[order], ignored)]
        boxes, labels, scores = boxes[order], labels[order], scores[order]
        overlaps = iou(boxes, targets)
        taken = _match(overlaps, labels[:, None] == names, _thresholds(targets))
        right = (taken >= 0) & _of(inside, taken)
        wrong = np.where(taken >= 0, np.float32(0), _weights(overlaps, inside))
        for rows, found in zip(self._rows, (labels, scores, right, wrong), strict=True):
            rows.append(found)

    def results(self):
        """The `VidResults` of all videos so far.

        Source: thesis Table 8.1.
        """
        count = len(self._classes)
        detections, precision = np.zeros(count, int), np.zeros(self._objects.shape)
        if self._rows[0]:
            labels, scores = (np.concatenate(rows) for rows in self._rows[:2])
            right, wrong = (np.concatenate(rows, axis=1) for rows in self._rows[2:])
            # "all" takes every false positive as one, however still the objects are.
            shares = self._speeds / max(self._speeds[0], 1)
            shares[0] = 1
            wrong = np.where(wrong == _EMPTY, np.float32(shares)[:, None], wrong)
            detections = np.bincount(labels, minlength=count)
            order = np.lexsort((-scores, labels))  # stable: frames keep their order
            for label, rows in enumerate(np.split(order, np.cumsum(detections)[:-1])):
                precision[:, label] = [
                    _average_precision(right[speed, rows], wrong[speed, rows], objects)
                    for speed, objects in enumerate(self._objects[:, label])
                ]
        precision[self._objects == 0] = np.nan
        return VidResults(
            classes=self._classes,
            precision=dict(zip(self._ranges, precision, strict=True)),
            objects=dict(zip(self._ranges, self._objects.copy(), strict=True)),
            detections=detections,
        )


def _scores(detections, given, where):
    """Scores float64 without padding, finite."""
    scores = np.asarray(detections.scores, float).reshape(-1)
    if scores.size != len(given[2]):
        raise ValueError(
            f"{where}, detections: got {len(given[2])} boxes and {scores.size} scores; "
            "there must be as many of each."
        )
    scores = scores[given[2]]
    if not np.isfinite(scores).all():
        raise ValueError(
            f"{where}, detections: scores must be finite; got NaN or infinity."
        )
    return scores


def _thresholds(boxes):
    """Overlap that finds an object: less than 0.5 for small ones, [G]."""
    return np.minimum(0.5, area(boxes) / area(boxes + [0, 0, TOLERANCE, TOLERANCE]))


def _match(overlaps, same, thresholds):
    """The object that each detection takes, int [N], -1 for none; best scores first."""
    taken = np.full(len(overlaps), -1)
    possible = np.where(same & (overlaps >= thresholds), overlaps, -1.0)
    # Few detections overlap an object of their class: only these are looked at.
    for row in np.flatnonzero((possible >= 0).any(axis=1)):
        best = possible[row].argmax()
        if possible[row, best] >= 0:
            taken[row] = best
            possible[:, best] = -1
    return taken


def _of(inside, taken):
    """Whether the objects taken are of the speed, bool [R, N]; False for none."""
    if not inside.shape[1]:
        return np.zeros((len(inside), len(taken)), bool)
    return inside[:, taken.clip(0)]


def _weights(overlaps, inside):
    """How much a detection that finds nothing counts as wrong, float32 [R, N]."""
    if not inside.shape[1]:
        return np.full((len(inside), len(overlaps)), _EMPTY, np.float32)
    spread = overlaps[None]
    of_speed = np.where(inside[:, None], spread, -1).max(axis=2)
    of_others = np.where(inside[:, None], -1, spread).max(axis=2)
    share = 1 - inside.mean(axis=1, keepdims=True)
    weights = np.where(of_speed == of_others, share, of_speed > of_others)
    return weights.astype(np.float32)


def _average_precision(right, wrong, objects):
    """Area under the monotone precision over recall."""
    right, wrong = np.cumsum(right), np.cumsum(wrong, dtype=float)
    recall = np.concatenate([[0.0], right / max(objects, 1)])
    precision = right / np.maximum(right + wrong, np.finfo(float).tiny)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * precision))


def proposal_recall(proposals, annotations, classes, overlap=0.5):
    """Share of the objects that some proposal overlaps enough.

    Args:
        proposals: {video: {frame: boxes [N, 4]}}, the best 300 in the thesis.
        annotations: {video: {frame: `Objects`}}. classes: names of the C classes.
        overlap: smallest IoU that counts.

    Returns:
        Mean over the classes that have objects, and {class name: recall} of these.

    Source: thesis 8.5.2, "mean recall of 96.5 %".
    """
    found, total = np.zeros((2, len(classes)), int)
    for video, frames in annotations.items():
        for frame, objects in frames.items():
            labels = np.asarray(objects.labels, int)
            targets = check_boxes(objects.boxes, f"{video}, frame {frame}: boxes")
            targets, labels = targets[labels >= 0].astype(float), labels[labels >= 0]
            boxes = proposals.get(video, {}).get(frame, np.zeros((0, 4)))
            boxes = check_boxes(boxes, f"{video}, frame {frame}: proposals")
            hit = (iou(targets, boxes.astype(float)) >= overlap).any(axis=1)
            found += np.bincount(labels[hit], minlength=len(classes))
            total += np.bincount(labels, minlength=len(classes))
    shares = {
        name: float(f / t)
        for name, f, t in zip(classes, found, total, strict=True)
        if t
    }
    mean = float(np.mean([*shares.values()])) if shares else float("nan")
    return mean, shares
