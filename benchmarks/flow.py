"""TVL1Flow beside OpenCV's TV-L1 and DIS: milliseconds per pair and endpoint error.

    python benchmarks/flow.py [--turns 3] [--clips FOLDER]

Pairs of 340 x 256 are cut from two photographs (scikit-learn's) and moved by known
fields: shifts of 3, 11 and 20 pixels, a rotation, a zoom, an affine map, a smooth bump
and a disc with sharp edges, of which the mean endpoint error is taken, a border of 20
pixels left out. All sides compute every pair once per turn, one side after the other;
the median of the turns is printed. OpenCV takes pairs one by one, on all cores, as it
does by default; ours takes 8 at a time, compiled by XLA, and one at a time, compiled
and not. "same iterations" is OpenCV's TV-L1 with our pyramid, warps and iterations.

With --clips, a folder of videos, the flow of real frames is compared: the median
difference between ours and OpenCV's, and for each the mean absolute difference between
the first frame and the second one warped back.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _turns as turns
import cv2
import numpy as np
from sklearn.datasets import load_sample_images

HEIGHT, WIDTH, BORDER, BATCH = 256, 340, 20, 8
CLIP_PAIRS = 3  # per video, equally spaced


def fields():
    """Displacements by name, [H, W, 2] in pixels."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    x, y = x - WIDTH / 2, y - HEIGHT / 2
    turn = np.deg2rad(4)
    bump = np.exp(-(x**2 + y**2) / (2 * 40**2))
    disc = (x**2 + y**2 < 60**2).astype(np.float32)
    ones = np.ones_like(x)
    found = {
        "shift 3": (2.4 * ones, -1.6 * ones),
        "shift 11": (-10.3 * ones, 5.2 * ones),
        "shift 20": (18.2 * ones, 8.1 * ones),
        "rotation": (
            np.cos(turn) * x - np.sin(turn) * y - x,
            np.sin(turn) * x + np.cos(turn) * y - y,
        ),
        "zoom": (0.06 * x, 0.06 * y),
        "affine": (0.02 * x - 0.015 * y + 1.3, 0.01 * x + 0.025 * y - 2.1),
        "bump": (8 * bump, -5 * bump),
        "disc": (1.5 + 6 * disc, -0.7 - 4 * disc),
    }
    return {
        name: np.stack(field, -1).astype(np.float32) for name, field in found.items()
    }


def synthetic_pairs():
    """(name, first, second, field) of every photograph and field, uint8 RGB."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    corners = {"china": (115, 180), "flower": (75, 120)}
    photographs = zip(corners.items(), load_sample_images().images, strict=True)
    for (photograph, (top, left)), picture in photographs:
        second = picture[top : top + HEIGHT, left : left + WIDTH]
        for name, field in fields().items():
            places = x + left + field[..., 0], y + top + field[..., 1]
            first = cv2.remap(picture, *places, cv2.INTER_LANCZOS4)
            yield f"{photograph}, {name}", first, second, field


class OpenCV:
    """A peer: from RGB pairs, one after the other.

    Args:
        algorithm: function that makes OpenCV's object.
    """

    def __init__(self, algorithm):
        self._algorithm = algorithm

    def __call__(self, firsts, seconds):
        flow = []
        for pair in zip(firsts, seconds, strict=True):
            grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in pair]
            flow.append(self._algorithm().calc(*grey, None))
        return np.stack(flow)


class Ours:
    """Our layer, in batches.

    Args:
        preset: of the layer. batch: pairs at a time. compiled: by XLA.
    """

    def __init__(self, preset, batch, compiled):
        import tensorflow as tf

        from zoo.layers import TVL1Flow

        layer = TVL1Flow(preset)
        # Uncompiled as exports are: one graph for all shapes.
        images = tf.TensorSpec((None, None, None, 3), tf.uint8)
        self._batch = batch
        self._run = tf.function(
            lambda first, second: layer([first, second]),
            jit_compile=compiled,
            input_signature=None if compiled else [images, images],
        )

    def __call__(self, firsts, seconds):
        steps = range(0, len(firsts), self._batch)
        batches = [slice(i, i + self._batch) for i in steps]
        return np.concatenate(
            [self._run(firsts[b], seconds[b]).numpy() for b in batches]
        )


def same_iterations():
    """OpenCV's TV-L1 with as many scales, warps and iterations as ours."""
    from zoo.layers.tv_l1 import PRESETS

    settings = PRESETS["default"]
    algorithm = cv2.optflow.DualTVL1OpticalFlow_create()
    algorithm.setScaleStep(settings["scale_step"])
    algorithm.setScalesNumber(settings["scales"])
    algorithm.setWarpingsNumber(settings["warps"])
    algorithm.setInnerIterations(settings["iterations"])
    algorithm.setOuterIterations(1)
    return algorithm


DEFAULT, SAME = "OpenCV TV-L1, default", "OpenCV TV-L1, same iterations"


def make_sides():
    """All sides by name; OpenCV's TV-L1 first."""
    dis = cv2.DISOPTICAL_FLOW_PRESET_MEDIUM
    return {
        DEFAULT: OpenCV(cv2.optflow.DualTVL1OpticalFlow_create),
        SAME: OpenCV(same_iterations),
        "OpenCV DIS, medium": OpenCV(lambda: cv2.DISOpticalFlow_create(dis)),
        "ours": Ours("default", BATCH, True),
        "ours, one at a time": Ours("default", 1, True),
        "ours, uncompiled": Ours("default", BATCH, False),
        "ours, fast": Ours("fast", BATCH, True),
        "ours, fast, uncompiled": Ours("fast", BATCH, False),
    }


def measure(sides, firsts, seconds, count):
    """({side: seconds of every turn}, {side: of the first call}, {side: flow})."""
    times, first_calls, flows = {name: [] for name in sides}, {}, {}
    for name, side in sides.items():
        if isinstance(side, Ours):
            begin = time.perf_counter()
            side(firsts[:BATCH], seconds[:BATCH])
            first_calls[name] = time.perf_counter() - begin
    for _ in range(count):
        for name, side in sides.items():
            begin = time.perf_counter()
            flows[name] = side(firsts, seconds)
            times[name].append(time.perf_counter() - begin)
    return times, first_calls, flows


def endpoint_errors(flow, field):
    """Mean endpoint error of every pair, [N]."""
    distance = np.linalg.norm(flow - field, axis=-1)
    return distance[:, BORDER:-BORDER, BORDER:-BORDER].mean((1, 2))


def report(pairs, sides, count):
    """Measures the synthetic pairs and prints two tables."""
    names = [name for name, *_ in pairs]
    firsts, seconds, truth = (np.stack(x) for x in list(zip(*pairs, strict=True))[1:])
    times, first_calls, flows = measure(sides, firsts, seconds, count)
    errors = {name: endpoint_errors(flow, truth) for name, flow in flows.items()}
    per_pair = {k: statistics.median(v) / len(names) * 1e3 for k, v in times.items()}
    print(f"\n{'':30}  ms per pair  times default  times same  error  first call")
    for name, ms in per_pair.items():
        called = f"{first_calls[name]:6.1f} s" if name in first_calls else ""
        print(
            f"{name:30}  {ms:11.1f}  {per_pair[DEFAULT] / ms:13.1f}  "
            f"{per_pair[SAME] / ms:10.1f}  {errors[name].mean():5.3f}  {called}"
        )
    shown = [DEFAULT, SAME, "OpenCV DIS, medium", "ours", "ours, fast"]
    print("\nendpoint error in pixels: " + "; ".join(shown))
    for i, name in enumerate(names):
        print(f"  {name:18}" + "".join(f"{errors[k][i]:9.3f}" for k in shown))
    better = np.minimum(errors[DEFAULT], errors[SAME])
    worse = [n for n, e, b in zip(names, errors["ours"], better, strict=True) if e > b]
    print(
        f"ours is worse than the better TV-L1 of OpenCV on: {', '.join(worse) or '-'}"
    )


def real_pairs(folder):
    """(name, first, second) of equally spaced pairs of every readable video."""
    for path in sorted(Path(folder).iterdir()):
        capture, frames = cv2.VideoCapture(str(path)), []
        while (read := capture.read())[0]:
            frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
        if len(frames) < 2:
            continue
        for i in np.linspace(0, len(frames) - 2, CLIP_PAIRS).astype(int):
            yield (
                path.name,
                *(
                    cv2.resize(f, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
                    for f in frames[i : i + 2]
                ),
            )


def photometric(first, second, flow):
    """Mean absolute grey difference of the first frame and the second warped back."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    grey = [
        cv2.cvtColor(i, cv2.COLOR_RGB2GRAY).astype(np.float32) for i in (first, second)
    ]
    warped = cv2.remap(grey[1], x + flow[..., 0], y + flow[..., 1], cv2.INTER_CUBIC)
    return np.abs(warped - grey[0])[BORDER:-BORDER, BORDER:-BORDER].mean()


def report_clips(folder, sides):
    """Compares the flow of real frames."""
    print(f"\n{'real frames':30}  median difference  photometric error: OpenCV    ours")
    pairs = list(real_pairs(folder))
    names, firsts, seconds = zip(*pairs, strict=True)
    theirs = sides[DEFAULT](firsts, seconds)
    ours = sides["ours"](np.stack(firsts), np.stack(seconds))
    for name in dict.fromkeys(names):
        chosen = [i for i, n in enumerate(names) if n == name]
        difference = np.linalg.norm(ours[chosen] - theirs[chosen], axis=-1)
        residuals = [
            np.mean([photometric(firsts[i], seconds[i], flow[i]) for i in chosen])
            for flow in (theirs, ours)
        ]
        print(
            f"{name:30}  {np.median(difference):14.3f} px  "
            f"{residuals[0]:26.2f}  {residuals[1]:6.2f}"
        )


def main():
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=turns.positive, default=3)
    parser.add_argument("--clips", help="folder of videos")
    options = parser.parse_args()
    print(f"{turns.machine()}, OpenCV {cv2.__version__}, {WIDTH} x {HEIGHT} pixels")
    sides = make_sides()
    report(list(synthetic_pairs()), sides, options.turns)
    if options.clips:
        report_clips(options.clips, sides)


if __name__ == "__main__":
    main()
