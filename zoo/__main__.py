"""The `zoo` command: those of data, training and testing, and all others by import.

Others stand in *_commands.py, each imported below and registered by `command`.

Every command parses its flags, calls the library and prints. TensorFlow is imported
only by the commands that compute.

Source: absl.flags for the flags; the thesis sections that the commands name.
"""

import dataclasses
import os
import sys
from logging import INFO

from absl import logging

from zoo import command_line
from zoo.command_line import (
    COMMANDS,
    DATA,
    FLOW,
    FLOW_OR_LAYER,
    MODEL,
    SERVER,
    STRIDE,
    TRACKS,
    Usage,
    at_most,
    command,
    help_of,
    model_folder,
    one,
    parse,
    refuse,
    require,
    split,
    videos_at,
)


@command("list", "[PATTERN]")
def list_models(options, arguments):
    """Lists the models, all or those whose name matches a wildcard."""
    import zoo

    names = zoo.list_models(*at_most(1, arguments))
    if not names:
        raise Usage(f"No model matches {arguments[0]!r}; `zoo list` shows all.")
    rows = [("name", "task", "section", "parameters")]
    for info in map(zoo.info, names):
        count = f"{info.parameters / 1e6:.2f} M" if info.parameters else "-"
        rows.append((info.name, info.task, info.section, count))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    return 0


@command(
    "info",
    "NAME",
    receptive_field=("boolean", False, "measure what units see, in theory and really"),
    weights=("string", None, "of --receptive_field: as of train; random by default"),
)
def info_of(options, arguments):
    """Prints a model's card: inputs, endpoints, size, receptive field, options."""
    import zoo

    name = one("the name of a model", arguments)
    info = zoo.info(name)
    print(info)
    from zoo.weights import records

    for record in records.of_model(info.name):
        print(f"  weights={record.tag!r}: {record.summary}")
    if options.receptive_field:
        from zoo import explain_commands

        return explain_commands.receptive_fields_of(name, options.weights)
    refuse(options, "weights", of="The card of a model")
    return 0


@command(
    "flow",
    "VIDEOS...",
    out=("string", None, "folder to write; the same command resumes it"),
    method=("string", "tvl1", "tvl1, dis or farneback of OpenCV, or layer: our own"),
    preset=("string", "default", "default or fast, of --method layer"),
    size=("integer", 256, "shorter side of what is stored, even; 0 keeps the videos'"),
    quality=("integer", 95, "of the JPEGs, 1-100; the released flow has 95"),
    format=("string", "jpeg", "jpeg: u/<class>/<video>/frame000001.jpg; or tfrecord"),
    shards=("integer", 16, "number of files of --format tfrecord"),
    processes=("integer", None, "one per core by default, one with --method layer"),
    overwrite=("boolean", False, "extract again what has changed"),
    camera_motion=("boolean", False, "remove what moves by the camera, a homography"),
    check=("string", None, "compare this folder with its manifest, extract nothing"),
    show=("string", None, "draw one video and its flow: OUT.mp4, or a sheet OUT.png"),
    flow=("string", None, "folder of stored flow that --show reads, computing nothing"),
    encoding=("string", "wheel", "or hsv, hsv_white, mag, u, v, magnitude; of --show"),
    bound=("float", 10.0, "displacement in pixels of the strongest colour of --show"),
)
def extract_flow(options, arguments):
    """Stores the optical flow of videos for --flow, or draws that of one (--show)."""
    from zoo import flow_methods

    flow_methods.refuse({f for f in COMMANDS["flow"].kinds if options[f].present})
    if options.check is not None:
        at_most(0, arguments)
        return flow_methods.check(options.check)
    if not arguments:
        raise Usage("zoo flow needs videos: files, folders or lists of them.")
    method = flow_methods.find(options.method, options.preset, options.camera_motion)
    if options.show is not None:
        return _show_flow(options, method, one("a video", arguments))
    require(options, "out")
    from zoo.datasets.extraction import Settings, extract

    settings = Settings(
        method, options.size or None, options.quality, options.format, options.shards
    )
    done = extract(
        arguments, options.out, settings, options.processes, options.overwrite
    )
    print(f"{done}; in {options.out}")
    return flow_methods.verdict(done)


@command(
    "train",
    "[RECIPE]",
    **DATA,
    validation=("string", None, "videos for validation, like --data"),
    out=("string", None, "folder of the run; the same command resumes it"),
    model=("string", None, "model to train where no recipe is given"),
    weights=(
        "string",
        None,
        "start from these: a tag such as imagenet, a file or a folder; two streams: "
        "appearance=...,motion=...",
    ),
    flow=FLOW,
    set=("multi_string", [], "change a number of the recipe: --set epochs=4"),
    devices=("list", None, "devices that share each batch: GPU:0,GPU:1"),
    classes=("list", None, "of ImageNet VID to train a detector on; all 30 by default"),
    cache_mib=("integer", 0, "keep up to this much of decoded video in memory"),
    seed=("integer", 0, "of everything that is random"),
)
def train(options, arguments):
    """Trains a model by a recipe, or --model with the thesis' numbers."""
    recipe = _recipe(options, at_most(1, arguments))
    require(options, "data", "out")
    from zoo import detection_commands
    from zoo.prediction import flow_of
    from zoo.training import train as run_training

    if detection_commands.is_detector_recipe(recipe):
        return detection_commands.train(recipe, options)
    refuse(options, "classes", of="A classifier")
    videos, rest = split(options)
    validation = videos_at(options.validation) if options.validation else rest
    run = run_training(
        recipe,
        videos,
        options.out,
        validation,
        devices=options.devices,
        seed=options.seed,
        cache=_cache(options.cache_mib),
        flow=flow_of(options.flow),
    )
    _learning_curves(run)
    print(f"{len(run.history['epoch'])} epochs; the best model is {run.folder}/best")
    return 0


@command(
    "evaluate",
    "",
    model=MODEL,
    **DATA,
    flow=FLOW_OR_LAYER,
    tracks=TRACKS,
    stride=STRIDE,
    out=("string", None, "folder for tables, scores and the confusion matrix"),
)
def evaluate(options, arguments):
    """Prints the accuracy of a model on videos, or a detector's average precision."""
    at_most(0, arguments)
    require(options, "model", "data")
    from zoo import detection_commands
    from zoo.evaluation import evaluate as run_evaluation
    from zoo.evaluation import report
    from zoo.files import require_writable
    from zoo.prediction import with_flow
    from zoo.weights import folder

    if detection_commands.holds_detector(model_folder(options.model)):
        refuse(options, "flow", "train_fraction", "split_seed", of="A detector")
        return detection_commands.evaluate(options)
    refuse(options, "tracks", "stride", of="A classifier")
    videos, rest = split(options)
    model, record = folder.load(model_folder(options.model))
    model, source = with_flow(model, options.flow, record)
    if options.out:
        require_writable(options.out)
    results = run_evaluation(
        model,
        rest or videos,
        record.frames,
        record.shorter_side,
        record.flip,
        labels=record.labels,
        flow=source,
    )
    print(report.table(results))
    if options.out:
        report.save(results, options.out)
        print(f"Written: {options.out}/report.md, confusion.png and more")
    return 0


@command(
    "predict",
    "VIDEO...",
    model=(
        "string",
        None,
        "folder of a trained model or of an export; with --server, a model's name",
    ),
    top=("integer", 5, "how many classes to print"),
    flow=FLOW_OR_LAYER,
    **SERVER,
)
def predict(options, arguments):
    """Prints the best classes of each video; exit code 1 if one could not be read."""
    from zoo.prediction import open_predictor, print_prediction
    from zoo.remote_prediction import open_remote, print_windows

    if not arguments:
        raise Usage("zoo predict needs at least one video file.")
    require(options, "model")
    if options.top < 1:
        raise Usage(f"--top must be at least 1; got {options.top}.")
    if options.server is None:
        refuse(options, *set(SERVER) - {"server"}, of="A model of a folder")
        predictor = open_predictor(model_folder(options.model), options.flow)
    else:
        predictor = open_remote(options)
    show = print_windows if options.window else print_prediction
    failed = 0
    for path in arguments:
        try:
            show(predictor, path, options.top)
        except (ValueError, OSError) as error:
            failed += 1
            named = str(error) if path in str(error) else f"{path}: {error}"
            print(f"zoo: failed: {named}", file=sys.stderr)
    if failed:
        print(f"zoo: {failed} of {len(arguments)} videos failed", file=sys.stderr)
    return 1 if failed else 0


@command(
    "track",
    "VIDEO",
    model=("string", None, "folder of a trained detector"),
    out=("string", None, "file to write: tubes.json"),
    render=("string", None, "draw the tubes on the video: OUT.mp4"),
    stride=STRIDE,
    tracks=TRACKS,
    online=("boolean", False, "link frame by frame, without looking ahead"),
    min_score=("float", 0.5, "leave out tubes whose boxes all score less, 0-2"),
)
def track(options, arguments):
    """Finds the objects of a video and follows them through it."""
    from zoo import detection_commands

    require(options, "model", "out")
    model_folder(options.model)
    return detection_commands.track(one("a video", arguments), options)


# Here, so that `zoo help` lists their commands in this order.
import zoo.explain_commands  # noqa: E402, F401
import zoo.serving_commands  # noqa: E402, F401
import zoo.visualize_commands  # noqa: E402, F401
import zoo.weights_commands  # noqa: E402, F401


@command("help", "[COMMAND]")
def show_help(options, arguments):
    """Shows all commands, or the flags of one."""
    if arguments:
        print(help_of(one("the name of a command", arguments)))
        return 0
    print("usage: zoo COMMAND [ARGUMENTS] [--flags]\n")
    for name, entry in COMMANDS.items():
        print(f"  {f'{name} {entry.arguments}':20} {entry.run.__doc__}")
    print("\n`zoo COMMAND --help` shows the flags of a command.")
    return 0


# --- arguments -----------------------------------------------------------------------


def _recipe(options, arguments):
    """The recipe of the command line: named, or of a model with thesis' defaults."""
    if bool(arguments) == bool(options.model):
        raise Usage("zoo train needs a recipe or --model, and not both.")
    from zoo.training.recipe import override
    from zoo.training.recipes import find

    recipe = find(arguments[0]) if arguments else _default(options.model)
    if options.weights:
        recipe = dataclasses.replace(
            recipe, weights=command_line.weights(options.weights)
        )
    return override(recipe, options.set)


def _default(model):
    """The recipe of a model with the thesis' numbers."""
    from zoo import registry
    from zoo.training.detection_recipe import DetectionRecipe
    from zoo.training.recipe import Recipe

    is_detector = registry.info(model).task == "detection"
    return DetectionRecipe(model) if is_detector else Recipe(model)


def _cache(mib):
    from zoo.datasets import FrameCache

    return FrameCache(mib * 2**20) if mib else None


# --- output --------------------------------------------------------------------------


def _show_flow(options, method, video):
    from zoo import flow_methods
    from zoo.prediction import warn_of_damage
    from zoo.understanding.flow_video import frames_and_flow, show

    source, opened = flow_methods.source(method, options.flow)
    pairs = frames_and_flow(
        video, source, lambda *damage: warn_of_damage(*damage, done="drawn")
    )
    drawn, seen = show(pairs, options.show, options.encoding, options.bound)
    print(f"{drawn} of {seen} pairs drawn: {options.show}")
    if options.camera_motion:
        print(f"{opened.plain} of them are plain flow: no camera motion was found")
    return 0


def _learning_curves(run):
    from zoo.evaluation.report import learning_curves

    learning_curves({"training": run.history}, run.folder / "curves.png")


def _is_worth_saying(record):
    """Whether a log record is ours, or more than a detail of TensorFlow's (absl)."""
    theirs = f"{os.sep}tensorflow{os.sep}python{os.sep}" in record.pathname
    return record.levelno > INFO or not theirs


def main(argv=None):
    """Runs the command line and returns the exit code.

    Args:
        argv: arguments after the program's name; None takes those of the process.

    Returns:
        0; 1 if some videos failed; 2 for an error, said in one line.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("-h", "--help"):
        argv = ["help"]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.set_verbosity(logging.INFO)
    logging.get_absl_logger().addFilter(_is_worth_saying)
    debug = "--debug" in argv
    try:
        name, *rest = argv
        if {"-h", "--help"} & set(rest):
            name, rest = "help", [name]
        entry = command_line.find(name)
        return entry.run(*parse(entry, name, rest))
    except KeyboardInterrupt:
        print("zoo: interrupted; the same command resumes it", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        if debug:
            raise
        print(f"zoo: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
