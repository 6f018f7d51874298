"""What the `zoo` command does with detectors: train, track, evaluate.

Source: thesis chapter 8; the flags are those of `zoo.__main__`.
"""

import json
from pathlib import Path

from zoo.files import replacing, require_writable

MAX_FRAMES = 10**9  # of a video that is tracked, a few frames in memory at a time


def is_detector(record):
    """Whether a `ModelRecord` is that of a detector (thesis chapter 8)."""
    from zoo import registry

    return registry.info(record.name).task == "detection"


def holds_detector(path):
    """Whether a folder is that of a trained detector (thesis chapter 8)."""
    from zoo.weights import folder

    is_model = (Path(path) / folder.RECORD).is_file()
    return is_model and is_detector(folder.load_record(path))


def is_detector_recipe(recipe):
    """Whether a recipe trains a detector (thesis 8.5.2)."""
    from zoo.training.detection_recipe import DetectionRecipe

    return isinstance(recipe, DetectionRecipe)


def train(recipe, options):
    """`zoo train` of a `DetectionRecipe`; returns the exit code (thesis 8.5.2)."""
    from zoo.training.detection import train_detector

    for flag in ("validation", "flow", "train_fraction", "split_seed", "cache_mib"):
        if options[flag].present:
            raise ValueError(f"A detector is trained without --{flag}; leave it out.")
    run = train_detector(
        recipe,
        options.data,
        options.out,
        classes=options.classes,
        devices=options.devices,
        seed=options.seed,
    )
    print(f"{len(run.history['epoch'])} epochs; the model is {run.folder}/last")
    return 0


def open_detector(path, tracks="proposals"):
    """A model folder as a network of candidates, and its record (thesis 8.3).

    Args:
        path: folder of a trained detector. tracks: see `zoo.models.object_detector`.

    Raises:
        ValueError: no detector.
    """
    from zoo.models.object_detector import candidates
    from zoo.weights import folder

    record = folder.load_record(path)
    if not is_detector(record):
        raise ValueError(
            f"{path} holds {record.name}, which finds no objects; give the folder of a "
            "detector, such as one that `zoo train detect_track` wrote."
        )
    model, record = folder.load(path)
    return candidates(model, *view_of(record), tracks), record


def view_of(record):
    """Shorter side and limit of the longer side of the frames (thesis 8.5.2)."""
    return record.shorter_side, record.longer_side or 10 * record.shorter_side


def track(video, options):
    """`zoo track`: finds and follows the objects of a video; returns the exit code.

    Two passes: one that detects and links, and one that draws, if asked for. Neither
    holds more than a few frames.

    Raises:
        ValueError: no detector, a video that can't be read, or wrong flags.
        OSError: a target that can't be written.

    Source: thesis 8.4 and 8.5.2.
    """
    from zoo.datasets.video import probe
    from zoo.evaluation.tube_frames import interpolate
    from zoo.evaluation.tubes import TubeLinker

    info = probe(video)  # before the network is built
    _check_flags(video, options)
    network, record = open_detector(options.model, options.tracks)
    labels = record.labels or [f"class_{k}" for k in range(record.num_classes)]
    linker = _Online() if options.online else TubeLinker()
    count = 0
    for found, between in detections(network, video, options.stride):
        linker.update(found, between)
        count = found.frame + 1
    tubes = [t for t in linker.finish() if t.scores.max() >= options.min_score]
    if options.stride > 1:
        tubes = interpolate(tubes, options.stride)
    result = {
        "video": str(video),
        "width": info.width,
        "height": info.height,
        "frames": count,
        "stride": options.stride,
        "model": record.name,
        "labels": list(labels),
        "tubes": [{**tube.to_dict(), "name": labels[tube.label]} for tube in tubes],
    }
    with replacing(Path(options.out)) as temporary:
        temporary.write_text(json.dumps(result) + "\n")
    print(f"{len(tubes)} tubes in {count} frames: {options.out}")
    if options.render:
        render(video, tubes, labels, options.render, info.fps or 25.0)
        print(f"Drawn: {options.render}")
    return 0


def _check_flags(video, options):
    """Refuses what would only show, or destroy something, after a long computation."""
    if not 0 <= options.min_score <= 2:
        raise ValueError(
            "--min_score must be 0 to 2: scores are a probability plus the mean of the "
            f"best ones of their tube; got {options.min_score}."
        )
    targets = {"out": options.out}
    if options.render:
        if Path(options.render).suffix.lower() != ".mp4":
            raise ValueError(f"--render writes .mp4; got {options.render!r}.")
        targets["render"] = options.render
    taken = {"the video": Path(video).resolve()}
    for flag, text in targets.items():
        path = Path(text).resolve()
        if path.is_dir():
            raise ValueError(f"--{flag}={text} is a folder; name a file to write.")
        for what, other in taken.items():
            if path == other:
                raise ValueError(
                    f"--{flag}={text} would overwrite {what}; name another file."
                )
        require_writable(path.parent)
        taken[f"--{flag}"] = path


class _Online:
    """Tubes of an `OnlineLinker`, gathered at the end of the video."""

    def __init__(self):
        from zoo.evaluation.online_tubes import OnlineLinker

        self._linker, self._tracks = OnlineLinker(), []

    def update(self, detections, tracklets):
        self._tracks.append(self._linker.update(detections, tracklets))

    def finish(self):
        from zoo.evaluation.tube_frames import gather

        return gather(self._tracks)


def evaluate(options):
    """`zoo evaluate` of a detector: average precision of frames and of tubes (8.1).

    Returns:
        The exit code.
    """
    from zoo.datasets import ImageNetVID
    from zoo.evaluation.detect import evaluate_detector
    from zoo.weights import folder

    if options.out:
        require_writable(options.out)
    labels = folder.load_record(options.model).labels
    videos = ImageNetVID(options.data, "val", labels or None)
    network, _ = open_detector(options.model, options.tracks)
    results = evaluate_detector(network, videos, options.stride)
    print(results.table())
    if options.out:
        target = Path(options.out) / "results.json"
        with replacing(target) as temporary:
            temporary.write_text(json.dumps(results.to_dict(), indent=2) + "\n")
        print(f"Written: {target}")
    return 0


def detections(network, video, stride):
    """What a network of candidates finds in a video file, frame by frame (8.5.2)."""
    from zoo.datasets.video import stream_frames
    from zoo.evaluation.tracker import FrameDetector

    frames = stream_frames(video, max_frames=MAX_FRAMES)
    return FrameDetector(network, stride)(frames)


def render(video, tubes, labels, path, fps):
    """Draws tubes on their video (thesis Figures 8.4 and D.1).

    Args:
        video: the file. tubes: `Tube`s with a box in every frame they span.
        labels: names of the classes. path: .mp4 to write. fps: of the video.
    """
    from zoo.datasets.video import stream_frames
    from zoo.datasets.video_writing import write_video
    from zoo.understanding.tube_video import draw_objects

    def drawn():
        for number, frame in enumerate(stream_frames(video, max_frames=MAX_FRAMES)):
            objects = []
            for tube in tubes:
                i = tube.frames.searchsorted(number)
                if i < len(tube.frames) and tube.frames[i] == number:
                    caption = f"{labels[tube.label]} {tube.id} {tube.scores[i]:.2f}"
                    objects.append((tube.id, caption, tube.boxes[i]))
            yield draw_objects(frame, objects)

    write_video(path, drawn(), fps)
