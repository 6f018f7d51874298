"""What tracking adds to detection, and how many frames a second are followed.

    python benchmarks/detect_track.py [--model resnet101] [--turns 3]

Frames of 600 x 1000, as in the thesis, through `candidates` of R-FCN and of Detect &
Track with random weights, in chunks of eight frames as `zoo track` takes them; both
networks take turns in one process, and the median of the turns counts. Then the whole
of `zoo track` but for decoding and writing, detection and linking of 30 classes, at
tau = 1 and 10. The parts that tracking is made of have benchmarks of their own:
correlation.py, ps_roi.py and tubes.py.

The thesis reports 127 ms per frame for detection and 141 ms with tracking, 11 % more,
on a Titan X, and 46 ms for linking on one core of a CPU (8.5.3).
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _turns as turns
import numpy as np

HEIGHT, WIDTH = 600, 1000
CHUNK = 8


def detectors(name):
    """{"R-FCN", "D&T": FrameDetector} of networks of candidates."""
    import zoo
    from zoo.evaluation.tracker import FrameDetector
    from zoo.models.object_detector import candidates

    rfcn = zoo.load(f"rfcn_{name}", frozen=False)
    # Values of a random network would grow from layer to layer, out of all range.
    turns.calibrate(rfcn, np.stack(frames(2))[None, :, :200, :320])
    models = {
        "R-FCN": rfcn,
        "D&T": zoo.load(f"detect_track_{name}", weights=rfcn),
    }
    return {
        key: FrameDetector(candidates(model, HEIGHT, WIDTH), chunk=CHUNK)
        for key, model in models.items()
    }


def frames(count):
    """Textured frames that move by a few pixels each, uint8 [T, H, W, 3]."""
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 256, (HEIGHT // 4, WIDTH // 2, 3), np.uint8)
    wide = np.repeat(np.repeat(wide, 4, 0), 4, 1)
    return [wide[:, 3 * t : 3 * t + WIDTH] for t in range(count)]


def per_frame(detect, clip):
    """Milliseconds of the network per frame of a clip."""
    begin = time.perf_counter()
    count = sum(1 for _ in detect(clip))
    return 1e3 * (time.perf_counter() - begin) / count


def tracked(detect, clip, stride):
    """(frames per second of the video, milliseconds of linking per frame looked at)."""
    from zoo.evaluation.tubes import TubeLinker

    detect.stride, linker, linking = stride, TubeLinker(), 0.0
    begin = last = time.perf_counter()
    looked_at = 0
    for pair in detect(clip):
        last = time.perf_counter()
        linker.update(*pair)
        linking += time.perf_counter() - last
        looked_at += 1
    last = time.perf_counter()
    linker.finish()
    linking += time.perf_counter() - last
    seconds = time.perf_counter() - begin
    detect.stride = 1
    return len(clip) / seconds, 1e3 * linking / looked_at


def main():
    """Measures and prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet101", help="resnet50 or resnet101")
    parser.add_argument("--turns", type=turns.positive, default=3)
    parser.add_argument(
        "--frames", type=turns.positive, default=20, help="of the tracked video"
    )
    options = parser.parse_args()
    both, clip = detectors(options.model), frames(max(options.frames, 2 * CHUNK))
    # The first frame of a clip has no chunk before it: as many frames as make two
    # chunks and the frame between, once it is warm.
    sample = clip[: 2 * CHUNK]
    times = {name: [] for name in both}
    for turn in range(options.turns + 1):
        for name, detect in both.items():
            elapsed = per_frame(detect, sample)
            if turn:  # the first one traces and warms up
                times[name].append(elapsed)
    print(f"{turns.machine()}\n")
    print(f"{options.model}, {HEIGHT} x {WIDTH}, chunks of {CHUNK} frames")
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, value in medians.items():
        print(f"  {name:6} {value:8.1f} ms per frame")
    added = medians["D&T"] / medians["R-FCN"] - 1
    print(f"  tracking adds {100 * added:.1f} % (thesis: 11 %)")
    for stride in (1, 10):
        rate, linking = tracked(both["D&T"], clip[: options.frames], stride)
        print(
            f"  zoo track, tau = {stride:2}: {rate:6.2f} frames of the video a second, "
            f"linking {linking:.2f} ms per frame looked at"
        )


if __name__ == "__main__":
    main()
