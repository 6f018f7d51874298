"""Building a model by name and finding the weights it starts from.

Source: thesis 7.3.3 (a spatiotemporal network starts from its spatial predecessor).
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import h5py
import keras
from absl import logging

from zoo import registry
from zoo.weights import folder, keras_applications
from zoo.weights.transfer import Weights, transfer, weights_of

TILED = "_tiled"  # ending of names whose first layer is tiled, not averaged


def load(name, weights, num_classes, classifier_activation, **options):
    """Builds model `name` and fills it from `weights`; arguments as `zoo.load`.

    Source: thesis 7.3.3.
    """
    info = registry.info(name)
    arguments = {"classifier_activation": classifier_activation, **options}
    if num_classes is not None:
        arguments["num_classes"] = num_classes
    if weights is None:
        return registry.build(name, **arguments)
    found = find(info, weights)
    if "stem" in set(info.options) - set(found.options) - set(options):
        logging.warning(
            "%s: %s does not say which stem it was trained with; assuming %r. Pass "
            "stem=... to be sure.",
            name,
            found.origin,
            info.options["stem"],
        )
    same_task = found.task == info.task
    if num_classes is None and same_task and found.num_classes is not None:
        arguments["num_classes"] = found.num_classes
    for option, value in found.options.items():
        if option in info.options:
            _require_same(
                name, found, option, value, arguments.setdefault(option, value)
            )
    model = registry.build(name, **arguments)
    transfer(found, model, info.new_layers, info.cut_layers)
    return model


def find(info, weights):
    """The `Weights` that the argument `weights` of `zoo.load` stands for.

    Args:
        info: `ModelInfo` of the model to load. weights: as in `zoo.load`, not None.

    Raises:
        ValueError: a file that holds no weights, or a dict without the model's streams.
        FileNotFoundError: neither a name of weights nor an existing path.

    Source: thesis 7.3.3.
    """
    if isinstance(info.warm_start, dict) and weights in tuple(info.weights):
        weights = {
            # The appearance stream sees colour, as the ImageNet networks do.
            "appearance": weights.removesuffix(TILED),
            "motion": weights,
        }
    if isinstance(weights, Mapping):
        return _of_streams(info, weights)
    if isinstance(weights, keras.Model):
        return weights_of(weights, _stem_of(weights))
    if not isinstance(weights, str | Path):
        raise ValueError(
            "weights must be None, a name, a path, a keras.Model, or for networks of "
            f"two streams a dict of these, got {weights!r}."
        )
    if weights in info.weights:
        found = keras_applications.imagenet(
            _predecessor(info), weights.removesuffix(TILED)
        )
        rule = "tiled" if weights.endswith(TILED) else "mean"
        return dataclasses.replace(found, first_layer=rule)
    path = Path(weights).expanduser()
    if not path.exists():
        names = ", ".join(map(repr, info.weights)) or "none"
        raise FileNotFoundError(
            f"No weights {str(weights)!r} for {info.name}: neither a known name "
            f"({names}) nor an existing file. Pass a .keras or .weights.h5 file, a "
            "folder written by training, or a keras.Model."
        )
    return _read(info, path)


def _predecessor(info):
    """The model of colour images that one of a single stream starts from."""
    return info.warm_start or info.name


def _of_streams(info, weights):
    """The weights of both streams as those of one network."""
    streams = info.warm_start if isinstance(info.warm_start, dict) else {}
    if set(weights) != set(streams):
        raise ValueError(
            f"{info.name} has the streams {', '.join(streams) or '(none)'}, weights "
            f"were given for {', '.join(map(str, weights)) or '(none)'}; give a name, "
            "path or model for each of its streams."
        )
    found = {
        stream: find(registry.info(predecessor), weights[stream]).of_stream(stream)
        for stream, predecessor in info.warm_start.items()
    }
    stems = {k: v.options["stem"] for k, v in found.items() if "stem" in v.options}
    if len(set(stems.values())) > 1:
        raise ValueError(
            f"The streams of {info.name} were trained with different stems, {stems}; "
            "train both from the same kind of weights."
        )
    return Weights(
        origin=", ".join(f"{stream}: {w.origin}" for stream, w in found.items()),
        layers={k: v for w in found.values() for k, v in w.layers.items()},
        # Batch sizes and dropout are each stream's own; the stem is that of both.
        options={"stem": next(iter(stems.values()))} if stems else {},
        first_layer=found["motion"].first_layer,
    )


def _read(info, path):
    if path.is_dir():
        record = folder.load_record(path)
        found = read_h5(path / folder.WEIGHTS)
        # A record has the options that were given; the stem of others is the default.
        defaults = registry.info(record.name).options
        stem = {"stem": defaults["stem"]} if "stem" in defaults else {}
        options = {**stem, **record.options}
        return Weights(f"{path} ({record.name})", found.layers, options)
    if path.name.endswith(".keras"):
        model = _load_keras(path)
        return weights_of(model, _stem_of(model))
    if path.name.endswith(".weights.h5"):
        return read_h5(path)
    if path.suffix == ".h5" and _predecessor(info) in keras_applications.NETWORKS:
        return keras_applications.imagenet(_predecessor(info), path)
    raise ValueError(
        f"{path}: unknown kind of weights; accepted are .keras, .weights.h5, the .h5 "
        "files of keras.applications, and folders written by training."
    )


def read_h5(path):
    """The weights in a `.weights.h5` file of Keras, by the names of its layers.

    Args:
        path: of a file that `model.save_weights` wrote.

    Returns:
        A `Weights`; what the file does not say, such as the stem, is left open.

    Raises:
        ValueError: no HDF5 file, a truncated one, or one without named layers.
        FileNotFoundError: no such file.

    Source: the file format is Keras' (3.15): layers/<class>/.../vars with the
    attribute `name` and the arrays 0, 1, ... in the order of `layer.weights`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a .weights.h5 file.")
    layers = {}

    def collect(key, group):
        if key.endswith("/vars") and len(group):
            arrays = [group[str(i)][()] for i in range(len(group))]
            layers[group.attrs["name"]] = arrays

    try:
        with h5py.File(path) as file:
            file["layers"].visititems(collect)
    except (OSError, KeyError) as error:
        with open(path, "rb") as file:
            start = file.read(24)
        raise ValueError(
            f"{path} is not a readable .weights.h5 file of Keras ({error}); it begins "
            f"with {start!r}, HDF5 with b'\\x89HDF'. Download or save it again."
        ) from error
    return Weights(str(path), layers)


def _load_keras(path):
    try:
        return keras.models.load_model(path, compile=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path} is not a readable .keras model: {reason}") from error


def _stem_of(model):
    """The stem a model was built with, read off its layers."""
    from zoo.models.resnet import STEMS

    layers = {layer.name.removeprefix("appearance_"): layer for layer in model.layers}
    if "res2a_branch2a" not in layers:
        return {}
    mean = getattr(layers.get("rgb_normalization"), "mean", None)
    strides = getattr(layers.get("res3a_branch2b"), "strides", None)
    for name, known in STEMS.items():
        same = known.pool_padding == layers["pool1"].padding
        same = same and strides in (None, 2 if known.stride_on == "3x3" else 1)
        if same and mean in (None, known.mean):
            return {"stem": name}
    return {}


def _require_same(name, found, option, trained, wanted):
    # Weights mean something else after another normalisation or pooling alignment.
    if option == "stem" and trained != wanted:
        raise ValueError(
            f"The weights of {found.origin} were trained with {option}={trained!r}, "
            f"{name} was asked for with {option}={wanted!r}; leave the option out."
        )
