"""The command that shows what units prefer: visualize.

Source: thesis chapter 6.
"""

import re
import sys
from pathlib import Path

from zoo.command_line import (
    Usage,
    command,
    model_folder,
    one,
    require,
    weights,
    without_trace,
)


@command(
    "visualize",
    "NAME|DIR",
    endpoint=("string", None, "maps whose units are shown: fusion_relu5, logits, ..."),
    units=("string", "0-7", "numbers of the units: 0-7 or 3,5,21"),
    chi=("list", [], "slowness of the flow, eq. 6.5: 10,5,1,0, slow to fast (default)"),
    kappa=("list", [], "strength in space and time instead, eq. 6.4: 10,5,2.5,1"),
    out=("string", None, "folder to write; the same command resumes it"),
    weights=("string", None, "of NAME: as of zoo train; random ones by default"),
    clip=("string", None, "frames x height x width, such as 5x64x64; the model's own"),
    iterations=("integer", 200, "steps of the search"),
    strength=("float", 1.0, "of the activation against the regularisers"),
    jitter=("integer", 0, "largest random shift per step, in pixels"),
    starts=("integer", 1, "random starts per unit, of which the best is kept"),
    seed=("integer", 0, "of all that is random"),
    encoding=("string", "mag", "of the flow: mag, wheel, hsv, u, v, magnitude, ..."),
)
def visualize(options, arguments):
    """Finds what excites units of a network most, frames and flow together."""
    source = one("the name or folder of a model", arguments)
    require(options, "endpoint", "out")
    from zoo.understanding.flow_pictures import ENCODINGS
    from zoo.understanding.sweep import sweep

    if options.encoding not in ENCODINGS:
        raise Usage(
            f"--encoding must be one of {', '.join(ENCODINGS)}; got "
            f"{options.encoding!r}."
        )
    model, info = _opened(source, options.weights, options.seed)
    regularisers = _regularisers(options, model)
    units = _units(options.units)
    with without_trace():
        found = sweep(
            model,
            options.endpoint,
            units,
            regularisers,
            _search(options, info),
            options.out,
            facts={"source": source}.items(),
            report=_progress(options.iterations),
        )
    _draw(found, options)
    for label, preferred in found.items():
        reached = ", ".join(f"{a:.3g}" for a in preferred.activations)
        print(f"{label}: activations {reached or '-'}")
        if preferred.dead:
            print(f"  never active: {', '.join(map(str, preferred.dead))}")
    return 0


def _opened(source, given, seed):
    """A registered model or that of a folder, and its `ModelInfo`."""
    import keras

    import zoo
    from zoo.weights import folder

    if source in zoo.list_models() and not (Path(source) / folder.RECORD).is_file():
        if given is None:
            print(
                f"zoo: warning: {source} without --weights is untrained",
                file=sys.stderr,
            )
        info = zoo.info(source)
        if info.task == "detection":
            raise Usage(f"{source} is a detector; its units are not searched for.")
        keras.utils.set_random_seed(seed)  # an untrained network resumes as itself
        return zoo.load(source, weights(given) if given else None), info
    if not Path(source).exists():
        raise Usage(
            f"{source} is neither a folder nor a registered model; `zoo list` shows "
            "the models, and training writes folders."
        )
    if given is not None:
        raise Usage("The folder of a trained model has its own --weights.")
    model, record = folder.load(model_folder(source))
    return model, zoo.info(record.name)


def _regularisers(options, model):
    """{label: `Smoothness`}, or one without for units that see no flow."""
    from zoo.models.endpoints import features
    from zoo.understanding.graph import inputs_seen
    from zoo.understanding.sweep import settings

    features(model, [options.endpoint])  # an unknown one is refused by name
    if options.chi and options.kappa:
        raise Usage("--chi and --kappa are two regularisers; give one of them.")
    if "flow" not in inputs_seen(model, options.endpoint.replace("/", "_")):
        if options.chi or options.kappa:
            raise Usage(
                f"{options.endpoint} of {model.name} sees no flow; leave out --chi and "
                "--kappa."
            )
        return {"appearance": None}
    name = "kappa" if options.kappa else "chi"
    values = options.kappa or options.chi or ["10", "5", "1", "0"]
    try:
        return settings(name, [float(value) for value in values])
    except ValueError as error:
        raise Usage(f"--{name} takes numbers, such as 10,5,1,0: {error}") from error


def _units(text):
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise Usage(f"--units takes 0-7 or 3,5,21; got {text!r}.")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    if len(set(found)) < len(found):
        raise Usage(f"--units names a unit twice; got {text!r}.")
    return found


def _search(options, info):
    from zoo.understanding.maximization import Search

    clip = info.clip
    if options.clip is not None:
        if not re.fullmatch(r"\d+x\d+x\d+", options.clip):
            raise Usage(f"--clip takes FRAMESxHEIGHTxWIDTH; got {options.clip!r}.")
        clip = tuple(map(int, options.clip.split("x")))
    names = ("iterations", "strength", "jitter", "starts", "seed")
    return Search(clip, **{name: options[name].value for name in names})


def _progress(iterations):
    """A bar per setting and start on standard error, where somebody looks at it."""
    if not sys.stderr.isatty():
        return None

    def report(label, iteration, objectives):
        done = round(30 * iteration / iterations)
        bar = "#" * done + "." * (30 - done)
        line = f"{label:10} {bar} {iteration}/{iterations}  {objectives.mean():.3g}"
        end = "\n" if iteration == iterations else ""
        print(f"\r{line}", end=end, file=sys.stderr, flush=True)

    return report


def _draw(found, options):
    """sheet.png, and with flow sheet.mp4 and the spectra of the motions."""
    from zoo.datasets.video_writing import write_video
    from zoo.understanding import flow_pictures, preferred_pictures, spectrum

    out = Path(options.out)
    alive = {label: p for label, p in found.items() if p.channels}
    if not alive:
        print("no unit was ever active, so there is nothing to draw")
        return
    page = preferred_pictures.sheet(alive, options.encoding)
    flow_pictures.save(out / "sheet.png", page)
    pages = list(preferred_pictures.movie(alive, options.encoding))
    if len(pages) > 1:
        write_video(out / "sheet.mp4", pages, 5)
    spectra = {
        label: spectrum.temporal_spectrum(preferred.flow)
        for label, preferred in alive.items()
        if preferred.flow is not None
    }
    if len(spectra) > 1:
        spectrum.plot(spectra, out / "spectrum.png")
        print(spectrum.table(spectra))
    print(f"Written: {out}/sheet.png and more")
