"""Trains the tiny networks of the demo and publishes them into the package.

    python benchmarks/experiments/packaged_weights.py --work demo

Takes what the demo has trained in --work, or trains it (6 minutes), measures it on the
demo's test videos and writes zoo/assets/weights/NETWORK.synthetic_scenes. Run it when
the architecture of these networks, the recipe or the scenes have changed; a test holds
the records to what they claim.

Source: thesis 7.5, in miniature.
"""

import dataclasses
from pathlib import Path

import numpy as np
from absl import app, flags

from zoo import demo
from zoo.weights import publishing
from zoo.weights.record import Metric
from zoo.weights.records import packaged

FLAGS = flags.FLAGS
flags.DEFINE_string("work", "demo", "Folder of the demo, finished or to be begun.")
flags.DEFINE_string("to", str(packaged.FOLDER), "Folder of the published weights.")

SUMMARIES = {
    "synthetic_scenes": "T-ResNet on the synthetic scenes of the demo",
    "synthetic_scenes_spatial": "frame by frame on the synthetic scenes, near chance",
}
QUICK = 5  # videos per class and camera, of which a test repeats the measurement
ROUNDING = 0.005  # two answers of 400; of 80 the test allows one


def publish(work, target):
    """Publishes both networks of a demo; returns their folders.

    Args:
        work: folder of the demo. target: folder of the published weights.
    """
    results = demo.run(work, videos=150, test_videos=25)
    return [
        publishing.publish(
            Path(work) / recipe / "last",
            target,
            "synthetic_scenes",
            summary=SUMMARIES[recipe],
            licence="Apache-2.0, as the code; trained on data that the code makes",
            origin="python -m zoo.demo",
            metrics=claims(results[network]),
        )
        for network, recipe in demo.NETWORKS.items()
    ]


def claims(results):
    """A `Metric` for each camera, for both, and for the first videos of both."""
    found = [
        (f"{group or 'both'} camera{'' if group else 's'}", results, group)
        for group in (None, *results.group_names)
    ]
    found.append((f"first {QUICK} of each", first(results, QUICK), None))
    return tuple(
        Metric(
            "accuracy",
            chosen.accuracy(group),
            f"synthetic scenes, seed 1, {what}",
            "12 frames of 32x32, raw scores averaged",
            "measured when published",
            chosen.count(group),
            max(ROUNDING, 1 / chosen.count(group)),
        )
        for what, chosen, group in found
    )


def first(results, count):
    """The results on the first videos of each class and camera.

    Args:
        results: on scenes whose names end in _c01, _c02 and so on. count: of videos.
    """
    numbers = [int(Path(path).stem.rpartition("_c")[2]) for path in results.paths]
    chosen = np.array(numbers) <= count
    return dataclasses.replace(
        results,
        paths=tuple(p for p, kept in zip(results.paths, chosen, strict=True) if kept),
        labels=results.labels[chosen],
        groups=tuple(g for g, kept in zip(results.groups, chosen, strict=True) if kept),
        scores=results.scores[chosen],
    )


def main(argv):
    """Entry point of the script."""
    del argv
    for folder in publish(FLAGS.work, FLAGS.to):
        size = sum(f.stat().st_size for f in folder.iterdir())
        print(f"{folder}: {size / 2**20:.2f} MiB")


if __name__ == "__main__":
    app.run(main)
