"""The served functions: clips, flow, JPEG files in, scores, classes, features out.

All of them call one traced network, so that its weights and its graph are stored once.

Source: the test-time network of thesis 7.3.3; the wiring is TensorFlow's own guide,
tensorflow.org/guide/saved_model.
"""

import dataclasses

import keras
import tensorflow as tf
from keras import ops

from zoo.exports import jpeg
from zoo.exports.checks import (
    CHANNELS,
    TYPES,
    checked,
    finite,
    fits_decoded,
    fits_network,
    fits_view,
)
from zoo.exports.contract import Contract
from zoo.layers import ClipView
from zoo.layers.clip_view import equally_spaced, take_frames
from zoo.models.endpoints import features
from zoo.models.plain_rgb import flow_stack_of, network_of
from zoo.models.testing import (
    Mirror,
    alone_or_all,
    inputs_of,
    video_view,
)

__all__ = ["Contract", "Served", "channels_of", "computes_flow", "signatures"]
# Endpoints before the classifiers, the first that a stream has, and the streams.
LAST_ENDPOINTS = ("fc7", "pool5")
PREFIXES = ("", "appearance_", "motion_")


@dataclasses.dataclass(frozen=True)
class Served:
    """What tf.saved_model.save takes, see `signatures`.

    Attributes:
        module: the tf.Module that owns the weights.
        functions: {signature: its concrete function}.

    Source: tensorflow.org/guide/saved_model.
    """

    module: tf.Module
    functions: dict


def signatures(model, contract):
    """Traces the served functions of a classifier.

    The weights are plain tf.Variables holding copies of the model's values, and the
    network computes with them statelessly. A Keras model as an attribute would be
    saved in a form that TensorFlow Serving cannot load, and variables created
    under tf.distribute are one per replica; the copies have neither problem.

    Args:
        model: a classifier of the zoo.
        contract: `Contract` with one label per class; its `features` as of
            `endpoints_of`.

    Returns:
        A `Served` of `serving_default`, of `jpeg` unless the model sees flow that it
        does not compute, of `raw`, and of `features` where there are any.

    Raises:
        ValueError: the contract names an endpoint that the model does not have.

    Source: thesis 7.3.3.
    """
    network = _Network(model, contract)
    makers = {"serving_default": network.serve, "raw": network.raw}
    specs = {name: network.clip_specs() for name in makers}
    specs["raw"] = _specs(network.kinds)
    if set(network.given) == {"clips"}:
        makers["jpeg"] = network.serve_jpeg
        spec = tf.TensorSpec((None, None), tf.string, name="jpeg")
        specs["jpeg"] = {"jpeg": spec}
    if network.endpoints:
        makers["features"] = network.features
        specs["features"] = network.clip_specs()
    # Concrete functions: given others, tf.saved_model.save traces them again.
    functions = {
        name: tf.function(maker, autograph=False).get_concrete_function(**specs[name])
        for name, maker in makers.items()
    }
    return Served(network.module, functions)


class _Network:
    """A model's scores and endpoints as one traced function, and what calls it."""

    def __init__(self, model, contract):
        self.contract = contract
        self.all_frames = computes_flow(model)
        inner = network_of(model)
        self.kinds = inputs_of(inner)
        view = video_view(model, contract.frames, contract.shorter_side)
        self.given = channels_of(view)
        self._view = _traced_view(view) if self.all_frames else view
        self.activation = inner.get_layer("predictions").activation
        self.endpoints = contract.features
        # Towers have scores of their own beside the averaged ones.
        self.towers = [f"{tower}_logits" for tower in getattr(inner, "towers", ())]
        self.module = tf.Module()
        names = dict.fromkeys(["logits", *self.towers, *self.endpoints])
        self._run = self._traced(features(inner, list(names)))

    def _traced(self, network):
        """All outputs of the network of what it sees, traced once."""
        self.module.trained = copies(network.trainable_variables)
        self.module.fixed = copies(network.non_trainable_variables)

        def run(**seen):
            outputs, _ = network.stateless_call(
                self.module.trained,
                self.module.fixed,
                alone_or_all(seen),
                training=False,
            )
            return outputs

        specs = _specs(self.kinds)
        return tf.function(run, autograph=False).get_concrete_function(**specs)

    def clip_specs(self):
        """What `serve` takes, {name: tf.TensorSpec}."""
        return _specs(self.given)

    def serve(self, **inputs):
        """Clips, flow or both -> the answer."""
        return self._answer(self._seen(inputs))

    def serve_jpeg(self, **inputs):
        """JPEG files of the frames of clips -> the answer."""
        return self._answer(self._seen_of_files(inputs["jpeg"]))

    def features(self, **inputs):
        """Clips, flow or both -> endpoints of the view, without its mirror."""
        outputs = self._run(**self._seen(inputs))
        return {name: outputs[name] for name in self.endpoints}

    def raw(self, **inputs):
        """What the network itself sees -> raw scores, and probabilities."""
        outputs = self._run(**checked(inputs, fits_network(self.contract)))
        logits = finite(_float(outputs["logits"]))
        scores = {name: _float(outputs[name]) for name in self.towers}
        return {"logits": logits, "predictions": self._predictions(logits), **scores}

    def _seen(self, inputs):
        """The view of checked clips."""
        inputs = checked(inputs, fits_view(self.contract, self.all_frames))
        if self.all_frames:
            return self._view(_float(inputs["clips"]))
        # Sampled while it is bytes; a long video is never converted whole.
        frames = self.contract.frames
        inputs = {k: take_frames(x, frames) for k, x in inputs.items()}
        return self._view(alone_or_all(inputs))

    def _seen_of_files(self, files):
        """The view of checked JPEG files; what it does not hold is not decoded."""
        contract, frames = self.contract, self.contract.frames
        fits = fits_decoded(contract, self.all_frames)

        def choose(time):
            few = tf.cast(tf.minimum(time, frames), tf.int32)
            return equally_spaced(tf.cast(time, tf.int32), few)

        seen = jpeg.read(
            files,
            contract,
            lambda shape: fits("jpeg", shape),
            None if self.all_frames else choose,
            # Frame by frame: large ones are never in memory together.
            ClipView(None, contract.shorter_side, name="frame_view"),
        )
        if self.all_frames:
            return self._view(seen)
        return {"rgb": take_frames(seen, frames)}

    def _answer(self, seen):
        """The outputs of `serving_default` and `jpeg`, see docs/serving.md."""
        logits = _float(self._run(**seen)["logits"])
        if self.contract.flip:
            mirrors = {k: Mirror(k == "flow")(x) for k, x in seen.items()}
            logits = (logits + _float(self._run(**mirrors)["logits"])) / 2
        scores = self._predictions(logits)
        labels = self.contract.labels
        # Ranked by raw score: probabilities can be equal where they round to 0 or 1.
        _, classes = tf.math.top_k(logits, k=min(self.contract.top_k, len(labels)))
        return {
            "scores": scores,
            "logits": logits,
            "classes": classes,
            "labels": tf.gather(tf.constant(labels), classes),
            "top_scores": tf.gather(scores, classes, batch_dims=1),
        }

    def _predictions(self, logits):
        return keras.layers.Activation(self.activation, dtype="float32")(logits)


def _traced_view(view):
    """A view that computes flow as one traced function: its graph is a large one."""
    spec = tf.TensorSpec((None,) * 4 + (3,), tf.float32, name="clips")
    return tf.function(view, autograph=False).get_concrete_function(spec)


def endpoints_of(network, names=()):
    """Names of the outputs of the signature `features`.

    Args:
        network: a classifier of the zoo.
        names: endpoints as of `zoo.features`, "appearance/res4" or "appearance_res4";
            empty for the last before the classifier of every stream.

    Returns:
        A tuple of names with underscores; empty for a network that has none of the
        zoo's.

    Source: layer names of thesis Tables 4.1 and 5.1.
    """
    if names:
        return tuple(name.replace("/", "_") for name in names)
    layers = {layer.name for layer in network.layers}
    of_streams = [
        [f"{prefix}{name}" for name in LAST_ENDPOINTS if f"{prefix}{name}" in layers]
        for prefix in PREFIXES
    ]
    return tuple(found[0] for found in of_streams if found)


def channels_of(network):
    """{input: channels} of a network, "clips" and "flow" (thesis 2.3)."""
    return {tensor.name: tensor.shape[-1] for tensor in network.inputs}


def copies(variables):
    """Plain variables of the same values, the mean over replicas where they differ.

    Args:
        variables: of a Keras model.

    Source: tensorflow.org/guide/saved_model.
    """
    return [
        tf.Variable(ops.convert_to_numpy(v), trainable=False, name=v.path)
        for v in variables
    ]


def computes_flow(model):
    """Whether a model or its network of videos computes optical flow (thesis 3.3.5)."""
    return flow_stack_of(model) is not None


def _specs(names):
    """{name: tf.TensorSpec} of clips of any size."""
    return {
        name: tf.TensorSpec((None,) * 4 + (CHANNELS[name],), TYPES[name], name=name)
        for name in names
    }


def _float(x):
    return tf.cast(x, tf.float32)
