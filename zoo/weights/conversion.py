"""Weights of another framework's file, and the table of what became of each tensor.

Source: the result of an importer is ours; the formats are those of MatConvNet (Vedaldi
and Lenc 2015), Caffe (Jia et al. 2014) and PyTorch (Paszke et al. 2019).
"""

import dataclasses

from zoo.weights.transfer import Weights


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table that `zoo convert` prints.

    Attributes:
        source: name of the source tensor or tensors, e.g. "bn2a_branch2a_moments".
        target: "<our layer>/<variable>", e.g. "bn2a_branch2a/moving_variance".
        shape: of the target.
        transform: what was done, e.g. "HWIO", "OIHW -> HWIO", "std^2 - eps",
            "BGR -> RGB".

    Source: ours.
    """

    source: str
    target: str
    shape: tuple
    transform: str


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What an importer has read.

    Attributes:
        weights: `Weights` by our layer names, in Keras' layout, float32.
        rows: a `Row` per target variable.
        unused: names of source tensors that have no place in the network.
        facts: what the file says of itself: classes, averageImage, imageSize, producer.

    Source: ours.
    """

    weights: Weights
    rows: tuple
    unused: tuple = ()
    facts: dict = dataclasses.field(default_factory=dict)
