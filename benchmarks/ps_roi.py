"""PS-RoI pooling and proposals beside torchvision: milliseconds and their ratios.

    python benchmarks/ps_roi.py --torchvision-python /usr/bin/python3 [--turns 5]

where the interpreter named has torchvision (Debian: apt-get install
python3-torchvision). 300 RoIs on maps of 38 x 63 cells, as a frame of 1000 x 600 pixels
has them, k = 7, for 31 classes and for the 4 numbers of a box. Ours runs in plain
graphs of TensorFlow and takes the same time for RoIs of any size; the time of
torchvision grows with them, so there are three kinds: squares as large as the anchors,
boxes between two random points, and boxes of most of the frame.

Proposals are those of two frames from 38 x 63 x 15 anchors. Ours is the whole layer:
the best 6000, refined, clipped, suppressed at an overlap of 0.7, the best 300 of each
frame. torchvision suppresses the same boxes, made beforehand, by batched_nms, which
leaves all survivors.

Both sides live in processes of their own, use as many threads as there are cores, and
are measured in turn; the medians of the turns are printed. Without torchvision ours
runs alone.
"""

import argparse
import functools
import statistics
import sys
import time

import _turns as turns
import numpy as np

OURS, PEER = "ours", "torchvision"
ROWS, COLUMNS, BINS, STRIDE, ROIS = 38, 63, 7, 16, 300
HEIGHT, WIDTH = 600, 1000
REPEATS = 5  # runs of a task in a turn
KINDS = ("anchors", "random", "large")
CASES = {"classes": 31, "box": 4}
LAYERS = ("pooling", "align")
TOP, FRAMES, OVERLAP = 6000, 2, 0.7


def rois_of(kind):
    """RoIs [N, 4] of one kind."""
    rng, size = np.random.default_rng(0), np.array([WIDTH, HEIGHT])
    first, second = rng.uniform(size=(2, ROIS, 2)) * size
    if kind == "anchors":
        half = 8 * np.sqrt(2) ** rng.choice([1, 3, 5, 7, 9], (ROIS, 1))
        first, second = first - half, first + half
    elif kind == "large":
        first, second = 0.2 * first, size - 0.2 * second
    first, second = np.minimum(first, second), np.maximum(first, second)
    boxes = np.concatenate([first, second], -1)
    return np.clip(boxes, 0, [WIDTH, HEIGHT] * 2).astype(np.float32)


def maps_of(outputs):
    """Maps [1, H, W, outputs k^2]."""
    rng = np.random.default_rng(1)
    return rng.normal(size=(1, ROWS, COLUMNS, outputs * BINS**2)).astype(np.float32)


def heads():
    """Objectness and deltas of two frames: twenty objects, and noise."""
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:ROWS, :COLUMNS, :15][:2]
    objectness = rng.normal(size=(FRAMES, ROWS, COLUMNS, 15)) - 3
    for frame in objectness:
        for _ in range(20):
            cx, cy, anchor = (
                rng.uniform(0, COLUMNS),
                rng.uniform(0, ROWS),
                rng.integers(15),
            )
            near = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 8)
            frame += 6 * near * np.exp(-((np.arange(15) - anchor) ** 2) / 4)
    deltas = rng.normal(size=(FRAMES, ROWS, COLUMNS, 60)) * 0.1
    return objectness.astype(np.float32), deltas.astype(np.float32)


def anchor_boxes():
    """The anchors in NumPy, [H * W * 15, 4]."""
    sides = 16 * np.sqrt(2) ** np.array([1, 3, 5, 7, 9])
    w = np.concatenate([sides, sides * np.sqrt(2), sides / np.sqrt(2)])
    h = np.concatenate([sides, sides / np.sqrt(2), sides * np.sqrt(2)])
    y, x = (np.mgrid[:ROWS, :COLUMNS] + 0.5) * STRIDE
    shapes = np.stack([-w, -h, w, h], -1) / 2
    return (np.stack([x, y, x, y], -1)[:, :, None] + shapes).reshape(-1, 4)


def refined():
    """What there is to suppress: boxes, scores and frames of the best anchors."""
    objectness, deltas = heads()
    anchors, found = anchor_boxes(), []
    for i in range(FRAMES):
        scores = objectness[i].reshape(-1)
        best = np.argsort(-scores, kind="stable")[:TOP]
        box, delta = anchors[best], deltas[i].reshape(-1, 4)[best]
        size = box[:, 2:] - box[:, :2]
        centre = box[:, :2] + size / 2 + delta[:, :2] * size
        half = size * np.exp(delta[:, 2:]) / 2
        box = np.concatenate([centre - half, centre + half], -1)
        box = np.clip(box, 0, [WIDTH, HEIGHT] * 2)
        large = ((box[:, 2:] - box[:, :2]) >= 16).all(1)
        found.append((box[large], scores[best][large], np.full(large.sum(), i)))
    boxes, scores, frames = (np.concatenate(x) for x in zip(*found, strict=True))
    return boxes.astype(np.float32), scores, frames


def tasks():
    """Names of everything that is measured."""
    names = [
        f"{layer}_{case}_{kind}_{task}"
        for layer in LAYERS
        for case in CASES
        for kind in KINDS
        for task in ("forward", "both")
    ]
    return [*names, "proposals"]


class Tasks:
    """A side: a task is an attribute, which runs it.

    Args:
        runs: {task: function}. version: of its libraries.
    """

    def __init__(self, runs, version):
        self._runs, self._version = runs, version
        for name, run in runs.items():
            setattr(self, name, functools.partial(self._repeat, run))

    def _repeat(self, run):
        for _ in range(REPEATS):
            run()

    def about(self):
        """Versions."""
        return self._version

    def answers(self):
        """A part of what the forward passes answer, bins last."""
        names = [name for name in self._runs if name.endswith("forward")]
        return [self._runs[name]().reshape(-1)[::101].tolist() for name in names]


def make_ours():
    """Our side."""
    import tensorflow as tf

    from zoo import layers

    runs = {}
    kinds = {"pooling": layers.PSRoIPooling, "align": layers.PSRoIAlign}
    for name, case, kind in _cases():
        layer = kinds[name](CASES[case], BINS)
        maps, rois = tf.constant(maps_of(CASES[case])), tf.constant(rois_of(kind)[None])
        forward, both = _ours(tf, layer, maps, rois)
        runs[f"{name}_{case}_{kind}_forward"] = forward
        runs[f"{name}_{case}_{kind}_both"] = both
    select = layers.Proposals(ROIS, TOP, OVERLAP)
    propose = tf.function(lambda *x: select(list(x)))
    inputs = [*map(tf.constant, heads()), tf.zeros((FRAMES, HEIGHT, WIDTH, 3))]
    runs["proposals"] = lambda: propose(*inputs)[0].numpy()
    return Tasks(runs, f"TensorFlow {tf.__version__}")


def _cases():
    return [(n, c, k) for n in LAYERS for c in CASES for k in KINDS]


def _ours(tf, layer, maps, rois):
    pool = tf.function(lambda maps, rois: layer([maps, rois]))

    @tf.function
    def step(maps, rois):
        with tf.GradientTape() as tape:
            tape.watch(maps)
            y = layer([maps, rois])
        return y, tape.gradient(y, maps)

    def forward():
        return np.moveaxis(pool(maps, rois)[0].numpy(), -1, 1)

    return forward, lambda: step(maps, rois)[1].numpy()


def make_peer():
    """The side of torchvision, maps channels first as it takes them."""
    import torch
    import torchvision

    torch.set_num_threads(turns.CORES)
    ops, runs = torchvision.ops, {}
    for name, case, kind in _cases():
        maps = np.moveaxis(maps_of(CASES[case]), -1, 1).copy()
        maps = torch.from_numpy(maps).requires_grad_()
        rois = [torch.from_numpy(rois_of(kind))]
        if name == "pooling":
            pool = functools.partial(ops.ps_roi_pool, maps, rois, BINS, 1 / STRIDE)
        else:
            pool = functools.partial(ops.ps_roi_align, maps, rois, BINS, 1 / STRIDE, 2)
        forward, both = _peer(torch, pool, maps)
        runs[f"{name}_{case}_{kind}_forward"] = forward
        runs[f"{name}_{case}_{kind}_both"] = both
    boxes = [torch.from_numpy(x) for x in refined()]
    runs["proposals"] = lambda: ops.batched_nms(*boxes, OVERLAP).numpy()
    return Tasks(runs, f"PyTorch {torch.__version__}, {PEER} {torchvision.__version__}")


def _peer(torch, pool, maps):
    def forward():
        with torch.no_grad():
            return pool().numpy()

    def both():
        maps.grad = None
        y = pool()
        y.backward(torch.ones_like(y))
        return maps.grad.numpy()

    return forward, both


def has_torchvision(python):
    """Whether an interpreter can import torchvision; says what to do if not."""
    reason = turns.why_missing(python, "numpy, torchvision")
    if reason is not None:
        print(
            f"{PEER} is missing in {python} ({reason}), so ours runs alone. Debian has "
            "it as python3-torchvision: then --torchvision-python /usr/bin/python3."
        )
    return reason is None


def measure(sides, count):
    """{task: {side: milliseconds of every turn}}."""
    times = {task: {side.name: [] for side in sides} for task in tasks()}
    for task, row in times.items():
        for _ in range(count):
            for side in sides:
                milliseconds = side.ask(f"time {task}") / REPEATS * 1e3
                row[side.name].append(milliseconds)
    return times


def report(times, names):
    """Prints a row of medians for every task, and ours against the peer."""
    columns = "".join(f"{name:>14}" for name in names)
    print(f"\n{'milliseconds':38}{columns}  times as fast")
    for task, row in times.items():
        medians = [statistics.median(row[name]) for name in names]
        text = "".join(f"{median:14.2f}" for median in medians)
        ratio = f"{medians[1] / medians[0]:15.2f}" if len(medians) > 1 else ""
        print(f"{task.replace('_', ', '):38}{text}{ratio}")


def compare(ours, peer):
    """Prints by how much the forward passes differ."""
    pairs = zip(ours.ask("answers"), peer.ask("answers"), strict=True)
    worst = max(np.abs(np.subtract(a, b)).max() for a, b in pairs)
    print(f"outputs differ by at most {worst:.1e}")


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=turns.positive, default=5)
    parser.add_argument(
        "--torchvision-python",
        default=sys.executable,
        help="interpreter that has torchvision",
    )
    parser.add_argument("--serve", choices=(OURS, PEER), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        turns.serve(make_ours if options.serve == OURS else make_peer)
        return
    begin = time.perf_counter()
    with turns.Side(OURS, [sys.executable, __file__, "--serve", OURS]) as ours:
        if has_torchvision(options.torchvision_python):
            command = [options.torchvision_python, __file__, "--serve", PEER]
            with turns.Side(PEER, command) as peer:
                turns.print_versions([ours, peer])
                compare(ours, peer)
                report(measure([ours, peer], options.turns), [OURS, PEER])
        else:
            turns.print_versions([ours])
            report(measure([ours], options.turns), [OURS])
    print(f"\n{time.perf_counter() - begin:.0f} s in all")


if __name__ == "__main__":
    main()
