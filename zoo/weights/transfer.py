"""Moving weights between networks by the names of their layers.

Source: thesis 7.3.3: "we transform the residual units to spacetime and re-start the
training process"; temporal layers are new, all others are those of the spatial net.
"""

import dataclasses

import keras
import numpy as np
from absl import logging

HEAD = "fc"
TEMPORAL = "conv_time_"  # layers that a spatial predecessor does not have (eq. 7.4)


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
    layers = {
        name: [keras.ops.convert_to_numpy(v) for v in variables]
        for name, variables in _by_layer(model).items()
    }
    return Weights(model.name, layers, dict(options or {}))


def transfer(weights, target):
    """Copies `weights` into `target`, layer by layer of the same name.

    The temporal layers of a network that starts from a spatial one keep their initial
    values. A classifier of another size starts anew, and a warning says so.

    Args:
        weights: a `Weights`. target: keras.Model to start from it.

    Returns:
        A `TransferReport`.

    Raises:
        ValueError: a layer is missing on either side, has other shapes or holds NaN:
            the weights belong to another architecture or are broken.

    Source: thesis 7.3.3.
    """
    variables = _by_layer(target)
    head = _head_change(weights, variables)
    arrays = {k: v for k, v in weights.layers.items() if not (head and k == HEAD)}
    _require_fit(weights.origin, arrays, target.name, variables)
    for name in arrays:
        for variable, array in zip(variables[name], arrays[name], strict=True):
            variable.assign(array)
    if head:
        logging.warning(
            "%s: new classifier, %d -> %d classes; it starts untrained.",
            target.name,
            *head,
        )
    elif HEAD not in arrays:
        logging.warning(
            "%s: %s has no classifier; the new one starts untrained.",
            target.name,
            weights.origin,
        )
    new = tuple(name for name in variables if name not in arrays)
    return TransferReport(tuple(arrays), new, head)


def _by_layer(model):
    """{layer name: its variables}, a layer within a layer under its own name.

    A normalisation is thus found whether or not it is fused with its convolution.
    """
    layers = {}
    for variable in model.variables:
        layers.setdefault(variable.path.split("/")[-2], []).append(variable)
    return layers


def _head_change(weights, variables):
    classes = variables[HEAD][0].shape[-1]
    known = weights.num_classes
    return None if known in (None, classes) else (known, classes)


def _require_fit(origin, arrays, name, variables):
    unused = [layer for layer in arrays if layer not in variables]
    spatial = not any(layer.startswith(TEMPORAL) for layer in arrays)
    missing = [
        layer
        for layer in variables
        if layer not in arrays
        and layer != HEAD
        and not (spatial and layer.startswith(TEMPORAL))
    ]
    differing = [
        f"{layer} {_shapes(arrays[layer])} -> {_shapes(variables[layer])}"
        for layer in arrays
        if layer in variables and _shapes(arrays[layer]) != _shapes(variables[layer])
    ]
    if unused or missing or differing:
        raise ValueError(_explain(origin, name, unused, missing, differing))
    for layer, values in arrays.items():
        if not all(np.isfinite(a).all() for a in values):
            raise ValueError(
                f"{origin}: layer {layer} holds NaN or infinite values; the training "
                "diverged or the file is broken. Use an earlier checkpoint."
            )


def _shapes(arrays):
    return [tuple(a.shape) for a in arrays]


def _explain(origin, name, unused, missing, differing):
    lines = [f"The weights of {origin} do not fit {name}."]
    for what, found in (
        ("have no place in it", unused),
        ("it needs are missing", missing),
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
