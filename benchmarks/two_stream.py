"""ST-MulNet-50 beside the same network in PyTorch, and beside two plain streams.

    python benchmarks/two_stream.py [--clips 1] [--pairs 5] [--forward-only]
                                    [--torch-python PATH] [--parts peers overhead]
                                    [--model st_mulnet50]

The forward pass is that of testing: 25 chunks (an RGB frame with its stack of flow) of
256 x 340, fully convolutional. The training step is that of thesis 5.4.1: 5 chunks of
224 x 224 per clip, the cross-entropies of both towers summed, SGD with momentum.

- peers: `zoo.load("st_mulnet50")` and `peers/two_stream_torch.py`, in PyTorch's default
  layout and in channels-last, with the same weights and clips; the largest difference
  of their answers is printed first.
- overhead: `st_mulnet50` and `two_stream_resnet50`, the same streams without gates and
  temporal convolutions. The ratio of their times over the ratio of their multiply-adds
  is what the connections cost beyond their arithmetic.

Medians over the pairs and medians of the paired ratios are printed. `_turns.py` says
how the sides take turns, what a turn is, and how the machine's convolution peak is
measured. Weights are random, with moving statistics that fit them.
"""

import statistics
import tempfile
from pathlib import Path

import _turns as turns
import numpy as np

CLASSES = 101
MODELS = {"st_mulnet50": "50", "st_mulnet26_tiny": "26"}  # and their ResNets
CHUNKS = {"forward": (25, 256, 340), "step": (5, 224, 224)}
PLAIN = "two plain streams"
PARTS = ("peers", "overhead")


def draw_clips(clips):
    """Clips of both tasks and labels [B], the same in every process."""
    rng = np.random.default_rng(0)
    inputs = {
        task: {
            "rgb": rng.uniform(0, 255, (clips, *size, 3)).astype("float32"),
            "flow": rng.normal(0, 5, (clips, *size, 20)).astype("float32"),
        }
        for task, size in CHUNKS.items()
    }
    return inputs, rng.integers(0, CLASSES, clips)


def without_connections(model):
    """The name of the two plain streams of a model."""
    return model.replace("st_mulnet", "two_stream_resnet")


class Zoo(turns.Zoo):
    """Our side."""

    def __init__(self, model, clips, weights):
        import keras

        import zoo
        from zoo.understanding import multiply_adds

        keras.utils.set_random_seed(0)
        net = zoo.load(model, num_classes=CLASSES, classifier_activation=None)
        super().__init__(net, *draw_clips(clips), weights)
        forward, step = (2 * clips * multiply_adds(net, c) for c in CHUNKS.values())
        self._costs = {"forward": forward, "step": 3 * step}

    def costs(self):
        """Floating-point operations of both tasks, a step being three passes."""
        return self._costs

    def randomise(self):
        """Draws weights, and takes the moving statistics from the training clips."""
        super().randomise()
        turns.calibrate(self._model, self._inputs["step"])


def plain_side(model, clips, weights):
    """Our side without connections."""
    return Zoo(without_connections(model), clips, weights)


def torch_side(model, clips, weights, last):
    """The peer's side."""
    from peers import resnet_torch
    from peers import two_stream_torch as peer

    net = peer.STMulNet(MODELS[model], CLASSES)
    with np.load(weights) as variables:
        peer.load(net, dict(variables))
    if last:
        resnet_torch.channels_last(net)
    return turns.Torch(net, peer.loss, *draw_clips(clips), last)


SIDES = {
    turns.OURS: Zoo,
    turns.TORCH: lambda *arguments: torch_side(*arguments, last=False),
    turns.TORCH_LAST: lambda *arguments: torch_side(*arguments, last=True),
    PLAIN: plain_side,
}


def compare_peers(options, start, tasks):
    """Measures ours and the peers and prints the tables."""
    names = [turns.OURS]
    if turns.has_torch(options.torch_python):
        names += turns.PEERS
    with turns.opened(start, names) as sides:
        turns.print_versions(sides)
        costs = sides[0].ask("costs")
        print_sizes(options, costs)
        turns.compare_answers(sides)
        for task in tasks:
            turns.report_peers(sides, task, options.pairs, costs[task])
    turns.report_memory(start, names, tasks, options.clips)


def print_sizes(options, costs):
    """Prints what is measured."""
    sizes = (
        f"{turns.TASKS[task]} on {options.clips} x "
        f"{' x '.join(map(str, size))}, {costs[task] / 1e9:.1f} GFLOP"
        for task, size in CHUNKS.items()
    )
    print(
        f"{options.model}: {'; '.join(sizes)}; median (range) of {options.pairs} pairs"
    )


def compare_plain(options, start, tasks):
    """Measures ours with and without connections and prints the tables."""
    print(
        f"\n{options.model} (ours) and {without_connections(options.model)} ({PLAIN})"
    )
    with turns.opened(start, [turns.OURS, PLAIN]) as sides:
        ours, plain = sides
        plain.ask("randomise")
        turns.print_versions(sides)
        costs = {side.name: side.ask("costs") for side in sides}
        for task in tasks:
            report_overhead(sides, task, options.pairs, costs)


def report_overhead(sides, task, pairs, costs):
    """Measures a task and prints its rows and the overhead of the connections."""
    costs = {name: of_side[task] for name, of_side in costs.items()}
    times, peaks, others = turns.measure(sides, task, pairs)
    turns.report(task, times, peaks, others, costs, lambda name: "")
    ratios = turns.ratios(times, turns.OURS, PLAIN)
    added = costs[turns.OURS] / costs[PLAIN]
    beyond = [100 * (ratio / added - 1) for ratio in ratios]
    print(
        f"  time {statistics.median(ratios):.3f} x, multiply-adds {added:.3f} x: "
        f"overhead beyond the added arithmetic {statistics.median(beyond):+.1f} % "
        f"({min(beyond):+.1f} to {max(beyond):+.1f})"
    )


def compare(options, weights):
    """Measures the parts asked for."""
    tasks = ["forward"] if options.forward_only else list(turns.TASKS)
    start = turns.starter(__file__, options, weights, "--model", options.model)
    if "peers" in options.parts:
        compare_peers(options, start, tasks)
    if "overhead" in options.parts:
        compare_plain(options, start, tasks)


def main():
    """Parses the command line, measures and prints."""
    parser = turns.parser(__doc__, SIDES)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--model", choices=MODELS, default="st_mulnet50")
    options = parser.parse_args()
    if options.serve:
        side, arguments = SIDES[options.serve], (options.clips, options.weights)
        return turns.serve(lambda: side(options.model, *arguments))
    with tempfile.TemporaryDirectory() as folder:
        return compare(options, str(Path(folder) / "weights.npz"))


if __name__ == "__main__":
    main()
