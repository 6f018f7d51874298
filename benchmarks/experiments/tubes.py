"""What tubes are worth: thesis Table 8.1 in small, on synthetic videos.

    python benchmarks/experiments/tubes.py --out tubes

Writes synthetic videos in the layout of ImageNet VID, trains tiny networks with several
seeds, and prints the mean average precision on unseen videos: mean and range over the
seeds. A detector is trained, then trained on in two ways for the same number of
updates: with the tracking loss (lambda = 1) and without (lambda = 0). What an earlier,
interrupted run has finished is kept.

Source: thesis Table 8.1 and 8.5.3.
"""

import dataclasses
import json
import platform
import time
from pathlib import Path

import numpy as np
from absl import app, flags

from zoo.datasets import ImageNetVID
from zoo.datasets.synthetic_vid import write_synthetic_vid
from zoo.datasets.tracked_scenes import CLASSES
from zoo.evaluation.detect import boxes_of, precision
from zoo.evaluation.report import markdown
from zoo.models.object_detector import candidates
from zoo.training.detection import train_detector
from zoo.training.recipes.synthetic_vid import DETECT_TRACK, RFCN
from zoo.weights import folder as model_folder

FLAGS = flags.FLAGS
flags.DEFINE_string("out", "tubes", "Folder of the videos, the runs and the table.")
flags.DEFINE_integer("videos", 150, "Training videos.")
flags.DEFINE_integer("test_videos", 40, "Validation videos.")
flags.DEFINE_integer("frames", 31, "Frames per video.")
flags.DEFINE_integer("seeds", 3, "Trainings of each network.")

# (network, tau, method): what it is.
ROWS = {
    ("detect", 1, "frames"): "detection alone",
    ("track", 1, "frames"): "detection after training with the tracking loss",
    ("detect", 1, "tubes"): "detection alone, tubes by scores only",
    ("track", 1, "tubes"): "D&T, tubes, tau = 1",
    ("track", 10, "tubes"): "D&T, tubes, tau = 10",
    ("track", 1, "online"): "D&T, online, tau = 1",
}
SUBSETS = ("all", "clear", "blurred", "occluded")


def train(root, out, seed):
    """Trains the detector and both continuations: {"detect", "track": folder}."""
    data = {"classes": CLASSES, "seed": seed, "verbose": 2}
    base = train_detector(RFCN, root, out / f"rfcn_{seed}", **data)
    start = dataclasses.replace(DETECT_TRACK, weights=str(base.folder / "last"))
    recipes = {
        "track": start,
        "detect": dataclasses.replace(start, loss_weights={"track": 0.0}),
    }
    return {
        name: train_detector(recipe, root, out / f"{name}_{seed}", **data).folder
        / "last"
        for name, recipe in recipes.items()
    }


def subsets(root, videos):
    """{subset: {video: frames}}; those with blur, with occlusion, with neither."""
    conditions = json.loads((Path(root) / "conditions.json").read_text())
    found = {name: {} for name in SUBSETS}
    for video in videos.annotated():
        every = set(range(len(video)))
        blurred = set(conditions["blurred"]["val"].get(video.name, ()))
        hidden = {i for i, frame in enumerate(video.frames) if frame.occluded.any()}
        found["all"][video.name] = every
        found["clear"][video.name] = every - blurred - hidden
        found["blurred"][video.name] = blurred
        found["occluded"][video.name] = hidden
    return found


def one_seed(root, out, seed):
    """{(row, subset): mean average precision} of all rows."""
    folders = train(root, out, seed)
    videos = ImageNetVID(root, "val", CLASSES)
    frames, found = subsets(root, videos), {}
    for name, stride in sorted({(name, stride) for name, stride, _ in ROWS}):
        model, record = model_folder.load(folders[name])
        network = candidates(model, record.shorter_side, record.longer_side)
        boxes = list(boxes_of(network, videos, stride))
        for subset in SUBSETS:
            results = precision(boxes, CLASSES, stride, frames[subset])
            for method, result in results.methods.items():
                found[(name, stride, method), subset] = result.mean()
            print(f"{name}, tau = {stride}, seed {seed}, {subset} frames")
            print(results.table(), flush=True)
    return found


def table(results):
    """Markdown of the mean over the seeds, and of the range over all frames."""
    rows = []
    for row, text in ROWS.items():
        values = {s: np.array([found[row, s] for found in results]) for s in SUBSETS}
        low, high = 100 * values["all"].min(), 100 * values["all"].max()
        means = [float(values[subset].mean()) for subset in SUBSETS]
        rows.append([text, means[0], f"{low:.1f}-{high:.1f}", *means[1:]])
    return markdown(["mAP, %", "all frames", "seeds", *SUBSETS[1:]], rows)


def main(argv):
    """Runs everything and prints the table."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}; try --help.")
    started, out = time.monotonic(), Path(FLAGS.out)
    root = write_synthetic_vid(
        out / "videos", (FLAGS.videos, FLAGS.test_videos), frames=FLAGS.frames
    )
    results = [one_seed(root, out / "runs", seed) for seed in range(FLAGS.seeds)]
    text = (
        f"{table(results)}\n{FLAGS.videos} training videos, {FLAGS.test_videos} "
        f"validation videos of {FLAGS.frames} frames, {FLAGS.seeds} seeds; "
        f"{(time.monotonic() - started) / 60:.0f} minutes on "
        f"{platform.processor() or platform.machine()}.\n"
    )
    (out / "table.md").write_text(text)
    print(f"\n{text}")


if __name__ == "__main__":
    app.run(main)
