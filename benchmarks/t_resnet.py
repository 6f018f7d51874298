"""T-ResNet-50 on 16 x 224 x 224 beside the same network in plain PyTorch.

    python benchmarks/t_resnet.py [--clips 1] [--pairs 5] [--forward-only]
                                  [--torch-python PATH]

Forward pass and training step (cross-entropy, SGD with momentum) of
`zoo.load("t_resnet50")` and of `peers/t_resnet_torch.py`, in PyTorch's default layout
and in channels-last, with the same weights and the same clips; the largest difference
of their answers is printed first. Medians over the pairs and medians of the paired
ratios are printed. `_turns.py` says how the sides take turns, what a turn is, and how
the machine's convolution peak is measured.
"""

import tempfile
from pathlib import Path

import _turns as turns
import numpy as np

FRAMES, SIZE, CLASSES = 16, 224, 20


def draw_clips(clips):
    """Clips [B, T, H, W, 3] of both tasks and labels [B], the same in every process."""
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 255, (clips, FRAMES, SIZE, SIZE, 3)).astype("float32")
    labels = rng.integers(0, CLASSES, clips)
    return dict.fromkeys(turns.TASKS, values), labels


class Zoo(turns.Zoo):
    """Our side."""

    def __init__(self, clips, weights):
        import zoo

        model = zoo.load("t_resnet50", classifier_activation=None)
        super().__init__(model, *draw_clips(clips), weights)
        self._cost = 2e9 * zoo.info("t_resnet50").multiply_adds * clips

    def cost(self):
        """Floating-point operations of one forward pass."""
        return self._cost


def torch_side(clips, weights, last):
    """The peer's side."""
    from peers import resnet_torch
    from peers import t_resnet_torch as peer
    from torch.nn.functional import cross_entropy

    net = peer.TResNet50(CLASSES)
    with np.load(weights) as variables:
        peer.load(net, dict(variables))
    if last:
        resnet_torch.channels_last(net)
    return turns.Torch(net, cross_entropy, *draw_clips(clips), last)


SIDES = {
    turns.OURS: Zoo,
    turns.TORCH: lambda *arguments: torch_side(*arguments, last=False),
    turns.TORCH_LAST: lambda *arguments: torch_side(*arguments, last=True),
}


def compare(options, weights):
    """Measures all sides and prints the tables."""
    names = list(SIDES) if turns.has_torch(options.torch_python) else [turns.OURS]
    tasks = ["forward"] if options.forward_only else list(turns.TASKS)
    start = turns.starter(__file__, options, weights)
    with turns.opened(start, names) as sides:
        turns.print_versions(sides)
        cost = sides[0].ask("cost")
        print(
            f"t_resnet50 on {options.clips} x {FRAMES} x {SIZE} x {SIZE}: "
            f"{cost / 1e9:.1f} GFLOP forward, three times that in training; "
            f"median (range) of {options.pairs} pairs"
        )
        turns.compare_answers(sides)
        for task in tasks:
            factor = 3 if task == "step" else 1
            turns.report_peers(sides, task, options.pairs, cost * factor)
    turns.report_memory(start, names, tasks, options.clips)


def main():
    """Parses the command line, measures and prints."""
    options = turns.parser(__doc__, SIDES).parse_args()
    if options.serve:
        side = SIDES[options.serve]
        return turns.serve(lambda: side(options.clips, options.weights))
    with tempfile.TemporaryDirectory() as folder:
        return compare(options, str(Path(folder) / "weights.npz"))


if __name__ == "__main__":
    main()
