"""The main job from end to end, on scenes the demo makes itself: `make demo`.

Writes the synthetic dynamic scenes as video files, trains the frame-wise network and
the T-ResNet of the same size on the same budget, compares them, exports the T-ResNet
for TensorFlow Serving, and asks the export about a video from a fresh process.

Source: thesis 7.5, in miniature: a network that filters over time recognises scenes
by their dynamics, where the network it extends, frame by frame, cannot.
"""

import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from absl import app, flags

from zoo.datasets import FrameCache, VideoList, read_video
from zoo.datasets.synthetic import write_dynamic_scenes
from zoo.evaluation import report
from zoo.evaluation.evaluate import evaluate
from zoo.exports import export
from zoo.files import replacing
from zoo.training import train
from zoo.training.recipes.synthetic_scenes import RECIPES
from zoo.weights import folder as model_folder

FLAGS = flags.FLAGS
flags.DEFINE_string("out", "demo", "Folder of everything the demo writes.")
flags.DEFINE_integer("videos", 150, "Training videos per class and camera.")
flags.DEFINE_integer("test_videos", 25, "Test videos per class and camera.")

NETWORKS = {  # name in the report: recipe
    "ResNet (frame by frame)": "synthetic_scenes_spatial",
    "T-ResNet": "synthetic_scenes",
}


def run(out, videos, test_videos, recipes=RECIPES):
    """Runs the demo; what an earlier, interrupted run has finished is kept.

    Args:
        out: folder of all results.
        videos, test_videos: per class and camera.
        recipes: {recipe name: `Recipe`}, those of `NETWORKS`.

    Returns:
        {network: `Results` on the test videos}.

    Source: thesis 7.5.
    """
    out, started = Path(out), time.monotonic()
    train_set = write_scenes(out / "scenes" / "train", videos, seed=0)
    test_set = write_scenes(out / "scenes" / "test", test_videos, seed=1)
    results, histories = {}, {}
    for network, recipe in NETWORKS.items():
        say(f"Training the {network} on {len(train_set)} videos")
        fitted = train(
            recipes[recipe], train_set, out / recipe, cache=FrameCache(), verbose=2
        )
        histories[network] = fitted.history
        results[network] = test(fitted.folder / "last", test_set)
        report.save(results[network], out / "report" / recipe)
    exported = export_model(out)
    sample = Path(test_set.paths[0])
    answer = ask(exported, sample)
    minutes = (time.monotonic() - started) / 60
    write_report(out, results, histories, f"{sample.name}:\n{answer}", minutes)
    return results


def write_scenes(folder, videos, seed):
    """Writes one set of scenes as video files and lists it (thesis 7.4, layout)."""
    say(f"Writing {videos} videos per class and camera to {folder}")
    write_dynamic_scenes(
        folder, videos, size=(32, 32), frames=12, seed=seed, progress=progress
    )
    return VideoList.from_folder(folder)


def progress(done, total):
    """Says how many files are written, ten times in all (for people who wait)."""
    if done % max(1, total // 10) == 0:
        print(f"  {done} of {total}", flush=True)


def test(folder, videos):
    """`Results` of a trained model on videos it has not seen (thesis 7.3.3)."""
    model, record = model_folder.load(folder)
    return evaluate(
        model,
        videos,
        frames=record.frames,
        shorter_side=record.shorter_side,
        flip=record.flip,
        labels=record.labels,
    )


def export_model(out):
    """Exports the T-ResNet as TensorFlow Serving reads it; returns the version."""
    say("Exporting the T-ResNet, and comparing the export with the model")
    model, record = model_folder.load(out / NETWORKS["T-ResNet"] / "last")
    return export(
        model,
        out / "exported",
        labels=record.labels,
        frames=record.frames,
        shorter_side=record.shorter_side,
        flip=record.flip,
    )


def ask(exported, video):
    """What `zoo predict` says of a video, run as a process of its own."""
    command = ["-m", "zoo", "predict", str(video), "--model", str(exported)]
    say(f"In a fresh process: python {' '.join(command)}")
    done = subprocess.run(
        [sys.executable, *command], check=True, stdout=subprocess.PIPE, text=True
    )
    print(done.stdout, flush=True)
    return done.stdout


def write_report(out, results, histories, answer, minutes):
    """Writes report/README.md with its tables and pictures, and prints the tables.

    Source: the tables have the shape of thesis Table 7.2.
    """
    folder = out / "report"
    test_set = VideoList.from_folder(out / "scenes" / "test")
    draw_scenes(test_set, folder / "scenes.png")
    report.learning_curves(histories, folder / "learning_curves.png")
    parts = [
        "# Dynamic scenes, told apart by their motion alone",
        "![first, middle and last frame of a scene of each class](scenes.png)",
        report.comparison(results),
        "![learning curves](learning_curves.png)",
    ]
    for network, recipe in NETWORKS.items():
        parts += [f"## {network}", report.table(results[network])]
        parts += [f"![confusion matrix]({recipe}/confusion.png)"]
    parts += ["## The exported T-ResNet on one file", f"```\n{answer}```"]
    parts += [f"All of this took {minutes:.1f} minutes."]
    with replacing(folder / "README.md") as path:
        path.write_text("\n\n".join(parts) + "\n")
    print("\n".join([report.comparison(results), *map(report.table, results.values())]))
    say(f"{minutes:.1f} minutes; the report is {folder / 'README.md'}")


def draw_scenes(videos, path):
    """A picture with a row per class: six frames of a static and a moving scene."""
    rows = []
    for label in range(len(videos.class_names)):
        chosen = [
            next(
                p
                for p, one, g in zip(
                    videos.paths, videos.labels, videos.groups, strict=True
                )
                if one == label and g == group
            )
            for group in ("static", "moving")
        ]
        frames = [read_video(p).frames[:12:2] for p in chosen]
        framed = [np.pad(f, ((1, 1), (1, 1), (0, 0))) for clip in frames for f in clip]
        rows.append(np.concatenate(framed, axis=1))
    picture = np.concatenate(rows, axis=0)
    picture = cv2.resize(picture, None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST)
    with replacing(path) as temporary:
        cv2.imwrite(str(temporary), picture[:, :, ::-1])


def say(text):
    """Prints a headline at once, so that the demo never seems to hang (for people)."""
    print(f"\n== {text}", flush=True)


def verdict(results):
    """Whether the chapter's point is made, in one sentence: (made, sentence).

    T-ResNet right on at least 90 % of the static scenes, the frame-wise network on
    less than twice as many as guessing gets (thesis 7.5, in miniature).
    """
    frame_wise, t_resnet = (results[network] for network in NETWORKS)
    chance = 1 / len(t_resnet.classes)
    static, by_frame = t_resnet.accuracy("static"), frame_wise.accuracy("static")
    made = static >= 0.9 and by_frame < 2 * chance
    return made, (
        f"On static scenes the T-ResNet is right {static:.1%} of the time (90 % was to "
        f"be reached), the frame-wise network {by_frame:.1%} (chance is {chance:.1%})."
    )


def main(argv):
    """Entry point of `python -m zoo.demo` (thesis 7.5)."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}; try --help.")
    made, sentence = verdict(run(FLAGS.out, FLAGS.videos, FLAGS.test_videos))
    say(sentence)
    return 0 if made else 1


if __name__ == "__main__":
    app.run(main)
