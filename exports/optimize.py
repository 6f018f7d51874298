"""A network as it is best served: normalisations folded, training-only parts left out.

At inference a batch normalisation is a scale and an offset per channel. Behind a
convolution they belong into its kernel and bias: the same function with fewer weights
and less to compute at every request.

    ConvNorm, TemporalConvNorm    -> FoldedConv, FoldedTemporalConv
    conv - norm                   -> conv
    conv - add - norm             -> both convolutions (the release's T-ResNet)
    relu - norm and what is left  -> ChannelScale
    dropout                       -> nothing

Source: Ioffe and Szegedy 2015 (arXiv:1502.03167), algorithm 2, step 11.
"""

from collections import Counter
from typing import NamedTuple

import keras
import numpy as np
from absl import logging

from zoo import layers

FUSED = {
    layers.ConvNorm: layers.FoldedConv,
    layers.TemporalConvNorm: layers.FoldedTemporalConv,
}
NORMS = (layers.SubBatchNormalization, keras.layers.BatchNormalization)
LINEAR = (layers.SpatialConv, layers.TemporalConv, keras.layers.Dense)
TRAINING_ONLY = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout3D,
    keras.layers.GaussianNoise,
)
# Arguments of calls that layers of other classes do not take.
PRIVATE = ("mask", "training")


class Report(NamedTuple):
    """What became of a network's layers, counted.

    Attributes:
        folded: normalisations that are in the weights of other layers now.
        scaled: those behind a nonlinearity, which became a `ChannelScale`.
        left: normalisations over another axis than the channels, left as they are.
        dropped: layers that do something in training only.

    Source: Ioffe and Szegedy 2015.
    """

    folded: int = 0
    scaled: int = 0
    left: int = 0
    dropped: int = 0

    def __add__(self, other):
        return Report(*map(sum, zip(self, other, strict=True)))

    def __str__(self):
        return (
            f"{self.folded} normalisations folded, {self.scaled} kept as a scale, "
            f"{self.left} left as they are, {self.dropped} layers for training dropped"
        )


def optimized(model):
    """A model for inference that answers like `model` and computes less.

    Class, inputs, outputs and names of layers stay, so that `zoo.features` finds its
    endpoints; what was compiled does not come along. The model itself is not changed.
    What was done is logged, see `optimize`.

    Args:
        model: a functional keras.Model, of the zoo or around models of the zoo.

    Returns:
        A keras.Model with weights of its own.

    Raises:
        TypeError: no functional keras.Model.

    Source: Ioffe and Szegedy 2015, algorithm 2, step 11.
    """
    result, report = optimize(model)
    logging.info("%s: %s.", model.name, report)
    return result


def optimize(model):
    """`optimized`, and a `Report` of what was done.

    Source: Ioffe and Szegedy 2015, algorithm 2, step 11.
    """
    if not isinstance(model, keras.Model) or not hasattr(model, "operations"):
        raise TypeError(
            f"A functional keras.Model is needed, whose layers are known; got "
            f"{type(model).__name__}. zoo.load(name, weights=...) returns one."
        )
    config, weights, report = _rewritten(model, model.get_config())
    result = type(model).from_config(config)
    _assign(result, weights)
    return result, report


def _rewritten(model, config):
    """(config, {layer: arrays or the same of a nested model}, report) of a model."""
    plan = _Plan(model, config)
    entries, report = [], plan.report
    for entry in config["layers"]:
        layer = plan.layers.get(entry["name"])
        if isinstance(layer, keras.Model):
            inner, arrays, more = _rewritten(layer, entry["config"])
            entry = {**entry, "config": inner, "compile_config": None}
            report += more
            plan.weights[entry["name"]] = arrays
        entries.append(_substituted(entry, plan.replaced.get(entry["name"], {})))
    config = {**config, "layers": entries}
    if "frozen_norms" in config:  # of a detector, whose normalisations are gone
        config["frozen_norms"] = []
    return config, plan.weights, report


def _substituted(entry, parts):
    """A layer's entry in the config with parts of it replaced."""
    if "class_name" not in parts:
        return {**entry, **parts}
    # Another class, which knows nothing of what was said to the normalisation.
    nodes = [
        {
            **node,
            "kwargs": {k: v for k, v in node["kwargs"].items() if k not in PRIVATE},
        }
        for node in entry["inbound_nodes"]
    ]
    return {**entry, **parts, "inbound_nodes": nodes}


class _Plan:
    """What takes the place of each layer of a model.

    Attributes:
        layers: {name: layer} of the model.
        replaced: {name: parts of its entry in the config that change}.
        weights: {name: arrays} of all layers that have weights afterwards.
        report: the `Report`.
    """

    def __init__(self, model, config):
        self.layers = {layer.name: layer for layer in model.layers}
        self._sources = {entry["name"]: _sources(entry) for entry in config["layers"]}
        self._used = Counter(_names(config["output_layers"]))
        for names in self._sources.values():
            self._used.update(names)
        self.replaced, self.weights, self.report = {}, {}, Report()
        for name, layer in self.layers.items():
            if not isinstance(layer, keras.Model):
                self.weights[name] = layer.get_weights()
        for name, layer in self.layers.items():
            self.report += self._treat(name, layer)

    def _treat(self, name, layer):
        if type(layer) in FUSED:
            self._fuse(name, layer)
            return Report(folded=1)
        if isinstance(layer, TRAINING_ONLY):
            self._replace(name, keras.layers.Identity(**_common(layer)), [])
            return Report(dropped=1)
        if not isinstance(layer, NORMS):
            self._without_drawing(name, layer)
            return Report()
        affine = _affine(layer)
        if affine is None:
            return Report(left=1)
        if self._takes(self._only_source(name)):
            self._give(self._only_source(name), *affine)
            self._replace(name, keras.layers.Identity(**_common(layer)), [])
            return Report(folded=1)
        self._replace(name, layers.ChannelScale(**_common(layer)), list(affine))
        return Report(scaled=1)

    def _fuse(self, name, layer):
        factor, offset = _affine(layer.norm)
        config = layer.get_config()
        del config["sub_batch"], config["norm_name"]
        replacement = FUSED[type(layer)].from_config(config)
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        self._replace(name, replacement, [_product(kernel, factor), offset])

    def _replace(self, name, layer, arrays):
        self.weights[name] = arrays
        entry = keras.saving.serialize_keras_object(layer)
        # Its shapes are known from the layers before it.
        self.replaced[name] = {k: entry[k] for k in entry if k != "build_config"}
        self._without_drawing(name, layer)

    def _without_drawing(self, name, layer):
        """No random weights for layers that get others right away."""
        if hasattr(layer, "kernel_initializer"):
            entry = self.replaced.setdefault(name, {})
            config = entry.get("config") or layer.get_config()
            entry["config"] = {**config, "kernel_initializer": "zeros"}

    # --- where a scale and an offset can go ------------------------------------------

    def _only_source(self, name):
        """The layer that `name` alone reads, None if there is no such layer."""
        sources = self._sources[name]
        alone = len(sources) == 1 and self._used[sources[0]] == 1
        return sources[0] if alone else None

    def _takes(self, name):
        """Whether a layer, called once, can take a scale and an offset in."""
        layer = self.layers.get(name)
        if isinstance(layer, keras.layers.Add):
            return all(
                self._used[source] == 1 and self._takes(source)
                for source in self._sources[name]
            )
        if isinstance(layer, layers.ChannelScale):
            return True
        return isinstance(layer, LINEAR) and _is_linear(layer)

    def _give(self, name, factor, offset):
        """Puts them in: factor (W x + b) + offset, a sum's offset into one of it."""
        layer = self.layers[name]
        if isinstance(layer, keras.layers.Add):
            first, *others = self._sources[name]
            self._give(first, factor, offset)
            for other in others:
                self._give(other, factor, np.zeros_like(offset))
            return
        kernel, *bias = self.weights[name]
        bias = bias[0] if bias else np.zeros_like(offset)
        self.weights[name] = [_product(kernel, factor), bias * factor + offset]
        if hasattr(layer, "use_bias"):
            self._without_drawing(name, layer)
            self.replaced[name]["config"]["use_bias"] = True


def _common(layer):
    """Arguments that any layer has."""
    return {"name": layer.name, "dtype": layer.dtype_policy.name}


def _is_linear(layer):
    return getattr(layer, "activation", None) in (None, keras.activations.linear)


def _product(kernel, factor):
    """A kernel whose filters, its last axis, are scaled; not in half precision."""
    return (kernel.astype("float64") * factor).astype(kernel.dtype)


def _affine(norm):
    """(factor, offset) per channel of a normalisation at inference, or None.

    Source: Ioffe and Szegedy 2015, algorithm 2, step 11.
    """
    if getattr(norm, "axis", -1) not in (-1, 4):  # Keras' of a clip's channels
        return None
    names = ("moving_mean", "moving_variance", "gamma", "beta")
    mean, variance, gamma, beta = (
        None
        if getattr(norm, name) is None
        else keras.ops.convert_to_numpy(getattr(norm, name)).astype("float64")
        for name in names
    )
    factor = (1.0 if gamma is None else gamma) / np.sqrt(variance + norm.epsilon)
    offset = (0.0 if beta is None else beta) - mean * factor
    return factor, offset


def _sources(entry):
    """Names of the layers that a layer of a config reads, once per use."""
    found = []

    def walk(value):
        if isinstance(value, dict):
            if value.get("class_name") == "__keras_tensor__":
                found.append(value["config"]["keras_history"][0])
            else:
                walk(list(value.values()))
        elif isinstance(value, list | tuple):
            for item in value:
                walk(item)

    walk(entry["inbound_nodes"])
    return found


def _names(outputs):
    """Names of the layers in a config's `output_layers`, however nested."""
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    if outputs and isinstance(outputs[0], str):
        return [outputs[0]]
    return [name for item in outputs for name in _names(item)]


def _assign(model, weights):
    """Gives every layer its arrays, in nested models likewise."""
    for name, arrays in weights.items():
        layer = model.get_layer(name)
        if isinstance(arrays, dict):
            _assign(layer, arrays)
        else:
            layer.set_weights(arrays)
