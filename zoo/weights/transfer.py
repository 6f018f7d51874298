"""Moving weights between networks by the names of their layers.

Source: thesis 7.3.3: "we transform the residual units to spacetime and re-start the
training process", and 4.3.5 and 5.4.1, where two trained streams become one network.
"""

import dataclasses
import fnmatch
import math
import re

import keras
import numpy as np
from absl import logging

from zoo.models.inputs import STREAMS
from zoo.weights import geometry
from zoo.weights.adaptation import adapt

DETECTOR_HEAD = "rfcn_cls"
_HEAD = re.compile(f"(?:(?:{'|'.join(STREAMS)})_)?fc8?|{DETECTOR_HEAD}")


@dataclasses.dataclass(frozen=True)
class Weights:
    """Trained weights, wherever they come from.

    Attributes:
        origin: model name or file, for messages.
        layers: {layer name: [array, ...]} of all layers that have weights.
        options: architecture options under which they were trained, as far as known.
        first_layer: rule that makes a first layer for flow out of one for colour, see
            `zoo.weights.adaptation.flow_kernel`.
        geometry: {layer name: {attribute: value}} of strides, padding and windows, of
            weights whose file has them; {} where they are unknown.

    Source: thesis 7.3.3.
    """

    origin: str
    layers: dict
    options: dict = dataclasses.field(default_factory=dict)
    first_layer: str = "mean"
    geometry: dict = dataclasses.field(default_factory=dict)

    @property
    def num_classes(self):
        """Size of the classifiers, or None without one (thesis 7.3.3).

        Raises:
            ValueError: the streams have classifiers of different sizes.
        """
        if DETECTOR_HEAD in self.layers:
            return self._classes_of_detector()
        sizes = {
            name: arrays[0].shape[-1]
            for name, arrays in self.layers.items()
            if is_head(name)
        }
        if len(set(sizes.values())) > 1:
            raise ValueError(
                f"The streams of {self.origin} were trained on different numbers of "
                f"classes, {sizes}; train them on the same, or pass num_classes to "
                "start new classifiers."
            )
        return next(iter(sizes.values()), None)

    @property
    def task(self):
        """What the weights were trained for, as `ModelInfo.task` (thesis 8.3.2)."""
        return "detection" if DETECTOR_HEAD in self.layers else "classification"

    def _classes_of_detector(self):
        """C of k^2 (C + 1) score maps; k from the 4 k^2 or 8 k^2 maps beside them."""
        scores, boxes = (
            self.layers[name][0].shape[-1] if name in self.layers else 0
            for name in (DETECTOR_HEAD, "rfcn_bbox")
        )
        bins = [n for n in (boxes // 4, boxes // 8) if n and math.isqrt(n) ** 2 == n]
        if not bins or scores % bins[0]:
            raise ValueError(
                f"{self.origin} is no detector of the zoo: {DETECTOR_HEAD} has "
                f"{scores} maps and rfcn_bbox {boxes}; expected are k^2 for each "
                "class and the background, and beside them 4 k^2 or 8 k^2."
            )
        return scores // bins[0] - 1

    def of_stream(self, stream):
        """These weights as those of one stream: their names with its prefix.

        Weights of a network of two streams give their part.

        Args:
            stream: "appearance" or "motion".

        Source: thesis 4.3.5, 5.4.1.
        """
        prefix = f"{stream}_"

        def part(names):
            own = {k: v for k, v in names.items() if k.startswith(prefix)}
            return own or {f"{prefix}{k}": v for k, v in names.items()}

        layers, geometry = part(self.layers), part(self.geometry)
        return dataclasses.replace(self, layers=layers, geometry=geometry)


def is_head(name):
    """Whether a layer is a classifier, to be replaced for other classes (7.3.3)."""
    return _HEAD.fullmatch(name) is not None


@dataclasses.dataclass(frozen=True)
class TransferReport:
    """What became of every layer that has weights.

    Attributes:
        copied: layers taken from the source as they are. adapted: layers whose kernel
            changed its shape by a rule of `zoo.weights.adaptation`. new: layers the
            source lacks, left at their initial values. left_out: layers of the source
            that a tower cut off no longer has. heads: classifiers that start anew.

    Source: thesis 7.3.3.
    """

    copied: tuple
    adapted: tuple
    new: tuple
    left_out: tuple
    heads: tuple


def weights_of(model, options=None):
    """The `Weights` of a keras.Model in memory (thesis 7.3.3)."""
    layers = {
        name: [keras.ops.convert_to_numpy(v) for v in variables]
        for name, variables in _by_layer(model).items()
    }
    return Weights(model.name, layers, dict(options or {}))


def transfer(weights, target, new_layers=(), cut_layers=()):
    """Copies `weights` into `target`, layer by layer of the same name.

    The layers that a network has beyond its predecessor keep their initial values, and
    kernels change their shape where a rule says how. A classifier of another shape
    starts anew, and a warning says so.

    Args:
        weights: a `Weights`. target: keras.Model to start from it.
        new_layers: wildcards of layers that may be absent in the source, all of them
            or none, see `ModelInfo.new_layers`.
        cut_layers: wildcards of layers that may be absent in the target.

    Returns:
        A `TransferReport`.

    Raises:
        ValueError: a layer is missing on either side, has other shapes or holds NaN:
            the weights belong to another architecture or are broken.

    Source: thesis 7.3.3.
    """
    variables = _by_layer(target)
    heads = tuple(
        name
        for name in weights.layers
        if is_head(name)
        and name in variables
        and _shapes(weights.layers[name]) != _shapes(variables[name])
    )
    left_out = tuple(
        name
        for name in weights.layers
        if name not in variables and _matches(name, cut_layers)
    )
    arrays = {
        name: _adapted(values, variables.get(name), weights.first_layer, target)
        for name, values in weights.layers.items()
        if name not in heads + left_out
    }
    _require_fit(weights, arrays, target.name, variables, new_layers)
    geometry.require_same(weights.geometry, target, weights.origin)
    adapted = []
    for name, values in arrays.items():
        if _shapes(values) != _shapes(weights.layers[name]):
            adapted.append(name)
        for variable, array in zip(variables[name], values, strict=True):
            variable.assign(array)
    report = TransferReport(
        copied=tuple(name for name in arrays if name not in adapted),
        adapted=tuple(adapted),
        new=tuple(name for name in variables if name not in (*arrays, *heads)),
        left_out=left_out,
        heads=heads,
    )
    _say(report, weights, target, variables)
    return report


def _by_layer(model):
    """{layer name: its variables}, a layer within a layer under its own name.

    A normalisation is thus found whether or not it is fused with its convolution.
    """
    layers = {}
    for variable in model.weights:
        layers.setdefault(variable.path.split("/")[-2], []).append(variable)
    return layers


def _matches(name, patterns):
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _adapted(arrays, variables, first_layer, target):
    """The arrays in the shapes of the variables, as far as there is a rule."""
    if variables is None or len(arrays) != len(variables):
        return arrays
    found = [
        adapt(array, variable.shape, first_layer, _order_of(target))
        for array, variable in zip(arrays, variables, strict=True)
    ]
    return arrays if any(array is None for array in found) else found


def _order_of(target):
    """The order in which a network concatenates its streams, if it does."""
    orders = [layer.order for layer in target.layers if hasattr(layer, "order")]
    return orders[0] if orders else "interleaved"


def _require_fit(weights, arrays, name, variables, new_layers):
    origin = weights.origin
    unused = [layer for layer in arrays if layer not in variables]
    has_new = any(_matches(layer, new_layers) for layer in arrays)
    missing = [
        layer
        for layer in variables
        if layer not in weights.layers
        and not is_head(layer)
        and (has_new or not _matches(layer, new_layers))
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


def _say(report, weights, target, variables):
    """Says once what does not simply carry over."""
    for name in report.heads:
        have, want = (s[name][0].shape for s in (weights.layers, variables))
        what = (
            f"{have[-1]} -> {want[-1]} classes"
            if have[-1] != want[-1]
            else f"on {want[-2]} features in place of {have[-2]}"
        )
        logging.warning(
            "%s: new classifier %s, %s; it starts untrained.", target.name, name, what
        )
    untrained = [n for n in variables if is_head(n) and n not in weights.layers]
    if untrained:
        logging.warning(
            "%s: %s has no classifier; the new one (%s) starts untrained.",
            target.name,
            weights.origin,
            ", ".join(untrained),
        )
    for what, names in (
        ("left out, its tower is cut off", report.left_out),
        ("adapted from another shape", report.adapted),
    ):
        if names:
            logging.info("%s: %s: %s.", target.name, what, ", ".join(names))
