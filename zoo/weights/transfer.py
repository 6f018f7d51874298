"""Moving weights between networks by the names of their layers.

Source: thesis 7.3.3: "we transform the residual units to spacetime and re-start the
training process"; temporal layers are new, all others are those of the spatial net.
"""

import dataclasses
import re

import numpy as np
from absl import logging

HEAD = "fc"

# New layers that begin as copies: a temporal block normalises W1 x for itself, and
# begins with the statistics that the spatial block has for the same signal (eq. 7.5).
INHERITED = ((re.compile(r"conv_time_res(\w+)_branch2a_bn"), r"bn\1_branch2a"),)


@dataclasses.dataclass(frozen=True)
class Weights:
    """Trained weights, wherever they come from.

    Attributes:
        origin: model name or file, for messages.
        layers: {layer name: [array, ...]} of all layers that have weights.
        options: architecture options under which they were trained, as far as known.

    Source: thesis 7.3.3.
    """

    origin: str
    layers: dict
    options: dict = dataclasses.field(default_factory=dict)

    @property
    def num_classes(self):
        """Size of the classifier, or None without one (thesis 7.3.3)."""
        return self.layers[HEAD][0].shape[-1] if HEAD in self.layers else None


@dataclasses.dataclass(frozen=True)
class TransferReport:
    """What became of every layer that has weights.

    Attributes:
        copied: layers taken from the source. new: layers the source lacks, left at
            their initial values. head: None, or (classes of the source, classes of
            the target) where the classifier starts anew.

    Source: thesis 7.3.3.
    """

    copied: tuple
    new: tuple
    head: tuple | None


def weights_of(model, options=None):
    """The `Weights` of a keras.Model in memory (thesis 7.3.3)."""
    layers = {layer.name: layer.get_weights() for layer in _weighted(model)}
    return Weights(model.name, layers, dict(options or {}))


def transfer(weights, target):
    """Copies `weights` into `target`, layer by layer of the same name.

    Layers that only `target` has keep their initial values. A classifier of another
    size starts anew, and a warning says so.

    Args:
        weights: a `Weights`. target: keras.Model to start from it.

    Returns:
        A `TransferReport`.

    Raises:
        ValueError: a layer of `weights` has no place in `target` or other shapes, or
            holds NaN: the weights belong to another architecture or are broken.

    Source: thesis 7.3.3.
    """
    pairs = [
        (layer, _source_of(layer.name, weights.layers)) for layer in _weighted(target)
    ]
    head = _head_change(weights, target)
    unused = sorted(set(weights.layers) - {name for _, name in pairs})
    differing = [
        f"{layer.name} {_shapes(weights.layers[name])} -> {_shapes(layer.weights)}"
        for layer, name in pairs
        if name
        and _shapes(weights.layers[name]) != _shapes(layer.weights)
        and not (head and name == HEAD)
    ]
    if unused or differing:
        raise ValueError(_explain(weights, target, unused, differing))
    copied, new = [], []
    for layer, name in pairs:
        if name is None or (head and name == HEAD):
            new.append(layer.name)
        else:
            layer.set_weights(_finite(weights, name))
            copied.append(layer.name)
    if head:
        logging.warning(
            "%s: new classifier, %d -> %d classes; it starts untrained.",
            target.name,
            *head,
        )
    return TransferReport(tuple(copied), tuple(new), head)


def _weighted(model):
    return [layer for layer in model.layers if layer.weights]


def _shapes(arrays):
    return [tuple(a.shape) for a in arrays]


def _source_of(name, layers):
    if name in layers:
        return name
    for pattern, template in INHERITED:
        inherited = pattern.sub(template, name)
        if inherited != name and inherited in layers:
            return inherited
    return None


def _finite(weights, name):
    arrays = weights.layers[name]
    if not all(np.isfinite(a).all() for a in arrays):
        raise ValueError(
            f"{weights.origin}: layer {name} holds NaN or infinite values; the "
            "training diverged or the file is broken. Use an earlier checkpoint."
        )
    return arrays


def _head_change(weights, target):
    classes = {layer.name: layer for layer in target.layers}[HEAD].units
    known = weights.num_classes
    return None if known in (None, classes) else (known, classes)


def _explain(weights, target, unused, differing):
    lines = [f"The weights of {weights.origin} do not fit {target.name}."]
    for what, found in (
        ("have no place in it", unused),
        ("have other shapes", differing),
    ):
        if found:
            more = ", ..." if len(found) > 3 else ""
            lines.append(f"{len(found)} layers {what}: {', '.join(found[:3])}{more}.")
    lines.append(
        "Pass weights of the same architecture and options, or of the predecessor that "
        "zoo.info(name).warm_start names."
    )
    return " ".join(lines)
