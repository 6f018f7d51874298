"""Correlation beside TensorFlow Addons' kernel and beside a plain matrix product.

    python benchmarks/correlation.py [--turns 3] [--addons-python PATH]

Maps of the size that the thesis' network has for frames of 600 x 1000 pixels, one pair
of them; d = 8. "with gradient" adds the gradients for both maps. The sides:

- ours, as one graph for all sizes as exports are, and compiled by XLA;
- loop: for every displacement shift, multiply, sum;
- product: the matrix product [outputs, C] x [C, displacements] has as many useful
  multiplications and none that is not; with gradient three of these;
- Addons' CorrelationCost, in both data formats, in an environment of its own:

      python3.11 -m venv addons
      addons/bin/pip install tensorflow==2.15.0 tensorflow-addons==0.23.0 'numpy<2'

  With a stride, Addons looks at as many cells, but others, than Caffe's layer and
  ours; see tests/record_addons_correlation.py. Answers are compared where both look at
  the same.

Addons lives in a process of its own, the others in a second one; in every turn each
side runs once untimed and once timed, one after the other. Medians over the turns are
printed.
"""

import argparse
import statistics
import sys
from pathlib import Path

import _turns as turns
import numpy as np

# name: (maps, max_displacement, stride, displacement stride)
SETTINGS = {
    "conv5 and conv4": ((1, 38, 63, 1024), 8, 1, 1),
    "conv3 of the thesis": ((1, 75, 125, 512), 8, 2, 1),
    "conv3 as released": ((1, 75, 125, 512), 8, 2, 2),
}
TASKS = {"forward": "forward", "both": "with gradient"}
PLAIN, COMPILED, LOOP, PRODUCT = "ours", "ours, compiled", "loop", "product"
OURS = (PLAIN, COMPILED, LOOP, PRODUCT)
LAST, FIRST = "Addons, channels last", "Addons, channels first"
ADDONS = (LAST, FIRST)
SAMPLES = 1000


def draw(shape):
    """Two maps, the same in every process."""
    return np.random.default_rng(0).random((2, *shape), np.float32)


def loop(first, second, displacement, stride, step):
    """Shift, multiply, sum: as many operations as displacements."""
    import tensorflow as tf

    radius = displacement // step
    border = [radius * step] * 2
    padded = tf.pad(second, [[0, 0], border, border, [0, 0]])
    height, width = first.shape[1:3]
    first = first[:, ::stride, ::stride]
    shifts = range(0, 2 * radius * step + 1, step)
    found = [
        tf.reduce_mean(
            first * padded[:, p : p + height : stride, q : q + width : stride], -1
        )
        for p in shifts
        for q in shifts
    ]
    return tf.stack(found, -1)


def runs_of(function, inputs, **options):
    """{task: what runs it} of a function of two tensors."""
    import tensorflow as tf

    def both(first, second):
        with tf.GradientTape() as tape:
            tape.watch([first, second])
            y = function(first, second)
        return tape.gradient(y, [first, second])

    graphs = {
        "forward": tf.function(function, **options),
        "both": tf.function(both, **options),
    }
    return {task: lambda g=graph: g(*inputs) for task, graph in graphs.items()}


def our_sides(maps, displacement, stride, step):
    """{side: {task: what runs it}} in our own environment."""
    import tensorflow as tf

    from zoo.layers import Correlation

    inputs = [tf.constant(x) for x in maps]
    layer = Correlation(displacement, stride, step)
    layer.build([x.shape for x in maps])
    free = [tf.TensorSpec((None, None, None, maps[0].shape[-1]))] * 2

    def ours(first, second):
        return layer.call([first, second])

    channels = maps[0].shape[-1]
    rows = tf.reshape(inputs[0][:, ::stride, ::stride], (-1, channels))
    columns = tf.random.normal((channels, (2 * (displacement // step) + 1) ** 2))
    return {
        PLAIN: runs_of(ours, inputs, input_signature=free),
        COMPILED: runs_of(ours, inputs, jit_compile=True),
        LOOP: runs_of(lambda a, b: loop(a, b, displacement, stride, step), inputs),
        PRODUCT: runs_of(lambda a, b: a @ b, [rows, columns]),
    }


def addons_sides(maps, displacement, stride, step):
    """The same in the environment of TensorFlow Addons."""
    import tensorflow as tf
    from tensorflow_addons.layers import CorrelationCost

    found = {}
    for side, data_format in zip(
        ADDONS, ("channels_last", "channels_first"), strict=True
    ):
        order = (0, 1, 2, 3) if side == LAST else (0, 3, 1, 2)
        layer = CorrelationCost(
            1, displacement, stride, step, displacement, data_format
        )
        inputs = [tf.constant(x.transpose(order)) for x in maps]
        found[side] = runs_of(lambda a, b, f=layer: f([a, b]), inputs)
    return found


class Server:
    """All sides of one environment; `serve` calls the methods by their names.

    Args:
        make: `our_sides` or `addons_sides`. layer: the side that `answer...` asks.
    """

    def __init__(self, make, layer):
        import tensorflow as tf

        self._version = f"TensorFlow {tf.__version__}"
        for i, (shape, *arguments) in enumerate(SETTINGS.values()):
            for side, tasks in make(draw(shape), *arguments).items():
                for task, run in tasks.items():
                    setattr(self, method(i, side, task), run)
                if side == layer:
                    setattr(self, f"answer{i}", lambda t=tasks: self._samples(t))

    def about(self):
        """Versions."""
        return self._version

    def _samples(self, tasks):
        """Some numbers of the output and of both gradients."""
        arrays = [tasks["forward"](), *tasks["both"]()]
        arrays = [np.ravel(x) for x in arrays]
        return [x[:: len(x) // SAMPLES].tolist() for x in arrays]


def method(setting, side, task):
    """The name of the method that runs a task."""
    return f"run_{setting}_{''.join(filter(str.isalnum, side))}_{task}"


def has_addons(python):
    """Whether an interpreter has Addons; says what to do if not."""
    reason = "no --addons-python given"
    if python:
        reason = turns.why_missing(python, "tensorflow_addons")
    if reason is None:
        return True
    print(
        f"TensorFlow Addons is left out: {reason}. The first lines of this script say "
        "how to make an environment for --addons-python."
    )
    return False


def report(setting, servers, count):
    """Measures one setting and prints its table."""
    shape, displacement, stride, step = SETTINGS[setting]
    index = list(SETTINGS).index(setting)
    sides = [(server, name) for server, names in servers for name in names]
    times = {(name, task): [] for _, name in sides for task in TASKS}
    for _ in range(count):
        for server, name in sides:
            for task in TASKS:
                answer = server.ask(f"time {method(index, name, task)}")
                times[name, task].append(answer * 1e3)
    outputs = -(-shape[1] // stride) * -(-shape[2] // stride)
    flop = 2 * outputs * (2 * (displacement // step) + 1) ** 2 * shape[-1]
    print(
        f"\n{setting}: {shape}, d {displacement}, stride {stride}, displacement stride "
        f"{step}; {flop / 1e9:.2f} GFLOP forward"
    )
    print(f"{'':24}" + "".join(f"{t:>18} ms  times ours  " for t in TASKS.values()))
    median = {key: statistics.median(values) for key, values in times.items()}
    for _, name in sides:
        cells = (
            f"{median[name, t]:21.1f}  {median[name, t] / median[PLAIN, t]:10.2f}  "
            for t in TASKS
        )
        print(f"{name:24}" + "".join(cells))
    if len(servers) > 1 and stride == 1:
        ours, theirs = (server.ask(f"answer{index}") for server, _ in servers)
        worst = max(
            np.abs(np.subtract(a, b)).max() / np.abs(b).max()
            for a, b in zip(ours, theirs, strict=True)
        )
        print(f"ours and Addons' differ by at most {worst:.1e} of the largest number")


def main():
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=turns.positive, default=3)
    parser.add_argument("--addons-python", help="interpreter that has Addons")
    parser.add_argument("--serve", choices=("ours", "addons"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        make, layer = (
            (our_sides, PLAIN) if options.serve == "ours" else (addons_sides, LAST)
        )
        turns.serve(lambda: Server(make, layer))
        return
    script = str(Path(__file__).resolve())
    commands = [("ours", sys.executable, OURS)]
    if has_addons(options.addons_python):
        commands.append(("addons", options.addons_python, ADDONS))
    servers = [
        (turns.Side(name, [python, script, "--serve", name]), names)
        for name, python, names in commands
    ]
    turns.print_versions([server for server, _ in servers])
    for setting in SETTINGS:
        report(setting, servers, options.turns)
    for server, _ in servers:
        server.__exit__()


if __name__ == "__main__":
    main()
