"""Trained weights as a folder that others can host, and that says what it promises.

    NAME.TAG/
      weights.json       the record, `zoo.weights.record.WeightRecord`
      model.json         how to build the model, `zoo.weights.folder.ModelRecord`
      model.weights.h5   the weights
      labels.txt         a class per line, in the order of the scores
      README.md          the model card, made from the records
      SHA256SUMS         of all of these; `sha256sum -c SHA256SUMS` checks them

Source: the format is ours; the card's headings are after Mitchell et al. 2019.
"""

import re
import shutil
from pathlib import Path

from zoo import registry
from zoo.files import replacing
from zoo.weights import folder
from zoo.weights.fetching import MAX_TEXT, SUMS, ChecksumError, digest, read_sums
from zoo.weights.kinds import check_size
from zoo.weights.record import UNKNOWN, WeightRecord, from_json, to_json
from zoo.weights.records.packaged import RECORD

LABELS, CARD = "labels.txt", "README.md"
FILES = (RECORD, folder.RECORD, folder.WEIGHTS, LABELS, CARD)
_TAG = re.compile(r"[a-z0-9_]+")


def publish(model_folder, out, tag, *, summary="", licence=UNKNOWN, **facts):
    """Writes a trained model as a folder for others, below `out`.

    Args:
        model_folder: folder of a trained model. out: folder of published ones.
        tag: of the name "model.tag"; small letters, digits and underscores.
        summary: one line. licence: of the weights.
        **facts: further fields of `WeightRecord`: metrics, origin, paper, sources.

    Returns:
        The Path of the folder.

    Raises:
        ValueError: no such tag, a folder of that name with other weights, or weights
            that do not fit their record.
        FileNotFoundError: `model_folder` holds no model.

    Source: the format is ours.
    """
    if not _TAG.fullmatch(tag):
        raise ValueError(
            f"The tag {tag!r} must be small letters, digits and underscores, such as "
            "ucf101_split1."
        )
    model, known = folder.load(model_folder)  # refuses what does not fit
    weights = Path(model_folder) / folder.WEIGHTS
    name = f"{known.name}.{tag}"
    record = WeightRecord(
        known.name,
        tag,
        "folder",
        files=(name,),
        summary=summary or f"{known.name} trained on {known.num_classes} classes",
        num_classes=known.num_classes,
        checksum=digest(weights),
        labels=tuple(known.labels),
        options=known.options,
        licence=licence,
        **facts,
    )
    target = Path(out) / name
    _require_free(target, record)
    texts = {
        folder.RECORD: (Path(model_folder) / folder.RECORD).read_text("utf-8"),
        RECORD: to_json(record),
        LABELS: "".join(f"{label}\n" for label in known.labels),
        CARD: card(record, known, model.count_params()),
    }
    with replacing(target / folder.WEIGHTS) as path:
        shutil.copyfile(weights, path)
    for file, text in texts.items():
        with replacing(target / file) as path:
            path.write_text(text, "utf-8")
    sums = (f"{digest(target / f).partition(':')[2]}  {f}\n" for f in FILES)
    with replacing(target / SUMS) as path:
        path.write_text("".join(sums), "utf-8")
    return target


def read_record(path):
    """The `WeightRecord` of a published folder, or None of another model folder.

    Raises:
        ChecksumError: a record that is not the one that was published.
        ValueError: a record that cannot be read.

    Source: the format is ours.
    """
    path = Path(path)
    if not (path / RECORD).is_file():
        return None
    if not (path / SUMS).is_file():
        raise ChecksumError(
            f"{path} is incomplete: {SUMS} is missing. Copy the folder again."
        )
    folder.verify(path, RECORD)
    return _parsed(path / RECORD)


def verify(path):
    """Holds a published folder to its checksums; other folders have none.

    Raises:
        ChecksumError: a file is missing or is not the one that was published.

    Source: FIPS 180-4.
    """
    path, record = Path(path), read_record(path)
    folder.verify(path)  # says it, too, where only the record is missing
    if record is None:
        return
    sums = read_sums(path)
    if missing := sorted(set(FILES) - set(sums)):
        raise ChecksumError(
            f"{path}: {SUMS} lacks {', '.join(missing)}. Copy the folder again."
        )
    if record.checksum != f"sha256:{sums[folder.WEIGHTS]}":
        raise ChecksumError(
            f"{path}: {RECORD} has {record.checksum} for {folder.WEIGHTS}, "
            f"{SUMS} has another. Copy the folder again."
        )


def _parsed(file):
    check_size(file, MAX_TEXT)
    try:
        return from_json(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is {error}.") from error


def _require_free(target, record):
    if not target.exists():
        return
    file = target / RECORD
    there = _parsed(file) if file.is_file() else None
    if there is None or there.name != record.name:
        raise ValueError(
            f"{target} exists and is not an earlier {record.name}; choose another "
            "folder, or remove it."
        )


# --- the card ------------------------------------------------------------------------


def card(record, model_record, parameters):
    """The model card of a record, in Markdown (headings after Mitchell et al. 2019).

    Args:
        record: a `WeightRecord`. model_record: its `ModelRecord`.
        parameters: number of weights.
    """
    info = registry.info(record.model)
    inputs = [f"- `{name}`: {text}" for name, text in info.inputs.items()]
    inputs += [f"- `{name}`: {text}" for name, text in record.inputs.items()]
    options = [f"- `{k}={v!r}`" for k, v in record.options.items()]
    parts = [
        f"# {record.name}",
        f"{record.summary}.",
        "```python\nimport zoo\n\n"
        f'model = zoo.load("{record.name}", weights="PATH/OF/THIS/FOLDER")\n```',
        "## Model",
        f"{info.summary}; {parameters:,} weights.",
        "\n".join(inputs),
        "\n".join(["Options other than the defaults:", "", *options])
        if options
        else "All options have their defaults.",
        "## Classes",
        _classes(record),
        "## What it reaches",
        _claims(record),
        "## How it is meant to be used",
        _view(model_record),
        "## Limits",
        _limits(record, model_record),
        "## Terms",
        f"Weights: {record.licence}. The code that runs them is under Apache-2.0.",
        *(f"{what}: {text}" for what, text in _origins(record) if text),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _classes(record):
    names = ", ".join(record.class_names)
    return f"{record.num_classes}: {names or 'their names are not known'}."


def _claims(record):
    if not record.metrics:
        return "Nothing was measured when these weights were published."
    rows = ["| measure | value | data | examples | protocol | by |", "|" + "---|" * 6]
    for m in record.metrics:
        value = f"{100 * m.value:.1f} %"
        if m.tolerance is not None:
            value += f" ± {100 * m.tolerance:.1f}"
        cells = (m.measure, value, m.data, m.count or "", m.protocol, m.source)
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows)


def _view(known):
    flip = "and mirrored" if known.flip else "never mirrored"
    flow = f" Optical flow: {known.flow}." if known.flow else ""
    longer = f", longer at most {known.longer_side}" if known.longer_side else ""
    return (
        f"{known.frames} equally spaced frames, shorter side {known.shorter_side} "
        f"pixels{longer}, {flip}; `zoo predict VIDEO --model FOLDER` does so.{flow}"
    )


def _limits(record, known):
    lines = [
        "It answers with one of its classes whatever it is shown, and its scores are "
        "no probabilities of being right.",
        "Nothing is known of other data than those above."
        if record.metrics
        else "Nothing is known of how well it does on any data.",
    ]
    if not known.flip:
        lines.append("Mirrored videos are other classes to it.")
    return "\n".join(f"- {line}" for line in lines)


def _origins(record):
    return (("Origin", record.origin), ("Paper", record.paper))
