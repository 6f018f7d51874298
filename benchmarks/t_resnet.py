"""T-ResNet-50 on 16 x 224 x 224 beside the same network in plain PyTorch.

    python benchmarks/t_resnet.py [--clips 1] [--pairs 5] [--forward-only]
                                  [--torch-python PATH]

Forward pass and training step (cross-entropy, SGD with momentum) of
`zoo.load("t_resnet50")` and of `peers/t_resnet_torch.py`, in PyTorch's default layout
and in channels-last, with the same weights and the same clips; the largest difference
of their answers is printed first. Each side lives in a process of its own and they
take turns, so that no two thread pools compete and drifts of the machine meet all.

A turn is one run untimed, to find caches and threads awake, and one run timed by the
clock. Between them each side measures the machine's convolution peak: a 3x3
convolution of 256 channels, 16 x 56 x 56, in float32, by its fastest means (oneDNN and
XLA in TensorFlow, oneDNN in both layouts in PyTorch); the best of all counts. Medians
over the pairs and medians of the paired ratios are printed. Every process uses as many
threads as there are cores. Other programs on these cores slow PyTorch down more than
TensorFlow, so the share of the processor that they used is printed, too.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

FRAMES, SIZE, CLASSES = 16, 224, 20
CORES = (
    len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
)
PEAK_SHAPE, PEAK_FILTERS = (16, 56, 56, 256), 256
PEAK_FLOP = 2 * int(np.prod(PEAK_SHAPE)) * 9 * PEAK_FILTERS
OURS, TORCH, TORCH_LAST = "ours", "PyTorch", "PyTorch, channels last"
TASKS = {"forward": "forward pass", "step": "training step"}


def draw_clips(clips):
    """Clips [B, T, H, W, 3] and labels [B], the same in every process."""
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 255, (clips, FRAMES, SIZE, SIZE, 3)).astype("float32")
    return values, rng.integers(0, CLASSES, clips)


def seconds(run):
    """Duration of one run after one untimed run."""
    run()
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


# --- the two sides, each in its own process -------------------------------------------


class Zoo:
    """Our side: answers the commands of the main process."""

    def __init__(self, clips, weights, layout):
        import keras
        import tensorflow as tf

        import zoo

        self._tf, self._weights = tf, weights
        self._model = zoo.load("t_resnet50", classifier_activation=None)
        values, labels = draw_clips(clips)
        self._clips, self._labels = tf.constant(values), tf.constant(labels)
        self._predict = tf.function(lambda x: self._model(x, training=False))
        self._model.compile(
            keras.optimizers.SGD(1e-4, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        shape = (3, 3, PEAK_SHAPE[-1], PEAK_FILTERS)
        x, kernel = tf.random.normal(PEAK_SHAPE), tf.random.normal(shape)

        def convolve():
            return tf.nn.conv2d(x, kernel, 1, "SAME")[:, 0, 0]

        self._convolutions = [
            tf.function(convolve, jit_compile=jit) for jit in (False, True)
        ]
        self._cost = 2e9 * zoo.info("t_resnet50").multiply_adds * clips

    def about(self):
        """Versions."""
        import keras

        return f"TensorFlow {self._tf.__version__}, Keras {keras.__version__}"

    def cost(self):
        """Floating-point operations of one forward pass."""
        return self._cost

    def randomise(self):
        """Saves weights under which every branch of the network matters."""
        rng = np.random.default_rng(1)
        for variable in self._model.variables:
            kind = variable.path.split("/")[-1]
            if kind in ("gamma", "moving_variance", "scale"):
                variable.assign(rng.uniform(0.5, 1.5, variable.shape))
            elif kind in ("beta", "moving_mean", "bias"):
                variable.assign(rng.normal(0, 0.1, variable.shape))
            elif variable.path.startswith("conv_time"):
                variable.assign(
                    rng.normal(0, variable.shape[1] ** -0.5, variable.shape)
                )
        np.savez(self._weights, **{v.path: v.numpy() for v in self._model.variables})

    def answers(self):
        """Scores at inference, and the loss of the first training step."""
        scores = self._predict(self._clips).numpy()
        return scores.tolist(), float(self.step())

    def forward(self):
        """One forward pass."""
        return self._predict(self._clips).numpy()

    def step(self):
        """One training step."""
        return self._model.train_on_batch(self._clips, self._labels)

    def convolution(self):
        """Seconds of the large convolution, by the fastest means."""
        return min(seconds(run) for run in self._convolutions)


class Torch:
    """The peer's side: answers the same commands."""

    def __init__(self, clips, weights, layout):
        import torch
        from peers import t_resnet_torch as peer

        self._torch, self._last = torch, layout == "last"
        torch.set_num_threads(CORES)
        self._model = peer.TResNet50(CLASSES)
        with np.load(weights) as variables:
            peer.load(self._model, dict(variables))
        values, labels = draw_clips(clips)
        self._clips = torch.from_numpy(values).permute(0, 1, 4, 2, 3)
        if self._last:
            peer.channels_last(self._model)
        else:
            self._clips = self._clips.contiguous()
        self._labels = torch.from_numpy(labels)
        self._optimizer = torch.optim.SGD(
            self._model.parameters(), lr=1e-4, momentum=0.9
        )

    def about(self):
        """Versions."""
        return f"PyTorch {self._torch.__version__}"

    def answers(self):
        """Scores at inference, and the loss of the first training step."""
        return self.forward().tolist(), self.step()

    def forward(self):
        """One forward pass."""
        self._model.eval()
        with self._torch.no_grad():
            return self._model(self._clips)

    def step(self):
        """One training step."""
        self._model.train()
        self._optimizer.zero_grad()
        scores = self._model(self._clips)
        loss = self._torch.nn.functional.cross_entropy(scores, self._labels)
        loss.backward()
        self._optimizer.step()
        return loss.item()

    def convolution(self):
        """Seconds of the large convolution, in the layout of this process."""
        torch = self._torch
        batch, height, width, channels = PEAK_SHAPE
        conv = torch.nn.Conv2d(channels, PEAK_FILTERS, 3, padding=1, bias=False)
        x = torch.randn(batch, channels, height, width)
        if self._last:
            conv = conv.to(memory_format=torch.channels_last)
            x = x.to(memory_format=torch.channels_last)
        with torch.no_grad():
            return seconds(lambda: conv(x))


SIDES = {OURS: (Zoo, ""), TORCH: (Torch, ""), TORCH_LAST: (Torch, "last")}


def resident(key):
    """VmRSS or VmHWM (its peak) of this process in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {key}; memory is measured on Linux only")


def serve(name, clips, weights):
    """Answers the commands on standard input until it ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries may print
    side_class, layout = SIDES[name]
    side = side_class(clips, weights, layout)
    for line in sys.stdin:
        command = line.strip()
        if command.startswith("time "):
            result = seconds(getattr(side, command.removeprefix("time ")))
        elif command == "process_time":
            result = time.process_time()
        elif command.startswith("memory "):
            before = resident("VmRSS")
            getattr(side, command.removeprefix("memory "))()
            result = resident("VmHWM") - before
        else:
            result = getattr(side, command)()
        print(json.dumps(result), file=answers, flush=True)


# --- the main process -----------------------------------------------------------------


class Side:
    """A process that answers commands one at a time."""

    def __init__(self, name, python, clips, weights):
        self.name = name
        arguments = [python, __file__, "--serve", name, "--clips", str(clips)]
        self._process = subprocess.Popen(
            [*arguments, "--weights", weights],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "TF_CPP_MIN_LOG_LEVEL": "3",
                "CUDA_VISIBLE_DEVICES": "-1",
            },
        )

    def ask(self, command):
        """Sends a command and returns the answer."""
        print(command, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise RuntimeError(
                f"{self.name}: the process ended with status {code} at '{command}'; "
                "its own message stands above."
            )
        return json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._process.stdin.close()
        self._process.wait()


def has_torch(python):
    """Whether an interpreter can import torch and numpy; says what to do if not."""
    try:
        command = [python, "-c", "import numpy, torch"]
        done = subprocess.run(command, capture_output=True, text=True)
        reason = (done.stderr.strip().splitlines() or [""])[-1]
        found = not done.returncode
    except OSError as error:
        found, reason = False, str(error)
    if not found:
        print(
            f"\nPyTorch is missing in {python} ({reason}), so ours runs alone.\n"
            "To compare: pip install torch numpy (the build for CPUs is enough), here "
            "or\nin another environment, which is then given by --torch-python "
            "/path/to/bin/python."
        )
    return found


def compare_answers(sides):
    """Prints by how much the answers of the peers differ from ours."""
    scores, losses = {}, {}
    for side in sides:
        answer, losses[side.name] = side.ask("answers")
        scores[side.name] = np.array(answer)
    for name in list(scores)[1:]:
        difference = np.abs(scores[name] - scores[OURS]).max()
        print(
            f"  {name}: scores differ by at most {difference:.2g}, "
            f"{difference / np.abs(scores[OURS]).max():.1e} of the largest; loss of "
            f"the first training step {losses[name]:.6f} against {losses[OURS]:.6f}"
        )


def busy_seconds():
    """Processor time that all programs of the machine have used, on Linux."""
    stat = Path("/proc/stat")
    fields = stat.read_text().split()[1:9] if stat.exists() else [0] * 8
    user, nice, system, _, _, *interrupts_and_stolen = map(int, fields)
    ticks = user + nice + system + sum(interrupts_and_stolen)
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(sides, task, pairs):
    """Measures a task on every side, in turn.

    Returns:
        Seconds of every side and the peak in FLOP/s, [pairs] each; and the share of
        the processor that other programs used meanwhile.
    """
    times, peaks = {side.name: [] for side in sides}, []

    def used_by_others():
        return busy_seconds() - sum(side.ask("process_time") for side in sides)

    begin, others = time.perf_counter(), used_by_others()
    for _ in range(pairs):
        peak = []
        for side in reversed(sides):  # the peers, then ours
            peak.append(PEAK_FLOP / side.ask("convolution"))
            times[side.name].append(side.ask(f"time {task}"))
        peaks.append(max(peak))
    others = used_by_others() - others
    return times, peaks, others / (time.perf_counter() - begin) / CORES


def spread(values, unit):
    """Median and range as text."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):8.3f} {unit} ({low:.3f}-{high:.3f})"


def report(task, times, peaks, others, cost):
    """Prints the rows of one task."""
    print(f"\n{TASKS[task]} (other programs used {others:.0%} of the processor)")
    for name, values in times.items():
        rate = cost / statistics.median(values) / 1e9
        shares = [cost / t / p for t, p in zip(values, peaks, strict=True)]
        ratios = [t / u for t, u in zip(values, times[OURS], strict=True)]
        text = (
            f"  {name:23}{spread(values, 's')}  {rate:6.1f} GFLOP/s, "
            f"{statistics.median(shares):4.0%} of the peak"
        )
        if name != OURS:
            text += f"   ours is {statistics.median(ratios):.2f} x as fast"
        print(text)
    peaks = [peak / 1e9 for peak in peaks]
    print(f"  {'peak (3x3 convolution)':23}{spread(peaks, 'GFLOP/s')}")


def report_memory(start, names, tasks, clips):
    """Prints what a task takes on top of network and clips, in a fresh process."""
    print("\npeak memory per clip, on top of the loaded network")
    for task in tasks:
        for name in names:
            with start(name) as side:
                peak = side.ask(f"memory {task}") / clips
            print(f"  {TASKS[task]:14} {name:23} {peak:7.0f} MiB")


def machine():
    """The processor's name as far as the system tells, and its number of cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return f"{names[0] if names else platform.processor()}, {CORES} cores"


def compare(options, weights):
    """Measures all sides and prints the tables."""
    torch_python = options.torch_python
    names = list(SIDES) if has_torch(torch_python) else [OURS]
    tasks = ["forward"] if options.forward_only else list(TASKS)

    def start(name):
        python = sys.executable if name == OURS else torch_python
        return Side(name, python, options.clips, weights)

    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(start(OURS))
        ours.ask("randomise")
        sides = [ours, *(stack.enter_context(start(name)) for name in names[1:])]
        versions = dict.fromkeys(side.ask("about") for side in sides)
        print(", ".join((machine(), f"Python {platform.python_version()}", *versions)))
        cost = ours.ask("cost")
        print(
            f"t_resnet50 on {options.clips} x {FRAMES} x {SIZE} x {SIZE}: "
            f"{cost / 1e9:.1f} GFLOP forward, three times that in training; "
            f"median (range) of {options.pairs} pairs"
        )
        compare_answers(sides)
        for task in tasks:
            measured = measure(sides, task, options.pairs)
            report(task, *measured, cost * (3 if task == "step" else 1))
    report_memory(start, names, tasks, options.clips)


def positive(text):
    """An integer of at least 1 from the command line."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no integer of at least 1")
    return int(text)


def main():
    """Parses the command line, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=positive, default=1, help="clips per batch")
    parser.add_argument("--pairs", type=positive, default=5)
    parser.add_argument("--forward-only", action="store_true")
    parser.add_argument(
        "--torch-python", default=sys.executable, help="interpreter that has PyTorch"
    )
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve, options.clips, options.weights)
    with tempfile.TemporaryDirectory() as folder:
        return compare(options, str(Path(folder) / "weights.npz"))


if __name__ == "__main__":
    main()
