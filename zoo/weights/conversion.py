"""Weights of any file that is known here, and the table of what became of each tensor.

An importer is a module with a function `convert(path, info, options) -> Conversion`. It
names our layers by rule and builds no network; which one reads a file is decided by
what is in the file.

Source: the result of an importer is ours; the formats are those of MatConvNet (Vedaldi
and Lenc 2015), Caffe (Jia et al. 2014), PyTorch (Paszke et al. 2019) and Keras.
"""

import dataclasses
import fnmatch
import importlib
import re
import tempfile
import zipfile
import zlib
from pathlib import Path

import keras
import numpy as np
from absl import logging

from zoo import registry
from zoo.models.inputs import STREAMS
from zoo.weights import folder, keras_applications, publishing
from zoo.weights.hdf5 import read_h5
from zoo.weights.kinds import kind_of
from zoo.weights.transfer import Weights, transfer, weights_of

IMPORTERS = {
    "matconvnet": "zoo.weights.matconvnet",
    "caffe": "zoo.weights.caffe",
    "pytorch": "zoo.weights.pytorch",
}

# What Keras ends in on a damaged .keras file.
_UNREADABLE = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)
_STREAM = re.compile(f"^({'|'.join(STREAMS)})_")


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


class Table:
    """What an importer has taken from a file: layers of ours, and a row for each array.

    Attributes:
        source: the tensors of the file by name, as its reader gives them.
        layers: {our layer: [array, ...]}, float32, as `Weights` has them.
        rows: `Row`s in the order in which they were added.
        used: names in `source` that have been taken.

    Source: ours.
    """

    def __init__(self, source):
        self.source, self.layers, self.rows = source, {}, []
        self.used = set()

    def add(self, layer, variable, array, source, transform=""):
        """One variable of a layer of ours; see `Row` for the names."""
        array = np.ascontiguousarray(array, "float32")
        self.layers.setdefault(layer, []).append(array)
        self.rows.append(Row(source, f"{layer}/{variable}", array.shape, transform))


def convert_file(path, model, options=None, allow_unused=(), allow_unset=()):
    """A network filled from a file of another framework, or of Keras.

    Args:
        path: file or folder of weights, of any known kind. model: a registered name.
        options: {option: value} of the architecture, or of the importer.
        allow_unused: wildcards of source tensors that may have no place in the model.
        allow_unset: wildcards of layers of the model that may keep their initial
            values, such as the temporal ones of a network that starts from a spatial.

    Returns:
        (keras.Model, Conversion); the conversion's weights have all options that the
        model was built with.

    Raises:
        ValueError: another architecture, a tensor without a place, a variable without
            a value, NaN, a damaged file: all named.
        FileNotFoundError: no such file.

    Source: thesis 7.3.3.
    """
    info = registry.info(model)
    conversion = read(path, info, options, allow_unused)
    found = conversion.weights
    warn_of_stem(info, found, options or {})
    mine = {k: v for k, v in (options or {}).items() if k in info.options}
    arguments = {**_known(found.options, info), **mine}
    if found.task == info.task and found.num_classes is not None:
        arguments["num_classes"] = found.num_classes
    network = registry.build(model, **arguments)
    report = transfer(found, network, info.new_layers, info.cut_layers)
    _require_set(report, network, found, allow_unset)
    found = dataclasses.replace(found, options=_known(arguments, info))
    return network, dataclasses.replace(conversion, weights=found)


def read(path, info, options=None, allow_unused=()):
    """The weights in a file or folder, of whatever known kind it is.

    Args:
        path: a file or folder. info: `ModelInfo` of the model they are for.
        options: {option: value} of the architecture, or of the importer.
        allow_unused: wildcards of source tensors that may have no place in the model.

    Returns:
        A `Conversion`.

    Raises:
        ValueError: unknown or damaged files, tensors without a place, NaN, options
            that neither the model nor the importer has.
        FileNotFoundError: no such file.

    Source: ours.
    """
    path, options = Path(path).expanduser(), dict(options or {})
    kind = kind_of(path)
    importer = importlib.import_module(IMPORTERS[kind]) if kind in IMPORTERS else None
    _require_options(options, info, importer)
    if importer:
        conversion = importer.convert(path, info, options)
    else:
        conversion = _as_it_is(_of_keras(path, info, kind))
    unused = [n for n in conversion.unused if not _matches(n, allow_unused)]
    if unused:
        more = ", ..." if len(unused) > 5 else ""
        raise ValueError(
            f"{path}: {len(unused)} tensors have no place in {info.name}: "
            f"{', '.join(unused[:5])}{more}. Name the model that the file is of, or "
            "say that they are expected: --allow_unused, wildcards are understood."
        )
    _require_sound(conversion.weights)
    return conversion


def table(conversion):
    """The rows of a conversion as text, one line per variable (ours)."""
    rows = [("source", "target", "shape", "transform")]
    for row in conversion.rows:
        shape = "x".join(map(str, row.shape)) or "scalar"
        rows.append((row.source, row.target, shape, row.transform))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines += [f"{name}  (unused)" for name in conversion.unused]
    return "\n".join(lines)


def warn_of_stem(info, found, options):
    """Says it where nobody knows which stem a network was trained with (ours)."""
    if "stem" in set(info.options) - set(found.options) - set(options):
        logging.warning(
            "%s: %s does not say which stem it was trained with; assuming %r. Pass "
            "stem=... to be sure.",
            info.name,
            found.origin,
            info.options["stem"],
        )


def predecessor(info):
    """The model of colour images that one of a single stream starts from (4.3.1)."""
    return info.warm_start or info.name


def _of_keras(path, info, kind):
    if kind == "folder":
        return _of_folder(path)
    if kind == "keras":
        model = _load_keras(path)
        return weights_of(model, stem_of(model))
    if kind == "weights_h5":
        return read_h5(path)
    name = predecessor(info)
    if name not in keras_applications.NETWORKS:
        raise ValueError(
            f"{path} seems to be an .h5 file of keras.applications or of an older "
            f"Keras, whose layers {info.name} does not have; it takes .weights.h5, "
            ".keras and folders."
        )
    return keras_applications.read(path, name)


def _of_folder(path):
    record = folder.load_record(path)
    publishing.verify(path)
    found = read_h5(path / folder.WEIGHTS)
    # A record has the options that were given; the stem of others is the default.
    defaults = registry.info(record.name).options
    stem = {"stem": defaults["stem"]} if "stem" in defaults else {}
    options = {**stem, **record.options}
    return Weights(f"{path} ({record.name})", found.layers, options)


def _load_keras(path):
    try:
        with tempfile.TemporaryDirectory() as other:
            named = Path(other) / "model.keras"  # Keras goes by the ending
            named.symlink_to(path.resolve())
            # Keras' safe mode: a model with code in it is refused.
            return keras.models.load_model(named, compile=False, safe_mode=True)
    except _UNREADABLE as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} is not a readable .keras model: {reason}") from error


def stem_of(model):
    """{"stem": name} of the stem a model was built with, read off its layers (ours)."""
    from zoo.models.resnet import STEMS

    layers = {_STREAM.sub("", layer.name): layer for layer in model.layers}
    if "res2a_branch2a" not in layers:
        return {}
    mean = getattr(layers.get("rgb_normalization"), "mean", None)
    strides = getattr(layers.get("res3a_branch2b"), "strides", None)
    offset = getattr(layers.get("flow_normalization"), "offset", None)
    for name, known in STEMS.items():
        same = known.pool_padding == layers["pool1"].padding
        same = same and strides in (None, 2 if known.stride_on == "3x3" else 1)
        same = same and offset in (None, known.flow_offset)
        if same and mean in (None, known.mean):
            return {"stem": name}
    return {}


def _as_it_is(found):
    """The `Conversion` of weights that have our layer names already."""
    rows = tuple(
        Row(f"{layer}/{i}", f"{layer}/{i}", array.shape, "as it is")
        for layer, arrays in found.layers.items()
        for i, array in enumerate(arrays)
    )
    return Conversion(found, rows)


def _known(options, info):
    return {k: v for k, v in options.items() if k in info.options}


def _matches(name, patterns):
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _require_options(options, info, importer):
    accepted = {*info.options, *getattr(importer, "OPTIONS", ())}
    if unknown := sorted(set(options) - accepted):
        raise ValueError(
            f"{info.name} has no option {', '.join(map(repr, unknown))}, nor has the "
            f"reader of this file; accepted are {', '.join(sorted(accepted))}."
        )


def _require_sound(found):
    for layer, arrays in found.layers.items():
        for array in arrays:
            kind = np.asarray(array).dtype.kind
            if kind != "f":  # bfloat16 is "V" unless its reader widens it
                raise ValueError(
                    f"{found.origin}: layer {layer} holds {np.asarray(array).dtype}, "
                    "not floating-point numbers; convert it to float32 first."
                )
            if not np.isfinite(array).all():
                raise ValueError(
                    f"{found.origin}: layer {layer} holds NaN or infinite values; the "
                    "training diverged or the file is broken. Use an earlier "
                    "checkpoint, or download the file again."
                )


def _require_set(report, network, found, allow_unset):
    unset = [n for n in (*report.new, *report.heads) if not _matches(n, allow_unset)]
    if unset:
        more = ", ..." if len(unset) > 5 else ""
        raise ValueError(
            f"{len(unset)} layers of {network.name} would stay as they are, "
            f"{found.origin} has nothing for them: {', '.join(unset[:5])}{more}. Name "
            "the model that the file is of, or say that they are expected: "
            "--allow_unset, wildcards are understood."
        )
