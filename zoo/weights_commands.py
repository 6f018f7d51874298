"""The commands about weights: weights, convert, publish.

Source: thesis 7.3.3 for starting from other weights; the formats name their own.
"""

import ast
from pathlib import Path

from zoo.command_line import (
    DATA,
    FLOW_OR_LAYER,
    Usage,
    at_most,
    command,
    model_folder,
    one,
    require,
    split,
)


@command("weights", "[NAME]")
def weights(options, arguments):
    """Lists the weights that are known by name, or shows the record of one."""
    from zoo.weights import records

    pattern = at_most(1, arguments)[0] if arguments else "*"
    known = records.all_records()
    if pattern in known:
        print(known[pattern])
        return 0
    import fnmatch

    names = fnmatch.filter(known, pattern)
    if not names:
        records.find(pattern)  # which raises, and says what names are the nearest
    width = max(map(len, names))
    for name in names:
        print(f"{name.ljust(width)}  {known[name].summary}")
    return 0


@command(
    "convert",
    "FILE",
    model=("string", None, "registered name of the network that the file is of"),
    out=("string", None, "folder of the model; or a .weights.h5 or .keras file"),
    set=("multi_string", [], "an option of the architecture: --set variant=release"),
    labels=("string", None, "names of the classes: ucf101, hmdb51, yup++, imagenet, …"),
    allow_unused=("multi_string", [], "tensors of FILE that may have no place: 'a*'"),
    allow_unset=("multi_string", [], "layers of the network that may start untrained"),
)
def convert(options, arguments):
    """Turns weights of MatConvNet, Caffe, PyTorch or Keras into a model of the zoo."""
    file = one("a file of weights", arguments)
    require(options, "model", "out")
    from zoo.weights import conversion

    model, found = conversion.convert_file(
        file,
        options.model,
        _settings(options.set),
        options.allow_unused,
        options.allow_unset,
    )
    print(conversion.table(found))
    for name, value in found.facts.items():
        print(f"{name}: {_short(value)}")
    _save(model, found, options)
    sources = {name for row in found.rows for name in row.source.split(", ")}
    tensors = len(sources - {""})  # a constant has none
    print(
        f"{tensors} tensors became {len(found.rows)} variables of {options.model}, "
        f"{len(found.unused)} were left out as allowed: {options.out}"
    )
    return 0


@command(
    "publish",
    "MODEL",
    out=("string", None, "folder of published weights; NAME.TAG/ appears in it"),
    tag=("string", None, "of the name, such as my_videos: NETWORK.my_videos"),
    summary=("string", "", "one line on what the weights are"),
    licence=("string", None, "terms on which others may use the weights"),
    paper=("string", "", "to cite"),
    origin=("string", "", "where they come from"),
    **DATA,
    protocol=("string", None, "what --data is, such as 'my videos, test half'"),
    flow=FLOW_OR_LAYER,
)
def publish(options, arguments):
    """Writes a trained model as a folder that others can host, with a model card."""
    path = model_folder(one("the folder of a trained model", arguments))
    require(options, "out", "tag")
    if bool(options.data) != bool(options.protocol):
        raise Usage("--data and --protocol belong together: what is measured, on what.")
    from zoo.weights import publishing
    from zoo.weights.record import UNKNOWN

    target = publishing.publish(
        path,
        options.out,
        options.tag,
        summary=options.summary.rstrip("."),
        licence=options.licence or UNKNOWN,
        paper=options.paper,
        origin=options.origin,
        metrics=_measure(path, options) if options.data else (),
    )
    print((target / publishing.CARD).read_text("utf-8"))
    print(f"Published: {target}")
    return 0


def _settings(texts):
    """{option: value} of "option=value"; values are Python literals or words."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise Usage(f"Cannot set {text!r}; write option=value.")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError):
            found[name] = value
    return found


def _short(value):
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) < 200 else f"{text[:200]} ..."


def _save(model, found, options):
    from zoo.files import replacing

    out = Path(options.out)
    if out.name.endswith(".weights.h5"):
        with replacing(out) as path:
            model.save_weights(path)
    elif out.suffix == ".keras":
        with replacing(out) as path:
            model.save(path)
    else:
        _save_folder(model, found, options)


def _save_folder(model, found, options):
    from zoo import registry
    from zoo.weights import folder
    from zoo.weights.record import read_labels

    info = registry.info(options.model)
    view = {"frames": 25} if "flow" in info.inputs else {}  # thesis 3.4.5
    if info.task == "detection":  # thesis 8.5.2
        view = {"frames": info.clip[0], "shorter_side": 600, "longer_side": 1000}
    count = found.weights.num_classes
    labels = read_labels(options.labels) if options.labels else _classes(found, count)
    record = folder.ModelRecord(
        options.model,
        info.num_classes if count is None else count,
        options=found.weights.options,
        labels=labels,
        flow="tvl1" if "flow" in info.inputs else None,
        **view,
    )
    folder.save(options.out, model, record)


def _classes(found, count):
    """The class names that the file has, if it has as many as there are classes."""
    names = tuple(map(str, found.facts.get("classes", ())))
    return names if len(names) == count else ()


def _measure(path, options):
    """What a model reaches on --data, as `Metric`s."""
    from zoo import detection_commands

    if detection_commands.holds_detector(path):
        return _measure_detector(path, options)
    from zoo.evaluation import evaluate, report
    from zoo.prediction import with_flow
    from zoo.weights import folder
    from zoo.weights.record import Metric

    videos, rest = split(options)
    model, record = folder.load(path)
    model, source = with_flow(model, options.flow, record)
    view = (record.frames, record.shorter_side, record.flip)
    results = evaluate(model, rest or videos, *view, labels=record.labels, flow=source)
    print(report.table(results))
    if results.skipped:
        raise ValueError(
            f"{len(results.skipped)} videos of {options.data} could not be read; a "
            "claim is made on all of them. Remove or repair them."
        )
    mirror = " and mirrors" if record.flip else ""
    return tuple(
        Metric(
            "accuracy",
            results.accuracy(group),
            f"{options.protocol}, {group}" if group else options.protocol,
            f"{record.frames} frames{mirror}, raw scores averaged",
            "measured when published",
            results.count(group),
        )
        for group in (None, *results.group_names)
    )


def _measure_detector(path, options):
    from zoo.datasets import ImageNetVID
    from zoo.detection_commands import open_detector
    from zoo.evaluation.detect import evaluate_detector
    from zoo.weights.record import Metric

    network, record = open_detector(path)
    videos = ImageNetVID(options.data, "val", record.labels or None)
    results = evaluate_detector(network, videos, 1)
    print(results.table())
    protocol = "{}, every frame, average precision at IoU 0.5"
    return tuple(
        Metric(
            "mean average precision",
            found.mean(),
            options.protocol,
            protocol.format(method),
            "measured when published",
            results.frames,
        )
        for method, found in results.methods.items()
    )
