"""What moves where: which two-stream networks bring appearance and motion together.

    python benchmarks/experiments/what_moves_where.py --out pairs

Writes the synthetic pairs of moving discs (`zoo.datasets.moving_pairs`), trains tiny
networks of every chapter on them with several seeds, and prints the accuracy on unseen
clips: mean and range over the seeds. Guessing gets 50 %. What an earlier, interrupted
run has finished is kept.

Source: thesis 3.1 and 4.3.1: a network that is to know "what is moving where" has to
register appearance and motion at the level of features; neither stream alone, nor
their late fusion, can.
"""

import platform
import time
from pathlib import Path

import numpy as np
from absl import app, flags

import zoo
from zoo.datasets import FrameCache, VideoList, flow_source
from zoo.datasets.synthetic import write_moving_pairs
from zoo.evaluation import evaluate
from zoo.evaluation.report import markdown
from zoo.training import train
from zoo.training.recipes.moving_pairs import RECIPES
from zoo.weights import folder as model_folder

FLAGS = flags.FLAGS
flags.DEFINE_string("out", "pairs", "Folder of the clips, the runs and the table.")
flags.DEFINE_integer("videos", 300, "Training clips per class.")
flags.DEFINE_integer("test_videos", 500, "Test clips per class.")
flags.DEFINE_integer("seeds", 3, "Trainings of each network.")

ROWS = {  # recipe: what it is
    "moving_pairs_appearance": "appearance stream alone",
    "moving_pairs_motion": "motion stream alone",
    "late": "two-stream, late fusion of these two (2.3)",
    "moving_pairs_late": "two-stream, sum of the scores trained jointly",
    "moving_pairs_fusion": "sum fusion at the last convolution (3.3.1)",
    "moving_pairs_st_resnet": "ST-ResNet (4.3)",
    "moving_pairs_st_mulnet": "ST-MulNet (5.4)",
}


def write_sets(out, videos, test_videos):
    """Training and test set: {"train": (VideoList, flow), "test": ...}."""
    sets = {}
    for name, count, seed in (("train", videos, 0), ("test", test_videos, 1)):
        root = write_moving_pairs(out / name, count, seed=seed)
        source = flow_source(root / "flow")
        sets[name] = VideoList.from_folder(root / "videos"), source
    return sets


def fit(recipe, sets, out, seed, cache):
    """Trains a network by its recipe; returns its folder."""
    videos, source = sets["train"]
    recipe = RECIPES[recipe]
    sees_flow = "flow" in zoo.info(recipe.model).inputs
    run = train(
        recipe,
        videos,
        out,
        cache=cache,
        seed=seed,
        flow=source if sees_flow else None,
        verbose=2,
    )
    return run.folder / "last"


def accuracy(model, record, sets, cache):
    """Share of test clips that a network gets right."""
    videos, source = sets["test"]
    view = record.frames, record.shorter_side, record.flip
    results = evaluate(
        model, videos, *view, cache=cache, labels=record.labels, flow=source
    )
    return results.accuracy()


def one_seed(sets, out, seed, cache):
    """{row: accuracy} of all networks."""
    folders, found = {}, {}
    for recipe in RECIPES:
        print(f"\n== {recipe}, seed {seed}", flush=True)
        folders[recipe] = fit(recipe, sets, out / f"{recipe}_{seed}", seed, cache)
        model, record = model_folder.load(folders[recipe])
        found[recipe] = accuracy(model, record, sets, cache)
        print(f"{ROWS[recipe]}: {found[recipe]:.1%}", flush=True)
    streams = {
        stream: folders[f"moving_pairs_{stream}"] for stream in ("appearance", "motion")
    }
    late = zoo.load("two_stream_resnet26_tiny", weights=streams)
    found["late"] = accuracy(late, record, sets, cache)
    return found


def table(results):
    """Markdown of mean and range over the seeds, in per cent."""
    rows = []
    for row, text in ROWS.items():
        values = 100 * np.array([found[row] for found in results])
        rows.append(
            [text, f"{values.mean():.1f}", f"{values.min():.1f}-{values.max():.1f}"]
        )
    return markdown(["network", "accuracy, %", "seeds"], rows)


def main(argv):
    """Runs everything and prints the table."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}; try --help.")
    started, out = time.monotonic(), Path(FLAGS.out)
    sets = write_sets(out, FLAGS.videos, FLAGS.test_videos)
    cache = FrameCache(4 * 2**30)
    results = [one_seed(sets, out / "runs", seed, cache) for seed in range(FLAGS.seeds)]
    clips = len(sets["train"][0]), len(sets["test"][0])
    text = (
        f"{table(results)}\n{clips[0]} training clips, {clips[1]} test clips, "
        f"{FLAGS.seeds} seeds; {(time.monotonic() - started) / 60:.0f} minutes on "
        f"{platform.processor() or platform.machine()}.\n"
    )
    (out / "table.md").write_text(text)
    print(f"\n{text}")


if __name__ == "__main__":
    app.run(main)
