"""The commands that look into trained models: explain, specificity.

Source: thesis chapter 6.
"""

import difflib
import sys
from pathlib import Path

from zoo.command_line import (
    FLOW_OR_LAYER,
    MODEL,
    Usage,
    at_most,
    command,
    model_folder,
    one,
    refuse,
    require,
    without_trace,
)


@command(
    "explain",
    "VIDEO",
    model=MODEL,
    out=("string", None, "video to write: OUT.mp4"),
    **{"class": ("string", None, "class to explain; the best one by default")},
    method=(
        "string",
        "gradcam",
        "gradcam, integrated_gradients or gradient_x_input",
    ),
    endpoint=("string", None, "maps that gradcam takes, such as res4; the last ones"),
    frames=("integer", None, "how many frames the network sees; as in training"),
    flow=FLOW_OR_LAYER,
)
def explain(options, arguments):
    """Draws on a video where and when something in it speaks for a class."""
    video = one("a video", arguments)
    require(options, "model", "out")
    from zoo.datasets.video_writing import write_video
    from zoo.evaluation.evaluate import network_errors
    from zoo.understanding.attribution import METHODS
    from zoo.understanding.attribution_video import drawn

    _check_explain(options, METHODS)
    view, record, flow = _open(options, options.frames)
    label = _label(options["class"].value, record)
    seen, rate = _seen(view, video, flow)
    with network_errors("take fewer --frames, or a smaller video"), without_trace():
        label, scores = _answer(view.network, seen, label)
        settings = _settings(options)
        found = METHODS[options.method](view.network, seen, label, **settings)
    name = _names(record)[label]
    method = options.method.replace("_", " ")
    count = write_video(
        options.out, drawn(seen, found, f"{name} {scores[label]:.2f}  {method}"), rate
    )
    print(f"{video}\n  {scores[label]:.4f}  {name}")
    if label != scores.argmax():
        print(
            f"  {scores.max():.4f}  {_names(record)[scores.argmax()]} is the best class"
        )
    for line in _remarks(found):
        print(f"  {line}")
    print(f"{count} frames drawn: {options.out}")
    return 0


@command(
    "specificity",
    "",
    model=MODEL,
    data=("string", None, "videos by class: folder <class>/<video>, or a list file"),
    out=("string", None, "folder for the table, the picture and every unit's number"),
    endpoints=("list", None, "layers to look at: res3,res5; all by default"),
    top=("integer", None, "videos looked at per unit; as many as the smallest class"),
    flow=FLOW_OR_LAYER,
)
def specificity(options, arguments):
    """Measures by depth whether the videos that excite a unit share a class."""
    at_most(0, arguments)
    require(options, "model", "data", "out")
    from zoo import registry
    from zoo.evaluation.evaluate import network_errors
    from zoo.files import require_writable
    from zoo.understanding import specificity as measure

    view, record, flow = _open(options)
    videos = _videos(options.data)
    require_writable(options.out)
    endpoints = options.endpoints or [
        e for e in registry.info(record.name).endpoints if not e.endswith("predictions")
    ]
    with network_errors("use smaller videos"), without_trace():
        found = measure.responses(view, videos, endpoints, flow, report=_progress)
    layers = measure.by_layer(found, options.top)
    measure.save(layers, options.out)
    print(measure.table(layers), end="")
    print(f"{len(found.labels)} videos of {len(found.classes)} classes")
    for reason in found.skipped:
        print(f"skipped: {reason}")
    print(f"Written: {options.out}/specificity.png and more")
    return 0


def _check_explain(options, methods):
    """What can be refused before anything is read."""
    if options.method not in methods:
        raise Usage(
            f"Unknown --method {options.method!r}; accepted are {', '.join(methods)}."
        )
    if options.method != "gradcam":
        refuse(options, "endpoint", of=f"--method {options.method}")
    if Path(options.out).suffix.lower() != ".mp4":
        raise Usage(f"--out must be a video to write, OUT.mp4; got {options.out}.")
    if options.frames is not None and options.frames < 1:
        raise Usage(f"--frames must be at least 1; got {options.frames}.")


def _open(options, frames=None):
    """(View, ModelRecord, source of flow) of a trained classifier."""
    from zoo import registry
    from zoo.prediction import with_flow
    from zoo.understanding.views import View
    from zoo.weights import folder

    path = model_folder(options.model)
    record = folder.load_record(path)
    if registry.info(record.name).task != "classification":
        raise Usage(f"{path} holds {record.name}, a detector; it has no class scores.")
    model, record = folder.load(path)
    model, source = with_flow(model, options.flow, record)
    return View(model, frames or record.frames, record.shorter_side), record, source


def _videos(path):
    from zoo.datasets import VideoList

    is_list = Path(path).is_file()
    return VideoList.from_list(path) if is_list else VideoList.from_folder(path)


def _names(record):
    return record.labels or tuple(f"class_{k}" for k in range(record.num_classes))


def _label(name, record):
    """Position of a class, or None for the best."""
    names = _names(record)
    if name is None:
        return None
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names[:5]
        raise Usage(f"The model has no class {name!r}; the nearest: {', '.join(near)}.")
    return names.index(name)


def _seen(view, video, flow):
    """What the network sees of a video, and the rate that keeps its duration."""
    from zoo.datasets import VideoError, probe
    from zoo.prediction import warn_of_damage

    counts = []

    def choose(count):
        counts.append(count)
        return view.choose(count)

    def warn(path, read):
        warn_of_damage(path, read, done="explained")

    try:
        seen = view(view.reader(flow, warn).read(video, choose))
    except VideoError as error:
        if video in str(error):
            raise
        raise VideoError(f"{video}: {error}") from error
    fps = probe(video).fps or 25.0
    frames = len(next(iter(seen.values())))
    # Of a video shorter than the view frames are repeated, and not played faster;
    # headers may also claim thousands of frames per second.
    return seen, max(1.0, min(fps, frames * fps / counts[-1], 60.0))


def _answer(network, seen, label):
    """(label to explain, activations of all classes)."""
    import zoo
    from zoo.models.testing import alone_or_all

    given = alone_or_all({kind: x[None] for kind, x in seen.items()})
    scores = zoo.features(network, ["predictions"])(given)["predictions"][0].numpy()
    return (int(scores.argmax()) if label is None else label), scores


def _settings(options):
    """Arguments of the method beyond the clip."""
    if options.method == "gradcam":
        return {"endpoint": options.endpoint}
    if options.method == "gradient_x_input":
        return {}
    return {"report": _progress}


def _progress(done, steps):
    """One line on a terminal that counts steps or videos."""
    if sys.stderr.isatty():
        end = "\n" if done == steps else ""
        print(f"\r{done} of {steps}", end=end, file=sys.stderr, flush=True)


def _remarks(found):
    """What should be known of the maps, in lines."""
    if found.expected is not None:
        yield (
            f"sum of the maps {found.total:.4g}, difference to an empty clip "
            f"{found.expected:.4g}, in {found.steps} steps"
        )
    if found.units is not None:
        sizes = {" x ".join(map(str, size)): None for size in found.units.values()}
        yield f"maps of {' and '.join(sizes)} units, frames x rows x columns"
    weights = {kind: abs(values).sum() for kind, values in found.maps.items()}
    for kind, weight in weights.items():
        if not weight:
            yield f"nothing speaks for it in what the network sees of {kind}"
    if len(weights) > 1 and found.method != "gradcam" and sum(weights.values()):
        share = 100 * weights["flow"] / sum(weights.values())
        yield f"{share:.0f} % of all contributions, for and against, are of flow"


def receptive_fields_of(name, weights):
    """Prints the receptive fields of a model's endpoints, theoretical and effective.

    Args:
        name: of a registered classifier. weights: as of `zoo.load`, or None.

    Raises:
        Usage: a detector.

    Source: thesis Table 2.1; Luo et al. (2016).
    """
    import zoo
    from zoo.understanding.effective_fields import (
        effective_receptive_fields,
        table,
    )

    info = zoo.info(name)
    if info.task != "classification":
        raise Usage(
            f"{name} is a detector; ask for the receptive fields of its trunk, such as "
            "resnet50."
        )
    model = zoo.load(name, weights)
    endpoints = [e for e in info.endpoints if not e.endswith("predictions")]
    fields = effective_receptive_fields(model, endpoints, report=_endpoint_done)
    print(f"  receptive fields in frames x pixels, weights: {weights or 'random'}")
    print("    " + table(fields).replace("\n", "\n    "))
    return 0


def _endpoint_done(endpoint, _):
    if sys.stderr.isatty():
        print(f"\r\033[K{endpoint} is measured", end="", file=sys.stderr, flush=True)
