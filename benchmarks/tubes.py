"""Linking of detections to tubes beside the same in plain Python, box by box.

    python benchmarks/tubes.py [--frames 60] [--classes 30] [--turns 3]

A made-up video of moving boxes: every proposal has a probability for every class, as a
softmax gives it, and tracklets lead the first of them to the next frame. Three sizes:
25 proposals that suppression keeps almost entirely, which is linking alone; and 300
proposals, of which every class keeps 25, with 100 and with 300 tracklets. Ours links
all classes; plain Python, the reference of the tests, links one class and is charged
for it, on fewer frames. Both take turns on one core; the median of the turns is
printed, and the largest difference between their tubes.

The thesis reports 46 ms per frame for 30 classes, unoptimised, on one core (8.5.3).
"""

import os

# One core, as in the thesis; NumPy reads this when it is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import statistics
import sys
import time
from pathlib import Path

import _turns as turns
import numpy as np

SIZES = ((25, 25), (300, 100), (300, 300))  # proposals, tracklets
PLAIN_FRAMES = 6
HEIGHT, WIDTH = 600, 1000


def video(proposals, tracklets, frames, classes):
    """Detections and tracklets of a video, as `zoo.evaluation.tubes` takes them."""
    from zoo.evaluation.tubes import FrameDetections, Tracklets

    rng = np.random.default_rng(0)
    corner = rng.uniform(0, (WIDTH - 150, HEIGHT - 150), (proposals, 2))
    start = np.hstack([corner, corner + rng.uniform(30, 150, (proposals, 2))])
    speed = np.tile(rng.normal(0, 2, (proposals, 2)), 2)
    detections, tracks = [], []
    for t in range(frames):
        boxes = start + t * speed + rng.normal(0, 1, start.shape)
        scores = rng.dirichlet(np.full(classes + 1, 0.1), proposals)[:, 1:]
        detections.append(FrameDetections(t, boxes, scores.clip(1e-6)))
        if t:
            before = (start + (t - 1) * speed)[:tracklets]
            tracks.append(Tracklets(before, before + speed[:tracklets]))
    return detections, tracks


def stages(detections, tracklets):
    """Seconds of reduction, links and paths, and of the whole."""
    from zoo.evaluation.candidates import predecessors, reduce
    from zoo.evaluation.paths import disjoint_paths
    from zoo.evaluation.tubes import LinkOptions, link

    options, clock = LinkOptions(), time.perf_counter
    times = [clock()]
    found = [reduce(frame, options) for frame in detections]
    times.append(clock())
    links = [
        predecessors(*pair, options)
        for pair in zip([None, *found], found, [None, *tracklets], strict=False)
    ]
    times.append(clock())
    list(disjoint_paths(found, links))
    times.append(clock())
    link(detections, tracklets)
    times.append(clock())
    return np.diff(times)


def online(detections, tracklets):
    """Seconds of the causal version."""
    from zoo.evaluation.online_tubes import OnlineLinker

    linker, begin = OnlineLinker(), time.perf_counter()
    for pair in zip(detections, [None, *tracklets], strict=True):
        linker.update(*pair)
    return time.perf_counter() - begin


def plain(detections, tracklets):
    """Seconds of plain Python for the first class and the tubes that it finds."""
    from tests import tube_references
    from zoo.evaluation.tubes import FrameDetections

    detections = [
        FrameDetections(d.frame, d.boxes, d.scores[:, :1])
        for d in detections[:PLAIN_FRAMES]
    ]
    begin = time.perf_counter()
    tubes = tube_references.video_tubes(detections, tracklets[: PLAIN_FRAMES - 1])
    return time.perf_counter() - begin, tubes


def difference(detections, tracklets, reference):
    """Largest difference of a box, in pixels, and of a score; infinite if paths do."""
    from zoo.evaluation.tubes import link

    tubes = link(detections[:PLAIN_FRAMES], tracklets[: PLAIN_FRAMES - 1])
    tubes = [tube for tube in tubes if tube.label == 0]
    if len(tubes) != len(reference):
        return float("inf"), float("inf")
    pairs = list(zip(tubes, reference, strict=True))
    boxes = max(np.abs(tube.boxes - boxes).max() for tube, (*_, boxes, _) in pairs)
    scores = max(np.abs(tube.scores - scores).max() for tube, (*_, scores) in pairs)
    return boxes, scores


def report(proposals, tracklets, options):
    """Measures one size and prints its rows."""
    frames, classes = options.frames, options.classes
    data = video(proposals, tracklets, frames, classes)
    ours, causal, peer = [], [], []
    for _ in range(options.turns):
        seconds, tubes = plain(*data)
        peer.append(1e3 * seconds / PLAIN_FRAMES)
        ours.append(1e3 * stages(*data) / frames)
        causal.append(1e3 * online(*data) / frames)
    reduction, links, paths, whole = np.median(ours, axis=0)
    naive, causal = statistics.median(peer), statistics.median(causal)
    boxes, scores = difference(*data, tubes)
    sizes = f"{proposals} proposals, {tracklets} tracklets, {classes} classes"
    print(f"\n{sizes}: milliseconds per frame")
    print(f"  suppression and voting {reduction:9.3f}")
    print(f"  links of tracklets     {links:9.3f}")
    print(f"  paths                  {paths:9.3f}")
    print(f"  whole video, offline   {whole:9.3f}   {whole / classes:.4f} per class")
    print(f"  frame by frame, online {causal:9.3f}   {causal / classes:.4f} per class")
    print(
        f"  plain Python           {naive * classes:9.0f}   {naive:.1f} per class, "
        f"{naive * classes / whole:.0f} x as long"
    )
    print(f"  largest difference: {boxes:.1e} px, {scores:.1e} in score")


def main():
    """Reads the command line and measures every size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=turns.positive, default=60)
    parser.add_argument("--classes", type=turns.positive, default=30)
    parser.add_argument("--turns", type=turns.positive, default=3)
    options = parser.parse_args()
    # The reference lies in the tests, which are no installed package.
    sys.path.append(str(Path(__file__).resolve().parent.parent))
    print(f"{turns.machine()}, NumPy {np.__version__}, one core used")
    for size in SIZES:
        report(*size, options)


if __name__ == "__main__":
    main()
