"""What it takes to train a detector: one frozen record of plain data.

Source: thesis 8.5.1 and 8.5.2, whose values are the defaults.
"""

import dataclasses

from zoo.training.recipe import check

COUNTS = (
    "frames",
    "stride",
    "shorter_side",
    "longer_side",
    "batch_size",
    "accumulation",
    "updates_per_epoch",
    "stills_per_class",
)


@dataclasses.dataclass(frozen=True)
class DetectionRecipe:
    """All numbers of the training of a detector.

    Attributes:
        model: registered name. options: of that architecture, see `zoo.info`.
        weights: start of the training: "imagenet", a path, or None for random.
        frames: T of an example, 1 for detection alone, 2 for Detect & Track.
        stride: tau, frames of the video from one to the next.
        frames_per_video: starts are taken from so many equally spaced frames of each
            video, None draws one at random.
        stills: half of the examples are stills of ImageNet DET.
        stills_per_class: at most.
        shorter_side, longer_side: of the frames in pixels, the latter at most.
        padded_size: (height, width) that all batches have, None for the largest frame
            of each.
        max_objects: that all batches have room for, None for the most of each.
        flip: mirror half of the examples.
        batch_size: examples per update, over all devices.
        accumulation: in how many parts a batch is computed, to save memory.
        loss_weights: {term: number} of eq. 8.1, see `zoo.models.detector.Detector`.
        optimizer: "sgd" or "adam".
        learning_rate: pairs (rate, number of updates), which are gone through and end
            the training.
        updates_per_epoch: after so many a snapshot is taken and the logs have a row.

    Raises:
        ValueError: a field out of its range; the message names it.

    Source: thesis 8.5.2.
    """

    model: str
    options: dict = dataclasses.field(default_factory=dict)
    weights: str | dict | None = None
    frames: int = 2
    stride: int = 1
    frames_per_video: int | None = None
    stills: bool = True
    stills_per_class: int = 2000
    shorter_side: int = 600
    longer_side: int = 1000
    padded_size: tuple | None = None
    max_objects: int | None = None
    flip: bool = True
    batch_size: int = 4
    accumulation: int = 1
    loss_weights: dict = dataclasses.field(default_factory=dict)
    optimizer: str = "sgd"
    learning_rate: tuple = ((1e-4, 40_000), (1e-5, 20_000))
    updates_per_epoch: int = 1000

    def __post_init__(self):
        check(self, COUNTS)

    @property
    def rates(self):
        """Pairs (learning rate, updates) (thesis 8.5.2)."""
        return self.learning_rate

    @property
    def epochs(self):
        """How many rows the logs will have (our own count)."""
        updates = sum(count for _, count in self.rates)
        return -(-updates // self.updates_per_epoch)
