"""What `zoo export` does: a registered name or a trained model, a served one.

Source: thesis 7.3.3; tensorflow.org/tfx/guide/serving.
"""

import dataclasses
from pathlib import Path

from zoo.command_line import Usage, model_folder, refuse, weights

FORMATS = ("savedmodel", "litert", "onnx")
# Flags that make the contract of a classifier, and those of these that only a server
# can keep.
VIEW = ("frames", "shorter_side", "top_k")
LIMITS = ("max_frames", "max_pixels", "max_view_pixels")
SERVED = ("features", "top_k", *LIMITS, "optimize")
# At what a model of a clip's size is tested: frames are rescaled so that the smaller
# side is 256 where the crops of training have 224 (3.3.5), and 600 in chapter 8, whose
# maps want multiples of 16.
SHORTER_SIDES = {224: 256, 608: 600}
LONGER_SIDES = {1008: 1000}


def run(source, options):
    """Exports what the command line names; returns the path (thesis 7.3.3).

    Args:
        source: name of a registered model, or folder of a trained one.
        options: flags of `zoo export`.

    Raises:
        ValueError: flags that do not fit, or an export that is not what its model is.
    """
    from zoo import detection_commands
    from zoo.exports.verification import VerificationError

    if options.format not in FORMATS:
        raise Usage(
            f"--format must be one of {', '.join(FORMATS)}; got {options.format!r}."
        )
    model, record = opened(source, options)
    try:
        if detection_commands.is_detector(record):
            return _export_detector(model, record, options)
        return _export_classifier(model, record, options)
    except VerificationError as error:
        raise ValueError(f"The export was not published: {error}") from error


def opened(source, options):
    """The model of a name or of a folder, and its `ModelRecord` (thesis 7.3.3).

    Args:
        source: name of a registered model, or folder of a trained one.
        options: flags of `zoo export`, of which names take weights and labels.

    Raises:
        ValueError: it is neither, or weights for a folder, which has its own.
    """
    import zoo
    from zoo.weights import folder

    is_name = source in zoo.list_models()
    if is_name and not (Path(source) / folder.RECORD).is_file():
        return _registered(source, options)
    if not Path(source).exists() and options.model is None:
        raise Usage(
            f"{source} is neither a folder nor a registered model; `zoo list` shows "
            "the models, and training writes folders."
        )
    refuse(options, "weights", "labels", of="The folder of a trained model")
    return folder.load(model_folder(source))


def _registered(name, options):
    """A registered model with --weights or random ones, and a record of it."""
    import zoo
    from zoo.weights.folder import ModelRecord

    info = zoo.info(name)
    model = zoo.load(
        name,
        weights(options.weights) if options.weights else None,
        len(options.labels) or None,
    )
    known = getattr(model, "num_classes", None)  # of a detector
    classes = known or model.get_layer("predictions").output.shape[-1]
    record = _record_of(info, options.weights) or ModelRecord(
        name, classes, **_view(info.clip)
    )
    labels = tuple(options.labels) or record.labels
    if len(labels) != classes:  # of other weights, whose classifier starts anew
        labels = ()
    return model, dataclasses.replace(record, num_classes=classes, labels=labels)


def _record_of(info, given):
    """How the weights of a registered model were tested, where that is known.

    Args:
        info: `ModelInfo`. given: `--weights`, or None.

    Returns:
        A `ModelRecord`: of a folder, whatever is in it; of other weights of this
        model, with their labels and the model's own view; or None.
    """
    from zoo.weights import folder, lookup, records

    known = records.all_records()
    record = known.get(f"{info.name}.{given}") or known.get(given)
    if record and record.model != info.name:
        return None
    path = Path(given or ".") if record is None else lookup.locate(record)
    if (path / folder.RECORD).is_file() and given:
        found = folder.load_record(path)
        return found if found.name == info.name else None
    if record is None:
        return None
    return folder.ModelRecord(
        info.name,
        record.num_classes,
        labels=record.class_names,
        **_view(info.clip),
    )


def _view(clip):
    """Fields of a `ModelRecord` for clips of (frames, height, width)."""
    if not clip:
        return {}
    frames, shorter, longer = clip[0], min(clip[1:]), max(clip[1:])
    return {
        "frames": frames,
        "shorter_side": SHORTER_SIDES.get(shorter, shorter),
        "longer_side": LONGER_SIDES.get(longer, longer),
    }


def _export_detector(model, record, options):
    from zoo.detection_commands import view_of
    from zoo.exports.detector import Limits, export_detector

    if options.flow:
        raise ValueError("A detector sees no optical flow; leave --flow out.")
    refuse(options, *VIEW, "features", "max_view_pixels", of="A detector")
    if options.format != "savedmodel":
        raise Usage(
            f"--format={options.format} takes classifiers, and {record.name} finds "
            "objects; leave it out."
        )
    given = [k for k in ("max_frames", "max_pixels") if options[k].present]
    limits = Limits(**{k: options[k].value for k in given})
    if options.optimize:
        from zoo.exports.optimize import optimized

        model = optimized(model)
    return export_detector(
        model,
        options.out,
        options.name,
        record.labels,
        tracks=options.tracks,
        view=view_of(record),
        limits=limits,
    )


def _export_classifier(model, record, options):
    refuse(options, "tracks", of="A classifier")
    if options.flow:
        from zoo.models.plain_rgb import plain_rgb

        model = plain_rgb(model, options.flow)
    contract = _contract(record, options)
    if options.format != "savedmodel":
        refuse(options, *SERVED, of=f"--format={options.format}")
        return _export_file(model, contract, options)
    from zoo.exports import publish

    return publish(
        model, options.out, contract, options.name, optimize=options.optimize
    )


def _contract(record, options):
    from zoo.exports import Contract

    fields = {
        "labels": record.labels,
        "frames": record.frames,
        "shorter_side": record.shorter_side,
        "flip": record.flip,
        "features": options.features,
    }
    given = [name for name in (*VIEW, *LIMITS) if options[name].present]
    return Contract(**fields | {name: options[name].value for name in given})


def _export_file(model, contract, options):
    """One file for other runtimes, OUT/NAME.tflite or .onnx."""
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (options.name or model.name)
    try:
        if options.format == "litert":
            from zoo.exports.litert import export_litert

            return export_litert(model, f"{path}.tflite", contract)
        from zoo.exports.onnx import export_onnx

        return export_onnx(model, f"{path}.onnx", contract)
    except ImportError as error:  # of an extra; the message names it
        raise Usage(str(error)) from error
