"""What the benchmarks of networks share: sides in processes of their own, in turn.

A side is our network or its peer with its inputs. It lives in a process that answers
commands one at a time, so no two thread pools compete, and drifts of the machine meet
all sides. A turn is one run untimed, to find caches and threads awake, and one run
timed by the clock. Between them each side measures the machine's convolution peak: a
3x3 convolution of 256 channels, 16 x 56 x 56, in float32, by its fastest means (oneDNN
and XLA in TensorFlow, oneDNN in both layouts in PyTorch); the best of all counts.
Every process uses as many threads as there are cores. Other programs on these cores
slow PyTorch down more than TensorFlow, so the share of the processor that they used is
printed, too.

Nothing but NumPy is imported before a side is made.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

CORES = (
    len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
)
PEAK_SHAPE, PEAK_FILTERS = (16, 56, 56, 256), 256
PEAK_FLOP = 2 * int(np.prod(PEAK_SHAPE)) * 9 * PEAK_FILTERS
OURS, TORCH, TORCH_LAST = "ours", "PyTorch", "PyTorch, channels last"
PEERS = (TORCH, TORCH_LAST)
TASKS = {"forward": "forward pass", "step": "training step"}


def seconds(run):
    """Duration of one run after one untimed run."""
    run()
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def randomise(variables):
    """Draws weights under which every branch of a network matters."""
    rng = np.random.default_rng(1)
    for variable in variables:
        layer, *_, kind = variable.path.split("/")
        shape = variable.shape
        if kind in ("gamma", "moving_variance", "scale"):
            variable.assign(rng.uniform(0.5, 1.5, shape))
        elif kind in ("beta", "moving_mean", "bias"):
            variable.assign(rng.normal(0, 0.1, shape))
        elif layer.startswith("conv_time") or layer.endswith("_time"):
            variable.assign(rng.normal(0, shape[1] ** -0.5, shape))


def calibrate(model, inputs):
    """Sets all moving statistics to those of these inputs.

    Products of streams would leave the range of float32 otherwise.
    """
    norms = [layer.norm for layer in model.layers if hasattr(layer, "norm")]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(inputs, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def like(arrays, convert):
    """An array, or a dict of arrays, converted."""
    if isinstance(arrays, dict):
        return {name: convert(array) for name, array in arrays.items()}
    return convert(arrays)


def flat(arrays):
    """All numbers of an array, or of a dict of arrays in alphabetical order."""
    if not isinstance(arrays, dict):
        arrays = {"": arrays}
    return np.concatenate([np.ravel(arrays[name]) for name in sorted(arrays)])


# --- the two sides, each in its own process -------------------------------------------


class Zoo:
    """Our side: a model of the zoo in TensorFlow.

    Args:
        model: the keras.Model, its classifier without an activation.
        inputs: {task: arrays}, a clip or a dict of clips [B, T, H, W, C].
        labels: [B], of the training step.
        weights: path of the file that `save` writes for the peers.
    """

    def __init__(self, model, inputs, labels, weights):
        import keras
        import tensorflow as tf

        self._tf, self._weights, self._model = tf, weights, model
        self._inputs = {task: like(x, tf.constant) for task, x in inputs.items()}
        self._labels = tf.constant(labels)
        self._predict = tf.function(lambda x: model(x, training=False))
        model.compile(
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

    def about(self):
        """Versions."""
        import keras

        return f"TensorFlow {self._tf.__version__}, Keras {keras.__version__}"

    def randomise(self):
        """Draws weights."""
        randomise(self._model.variables)

    def save(self):
        """Saves all variables by their paths, for the peers."""
        np.savez(self._weights, **{v.path: v.numpy() for v in self._model.variables})

    def answers(self):
        """Scores at inference, and the loss of the first training step."""
        return flat(self.forward()).tolist(), self.step()

    def forward(self):
        """One forward pass."""
        return like(self._predict(self._inputs["forward"]), lambda x: x.numpy())

    def step(self):
        """One training step; returns the loss."""
        step = self._model.train_on_batch
        return float(step(self._inputs["step"], self._labels, return_dict=True)["loss"])

    def convolution(self):
        """Seconds of the large convolution, by the fastest means."""
        return min(seconds(run) for run in self._convolutions)


class Torch:
    """The peer's side: answers the same commands.

    Args:
        net: the module, weights loaded, its kernels in the layout of `last`.
        loss: function of (outputs of `net`, labels).
        inputs, labels: as for `Zoo`.
        last: whether the inputs are channels-last, too.
    """

    def __init__(self, net, loss, inputs, labels, last):
        import torch

        torch.set_num_threads(CORES)
        self._torch, self._net, self._loss, self._last = torch, net, loss, last
        self._inputs = {task: like(x, self._clips) for task, x in inputs.items()}
        self._labels = torch.from_numpy(labels)
        self._optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)

    def _clips(self, values):
        clips = self._torch.from_numpy(values).permute(0, 1, 4, 2, 3)
        return clips if self._last else clips.contiguous()

    def about(self):
        """Versions."""
        return f"PyTorch {self._torch.__version__}"

    def answers(self):
        """Scores at inference, and the loss of the first training step."""
        return flat(self.forward()).tolist(), self.step()

    def forward(self):
        """One forward pass."""
        self._net.eval()
        with self._torch.no_grad():
            return self._net(self._inputs["forward"])

    def step(self):
        """One training step; returns the loss."""
        self._net.train()
        self._optimizer.zero_grad()
        loss = self._loss(self._net(self._inputs["step"]), self._labels)
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


def resident(key):
    """VmRSS or VmHWM (its peak) of this process in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {key}; memory is measured on Linux only")


def serve(make_side):
    """Answers the commands on standard input until it ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries may print
    side = make_side()
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
    """A process that answers commands one at a time.

    Args:
        name: of the side. command: what starts the process, in which `serve` runs.
    """

    def __init__(self, name, command):
        self.name = name
        self._process = subprocess.Popen(
            command,
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
        with contextlib.suppress(BrokenPipeError):
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
        with contextlib.suppress(BrokenPipeError):  # it has ended by itself
            self._process.stdin.close()
        self._process.wait()


@contextlib.contextmanager
def opened(start, names):
    """The sides of these names, the first of which draws the weights of all."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(start(names[0]))
        first.ask("randomise")
        first.ask("save")
        yield [first, *(stack.enter_context(start(name)) for name in names[1:])]


def why_missing(python, modules):
    """Why an interpreter cannot import modules, in words; None if it can."""
    try:
        command = [python, "-c", f"import {modules}"]
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        return str(error)
    reason = (done.stderr.strip().splitlines() or [""])[-1]
    return reason if done.returncode else None


def has_torch(python):
    """Whether an interpreter can import torch and numpy; says what to do if not."""
    reason = why_missing(python, "numpy, torch")
    if reason is not None:
        print(
            f"\nPyTorch is missing in {python} ({reason}), so ours runs alone.\n"
            "To compare: pip install torch numpy (the build for CPUs is enough), here "
            "or\nin another environment, which is then given by --torch-python "
            "/path/to/bin/python."
        )
    return reason is None


def compare_answers(sides):
    """Prints by how much the answers of the peers differ from ours, the first."""
    ours, *peers = sides
    scores, loss = ours.ask("answers")
    for peer in peers:
        peer_scores, peer_loss = peer.ask("answers")
        difference = np.abs(np.subtract(peer_scores, scores)).max()
        print(
            f"  {peer.name}: scores differ by at most {difference:.2g}, "
            f"{difference / np.abs(scores).max():.1e} of the largest; loss of the "
            f"first training step {peer_loss:.6f} against {loss:.6f}"
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


def ratios(times, name, reference):
    """Paired ratios of the seconds of two sides."""
    return [t / u for t, u in zip(times[name], times[reference], strict=True)]


def report(task, times, peaks, others, costs, compared):
    """Prints the rows of one task.

    Args:
        task: a key of `TASKS`. times, peaks, others: of `measure`.
        costs: {side: floating-point operations of the task}.
        compared: what a row says at its end, as a function of the side's name.
    """
    print(f"\n{TASKS[task]} (other programs used {others:.0%} of the processor)")
    for name, values in times.items():
        rate = costs[name] / statistics.median(values) / 1e9
        shares = [costs[name] / t / p for t, p in zip(values, peaks, strict=True)]
        print(
            f"  {name:23}{spread(values, 's')}  {rate:6.1f} GFLOP/s, "
            f"{statistics.median(shares):4.0%} of the peak{compared(name)}"
        )
    peaks = [peak / 1e9 for peak in peaks]
    print(f"  {'peak (3x3 convolution)':23}{spread(peaks, 'GFLOP/s')}")


def report_peers(sides, task, pairs, cost):
    """Measures a task of `cost` FLOP on ours and the peers and prints the rows."""
    times, peaks, others = measure(sides, task, pairs)

    def compared(name):
        if name == OURS:
            return ""
        ratio = statistics.median(ratios(times, name, OURS))
        return f"   ours is {ratio:.2f} x as fast"

    report(task, times, peaks, others, dict.fromkeys(times, cost), compared)


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


def print_versions(sides):
    """Prints the machine and the versions of the sides."""
    versions = dict.fromkeys(side.ask("about") for side in sides)
    print(", ".join((machine(), f"Python {platform.python_version()}", *versions)))


# --- the command line -----------------------------------------------------------------


def positive(text):
    """An integer of at least 1 from the command line."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no integer of at least 1")
    return int(text)


def parser(doc, sides):
    """The arguments of all these benchmarks; `serve` and `weights` are their own.

    Args:
        doc: the script's docstring. sides: names that `--serve` takes.
    """
    found = argparse.ArgumentParser(description=doc.splitlines()[0])
    found.add_argument("--clips", type=positive, default=1, help="clips per batch")
    found.add_argument("--pairs", type=positive, default=5)
    found.add_argument("--forward-only", action="store_true")
    found.add_argument(
        "--torch-python", default=sys.executable, help="interpreter that has PyTorch"
    )
    found.add_argument("--serve", choices=sides, help=argparse.SUPPRESS)
    found.add_argument("--weights", help=argparse.SUPPRESS)
    return found


def starter(script, options, weights, *others):
    """A function from the name of a side to its process, which runs `script`.

    Args:
        script: path. options: parsed arguments. weights: path for `--weights`.
        others: arguments handed on.
    """

    def start(name):
        python = options.torch_python if name in PEERS else sys.executable
        arguments = ["--serve", name, "--clips", str(options.clips), *others]
        return Side(name, [python, script, *arguments, "--weights", weights])

    return start
