"""What a model answered on a list of videos, and the figures drawn from it.

Source: thesis Table 7.2: accuracy on static and moving camera, and per class.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Skip:
    """A video that could not be read: its path and why (bad input is counted)."""

    path: str
    reason: str


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """Raw scores of every video that could be read, and the videos that could not.

    Attributes:
        classes: K class names in the order of the scores.
        paths: N videos that were evaluated.
        labels: int [N], the true classes.
        scores: float32 [N, K], raw scores averaged over views, before the softmax.
        groups: N names such as "static" and "moving", or empty strings.
        skipped: videos without an answer, as `Skip`; in no figure below.

    Source: thesis 7.5 and Table 7.2.
    """

    classes: tuple
    paths: tuple
    labels: np.ndarray
    scores: np.ndarray
    groups: tuple
    skipped: tuple = ()

    def __post_init__(self):
        expected = (len(self.paths), len(self.classes))
        if self.scores.shape != expected or len(self.labels) != len(self.paths):
            raise ValueError(
                f"{len(self.paths)} videos and {len(self.classes)} classes need scores "
                f"{expected} and as many labels as videos; got scores "
                f"{self.scores.shape} and {len(self.labels)} labels."
            )

    @property
    def predictions(self):
        """The class of the highest score, int [N] (thesis 7.3.3)."""
        return np.argmax(self.scores, axis=1)

    @property
    def correct(self):
        """Whether the prediction is the label, bool [N]."""
        return self.predictions == self.labels

    @property
    def group_names(self):
        """Names of the groups that occur, "static" before "moving" (Table 7.2)."""
        order = {"static": 0, "moving": 1}
        names = {group for group in self.groups if group}
        return tuple(sorted(names, key=lambda name: (order.get(name, 2), name)))

    def accuracy(self, group=None, label=None):
        """Share of right answers, 0-1; NaN where there is no video.

        Args:
            group: only videos of this group. label: only videos of this class number.

        Source: thesis Table 7.2.
        """
        chosen = self._chosen(group, label)
        return float(self.correct[chosen].mean()) if chosen.any() else float("nan")

    def count(self, group=None, label=None):
        """Number of evaluated videos, restricted like `accuracy` (thesis 7.5)."""
        return int(self._chosen(group, label).sum())

    def _chosen(self, group, label):
        chosen = np.ones(len(self.paths), bool)
        if group is not None:
            chosen &= np.array(self.groups) == group
        if label is not None:
            chosen &= self.labels == label
        return chosen

    def confusion(self):
        """Counts of videos of class (row) answered as class (column), int [K, K].

        Source: the usual confusion matrix; thesis 7.5 discusses its largest entries.
        """
        size = len(self.classes)
        cells = self.labels * size + self.predictions
        return np.bincount(cells, minlength=size * size).reshape(size, size)
