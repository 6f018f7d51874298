"""Building a model by name and finding the weights it starts from.

Source: thesis 7.3.3 (a spatiotemporal network starts from its spatial predecessor).
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import keras
from absl import logging

from zoo import registry
from zoo.weights import conversion, lookup, publishing, records
from zoo.weights.conversion import predecessor, stem_of
from zoo.weights.record import WeightRecord
from zoo.weights.transfer import Weights, transfer, weights_of

TILED = "_tiled"  # ending of names whose first layer is tiled, not averaged


def load(name, weights, num_classes, classifier_activation, **options):
    """Builds model `name` and fills it from `weights`; arguments as `zoo.load`.

    Source: thesis 7.3.3.
    """
    if isinstance(name, str) and "." in name:
        name, weights = _of_name(name, weights)
    info = registry.info(name)
    arguments = {"classifier_activation": classifier_activation, **options}
    if num_classes is not None:
        arguments["num_classes"] = num_classes
    if weights is None:
        return registry.build(name, **arguments)
    found = find(info, weights, options)
    conversion.warn_of_stem(info, found, options)
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


def find(info, weights, options=None):
    """The `Weights` that the argument `weights` of `zoo.load` stands for.

    Args:
        info: `ModelInfo` of the model to load. weights: as in `zoo.load`, not None.
        options: of the architecture, which readers of foreign files may need.

    Raises:
        ValueError: a file that holds no weights, or a dict without the model's streams.
        FileNotFoundError: neither a name of weights nor an existing path; or weights
            that are known but were found nowhere.

    Source: thesis 7.3.3.
    """
    if isinstance(weights, _Found):
        return _of_record(info, weights.record, weights.path, options)
    if isinstance(info.warm_start, dict) and weights in tuple(info.weights):
        weights = {
            # The appearance stream sees colour, as the ImageNet networks do.
            "appearance": weights.removesuffix(TILED),
            "motion": weights,
        }
    if isinstance(weights, Mapping):
        return _of_streams(info, weights)
    if isinstance(weights, keras.Model):
        return weights_of(weights, stem_of(weights))
    if not isinstance(weights, str | Path) or weights == "":  # Path("") is here
        raise ValueError(
            "weights must be None, a name, a path, a keras.Model, or for networks of "
            f"two streams a dict of these, got {weights!r}."
        )
    if weights in info.weights:
        record = records.find(f"{predecessor(info)}.{weights.removesuffix(TILED)}")
        found = _of_record(info, record, None, options)
        rule = "tiled" if weights.endswith(TILED) else "mean"
        return dataclasses.replace(found, first_layer=rule)
    for name in (f"{info.name}.{weights}", str(weights)):
        if record := _record(name):
            return _of_record(info, record, None, options)
    if lookup.is_url(weights):
        weights = lookup.hosted(weights)
    path = Path(weights).expanduser()
    if not path.exists():
        raise FileNotFoundError(_no_such(info, weights))
    return conversion.read(path, info, options).weights


@dataclasses.dataclass(frozen=True)
class _Found:
    """A record by its full name, and where the user says that its file is."""

    record: WeightRecord
    path: Path | None


def _of_name(name, weights):
    """(model, what to load) of "model.tag", with a path or without."""
    if weights is not None and not isinstance(weights, str | Path):
        raise ValueError(
            f"{name!r} names weights already; beside it weights= takes the path of "
            f"their file or folder, got {weights!r}."
        )
    if lookup.is_url(weights):
        weights = lookup.hosted(weights)
    path = None if weights is None else Path(weights).expanduser()
    record = path and path.is_dir() and publishing.read_record(path)
    if record and record.name != name:
        raise ValueError(f"{path} holds the weights {record.name}, not {name}.")
    record = record or _record(name) or records.find(name)
    return record.model, _Found(record, path)


def _record(name):
    """The record of a name, ours or of a folder that somebody published, or None."""
    known = records.all_records().get(name)
    if known is None and "/" not in name and (path := lookup.published(name)):
        known = publishing.read_record(path)
        if known.name != name:
            raise ValueError(f"{path} holds the weights {known.name}, not {name}.")
    return known


def _of_record(info, record, explicit, options):
    """The weights of a record, under the options that they were trained under."""
    path = lookup.locate(record, explicit)
    source = registry.info(record.model)
    known = {k: v for k, v in (options or {}).items() if k in source.options}
    known = {**known, **record.options}
    read = conversion.read(path, source, known, record.allow_unused)
    found = read.weights
    if found.num_classes not in (None, record.num_classes):
        raise ValueError(
            f"{path} has {found.num_classes} classes, {record.name} has "
            f"{record.num_classes}; it is another file."
        )
    for option, value in record.options.items():
        if found.options.get(option, value) != value:
            raise ValueError(
                f"{path} was trained with {option}={found.options[option]!r}, "
                f"{record.name} with {option}={value!r}; it is another file."
            )
    logging.info("%s: %s; licence: %s", record.name, path, record.licence)
    options = {**found.options, **record.options}
    return dataclasses.replace(found, origin=record.name, options=options)


def _no_such(info, weights):
    tags = [record.tag for record in records.of_model(info.name)]
    names = ", ".join(map(repr, dict.fromkeys([*info.weights, *tags]))) or "none"
    return (
        f"No weights {str(weights)!r} for {info.name}: neither a known name ({names}) "
        "nor an existing file. Pass a file of weights of any kind that docs/weights.md "
        "lists, a folder written by training, or a keras.Model."
    )


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
        stream: find(registry.info(name), weights[stream]).of_stream(stream)
        for stream, name in info.warm_start.items()
    }
    return Weights(
        origin=", ".join(f"{stream}: {w.origin}" for stream, w in found.items()),
        layers={k: v for w in found.values() for k, v in w.layers.items()},
        options=_shared_options(info, found),
        first_layer=found["motion"].first_layer,
        geometry={k: v for w in found.values() for k, v in w.geometry.items()},
    )


def _shared_options(info, found):
    """Options of both streams; batch sizes and dropout are each stream's own.

    The stem of motion may be that of appearance but for the zero of flow.
    """
    from zoo.models.resnet import STEMS

    motion = found["motion"].options
    shared = {k: motion[k] for k in ("stem", "flow_offset") if k in motion}
    stems = {k: v.options["stem"] for k, v in found.items() if "stem" in v.options}
    offset = STEMS[stems["motion"]].flow_offset if "motion" in stems else 0.0
    same = {STEMS[stem]._replace(flow_offset=offset) for stem in stems.values()}
    if len(same) > 1:
        raise ValueError(
            f"The streams of {info.name} were trained with different stems, {stems}; "
            "train both from the same kind of weights."
        )
    return {"stem": next(iter(stems.values())), **shared} if stems else shared


def _require_same(name, found, option, trained, wanted):
    # Weights mean something else after another normalisation or pooling alignment.
    if option in ("stem", "flow_offset") and trained != wanted:
        raise ValueError(
            f"The weights of {found.origin} were trained with {option}={trained!r}, "
            f"{name} was asked for with {option}={wanted!r}; leave the option out."
        )
