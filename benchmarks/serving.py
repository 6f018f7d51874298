"""One model served in every way: in this process, SavedModel, C API, gRPC, JPEG files.

    python benchmarks/serving.py [--model t_resnet50] [--clips 1] [--pairs 7]
        [--size 224] [--video 240x320] [--flip] [--first] [--folder DIR]

The same clip of 16 frames (smooth pictures, so that JPEG files are as long as those of
videos) goes in turn to

- the Keras model's compiled call, with its view, and its mirrors with --flip;
- the exported SavedModel called from Python, as exported and with --optimize;
- the same through TensorFlow's C API, in a process without Python's TensorFlow;
- a server on this machine (tests/serving_server.py), by gRPC as tensors and as JPEG
  files, from this process.

Every turn measures all ways once, in an order that is reversed from turn to turn.
Medians, 95th percentiles, clips per second and medians of the paired differences are
printed, and by how much the raw scores differ. One request is sent at a time, so that
clips per second are those of one client.

--first measures instead the first request of fresh servers with and without their
warm-up file, in three processes each, against their later requests. --folder DIR keeps
the exports, which the next run with the same arguments then finds there.

Source: tensorflow.org/tfx/serving/performance for what to measure.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _turns as turns
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
FRAMES = 16
PLAIN, FOLDED = "plain", "optimized"
KERAS, SAVED = "Keras, compiled call", "SavedModel, Python"
C_API, GRPC, JPEG = "C API", "gRPC, tensors", "gRPC, JPEG files"
FIRST_TRIALS = 3


# --- the processes beside this one ----------------------------------------------------


class Runner:
    """The C API on one export: answers `turns.serve`, without TensorFlow's Python."""

    def __init__(self, export, clips):
        from tests.c_api import Session

        self._session, self._clips = Session(export), np.load(clips)

    def call(self):
        """One request."""
        return self._session.run({"clips": self._clips})

    def logits(self):
        """The raw scores of one request."""
        return self.call()["logits"].tolist()


class Warmed:
    """A server's version as loaded by TensorFlow Serving, warm-up replayed or not."""

    def __init__(self, export, clips, warm):
        import tensorflow as tf

        tf.get_logger().setLevel("ERROR")
        self._clips = np.load(clips)
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            loaded = tf.compat.v1.saved_model.load(self._session, ["serve"], export)
        self._signatures = loaded.signature_def
        if warm:
            self._replay(Path(export) / "assets.extra" / "tf_serving_warmup_requests")

    def _replay(self, path):
        import tensorflow as tf
        from tensorflow_serving.apis import prediction_log_pb2

        for record in tf.compat.v1.io.tf_record_iterator(str(path)):
            log = prediction_log_pb2.PredictionLog.FromString(record)
            request = log.predict_log.request
            arrays = {k: tf.make_ndarray(v) for k, v in request.inputs.items()}
            self._run(request.model_spec.signature_name, arrays)

    def _run(self, name, arrays):
        signature = self._signatures[name]
        fetches = {k: v.name for k, v in signature.outputs.items()}
        feeds = {signature.inputs[k].name: v for k, v in arrays.items()}
        return self._session.run(fetches, feeds)

    def call(self):
        """One request."""
        return self._run("serving_default", {"clips": self._clips})


@contextlib.contextmanager
def served(folder):
    """The address of a test server in a process of its own."""
    command = [sys.executable, "-m", "tests.serving_server", str(folder)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline()  # "gRPC 12345 REST 12346"
        if not line:
            raise RuntimeError("The server did not start; its message stands above.")
        yield f"127.0.0.1:{line.split()[1]}"
    finally:
        process.stdin.close()
        process.wait()


def side(kind, export, clips):
    """A process that runs `Runner` or `Warmed`, see `turns.Side`."""
    command = [sys.executable, __file__, "--serve", kind]
    return turns.Side(
        kind, [*command, "--export", str(export), "--request", str(clips)]
    )


# --- what is served -------------------------------------------------------------------


def smooth_clips(count, height, width):
    """Coloured waves with a little noise, uint8 [B, 16, H, W, 3]."""
    rng = np.random.default_rng(0)
    b, t, y, x = np.indices((count, FRAMES, height, width), sparse=True)
    colours = [np.sin((x - t) / 9 + y / 17 + b + phase) for phase in (0, 1, 2)]
    pictures = 127 + 90 * np.stack(colours, axis=-1)
    noise = rng.normal(0, 4, pictures.shape)
    return np.uint8(np.clip(pictures + noise, 0, 255))


def drawn(name):
    """A model with random weights, whose scores are of some size."""
    import keras

    import zoo

    keras.utils.set_random_seed(0)
    model = zoo.load(name)
    turns.randomise(model.variables)
    turns.calibrate(model, smooth_clips(2, 64, 64).astype("float32"))
    return model


def exports(model, folder, size, flip):
    """{"plain", "optimized": path}, those of an earlier run; and the contract of both.

    Each in a folder of its own, of which a server has one.
    """
    from zoo.exports import Contract, optimized, publish

    contract = Contract(frames=FRAMES, shorter_side=size, flip=flip)
    found = {name: folder / name / "model" / "1" for name in (PLAIN, FOLDED)}
    for name, path in found.items():
        if not path.exists():
            served = optimized(model) if name == FOLDED else model
            publish(served, folder / name, contract, "model", verify=False)
    return found, contract


class Ways:
    """{name: function of one request} of everything in this process."""

    def __init__(self, model, contract, paths, clips, address):
        import tensorflow as tf

        from zoo.exports import load_exported
        from zoo.exports.client import Client, encode_jpeg
        from zoo.models.testing import video_classifier

        view = contract.frames, contract.shorter_side, contract.flip
        network = video_classifier(model, *view)
        compiled = tf.function(lambda x: network(x, training=False), autograph=False)
        files = [encode_jpeg(clip) for clip in clips]
        self.bytes_of_files = sum(map(len, sum(files, [])))
        self.client = Client(address, timeout=600)
        saved = {name: load_exported(path) for name, path in paths.items()}
        model = self.client.model("model")

        def keras_call():
            outputs = compiled(tf.constant(clips))
            return {key: value.numpy() for key, value in outputs.items()}

        self.calls = {
            KERAS: keras_call,
            f"{SAVED}, {PLAIN}": lambda: saved[PLAIN](clips),
            f"{SAVED}, {FOLDED}": lambda: saved[FOLDED](clips),
            f"{GRPC}, {FOLDED}": lambda: model(clips),
            f"{JPEG}, {FOLDED}": lambda: model.jpeg(files),
        }


# --- measuring ------------------------------------------------------------------------


def seconds(call):
    """Of one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def measure(calls, pairs):
    """{name: [seconds]} of all calls in turn, after one that is not counted."""
    for call in calls.values():
        call()
    times = {name: [] for name in calls}
    for turn in range(pairs):
        print(f"turn {turn + 1} of {pairs}", file=sys.stderr)
        order = list(calls) if turn % 2 == 0 else list(calls)[::-1]
        for name in order:
            times[name].append(seconds(calls[name]))
    return times


def report(times, clips):
    """Prints a row for each way, compared with those it builds on."""
    print(f"{'':32}{'median':>9} {'p95':>8}  clips/s  beside the Keras call")
    for name, values in times.items():
        median, late = statistics.median(values), np.percentile(values, 95)
        against = paired(values, times[KERAS])
        print(
            f"{name:32}{median:8.3f} s {late:7.3f} s {clips / median:7.2f}  {against}"
        )
    base = times[f"{SAVED}, {FOLDED}"]
    for name in (f"{C_API}, {FOLDED}", f"{GRPC}, {FOLDED}", f"{JPEG}, {FOLDED}"):
        print(f"{name} beside the SavedModel in Python: {paired(times[name], base)}")


def paired(values, others):
    """Median of the paired differences, as part of the others' median, and seconds."""
    difference = statistics.median(np.subtract(values, others))
    return f"{difference / statistics.median(others):+7.1%} ({difference:+.3f} s)"


def in_turn(options, folder):
    """Measures all ways and prints the table."""
    clips = smooth_clips(options.clips, *options.video)
    np.save(folder / "clips.npy", clips)
    model = drawn(options.model)
    paths, contract = exports(model, folder, options.size, options.flip)
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(served(folder / FOLDED))
        runner = side("c_api", paths[FOLDED], folder / "clips.npy")
        runner = stack.enter_context(runner)
        ways = Ways(model, contract, paths, clips, address)
        stack.callback(ways.client.close)
        print(
            f"{options.model}, {options.clips} x {FRAMES} x {options.video[0]} x "
            f"{options.video[1]} seen at {options.size}, "
            f"{'with' if options.flip else 'without'} mirrors; tensors of "
            f"{clips.nbytes / 1e6:.1f} MB, JPEG files of "
            f"{ways.bytes_of_files / 1e6:.2f} MB; {options.pairs} turns"
        )
        compare(ways, runner)
        calls = {**ways.calls, f"{C_API}, {FOLDED}": lambda: runner.ask("call_once")}
        busy, begin = turns.busy_seconds(), time.perf_counter()
        times = measure(calls, options.pairs)
        busy = (turns.busy_seconds() - busy) / (time.perf_counter() - begin)
        print(f"{turns.machine()}; all programs together used {busy:.2f} of them")
        report(times, options.clips)


def compare(ways, runner):
    """Prints by how much raw scores differ from those of the Keras call."""
    logits = {name: call()["logits"] for name, call in ways.calls.items()}
    logits[f"{C_API}, {FOLDED}"] = np.array(runner.ask("logits"))
    largest = np.abs(logits[KERAS]).max()
    for name, value in logits.items():
        apart = np.abs(value - logits[KERAS]).max()
        print(f"  {name}: raw scores differ by {apart / largest:.1e} of the largest")


def first_requests(options, folder):
    """Prints the first request of fresh servers beside their later ones."""
    clips = smooth_clips(options.clips, *options.video)
    np.save(folder / "clips.npy", clips)
    paths, _ = exports(drawn(options.model), folder, options.size, options.flip)
    for export in (PLAIN, FOLDED):
        for kind in ("warm", "cold"):
            ratios, firsts = [], []
            for _ in range(FIRST_TRIALS):
                with side(kind, paths[export], folder / "clips.npy") as process:
                    first = process.ask("call_once")
                    later = [process.ask("call_once") for _ in range(options.pairs)]
                firsts.append(first)
                ratios.append(first / statistics.median(later))
            said = {"warm": "warm-up replayed", "cold": "no warm-up"}[kind]
            print(
                f"{export:10} {said:17} first request "
                f"{statistics.median(firsts):.3f} s, "
                f"{statistics.median(ratios):.2f} x a later one "
                f"({min(ratios):.2f}-{max(ratios):.2f})"
            )


# --- the command line -----------------------------------------------------------------


class Timed:
    """Adds `call_once`, the seconds of one request, to a side."""

    def __init__(self, inner):
        self._inner = inner

    def call_once(self):
        """Seconds of one request."""
        return seconds(self._inner.call)

    def logits(self):
        """The raw scores of one request."""
        return self._inner.logits()


def video(text):
    """Height and width from "240x320"."""
    parts = text.split("x")
    if len(parts) != 2:
        raise argparse.ArgumentTypeError(f"{text!r} is no HEIGHTxWIDTH, e.g. 240x320")
    return tuple(turns.positive(part) for part in parts)


def main():
    """Parses the command line, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="t_resnet50")
    parser.add_argument("--clips", type=turns.positive, default=1)
    parser.add_argument("--pairs", type=turns.positive, default=7)
    parser.add_argument("--size", type=turns.positive, default=224)
    parser.add_argument("--video", type=video, default=(240, 320))
    parser.add_argument("--flip", action="store_true", help="mirror images, too")
    parser.add_argument("--first", action="store_true")
    parser.add_argument("--folder", help="keeps the exports for the next run")
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--export", help=argparse.SUPPRESS)
    parser.add_argument("--request", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        make = SIDES[options.serve]
        return turns.serve(lambda: Timed(make(options.export, options.request)))
    with tempfile.TemporaryDirectory() as temporary:
        run = first_requests if options.first else in_turn
        run(options, Path(options.folder or temporary))


SIDES = {
    "c_api": Runner,
    "warm": lambda export, clips: Warmed(export, clips, True),
    "cold": lambda export, clips: Warmed(export, clips, False),
}


if __name__ == "__main__":
    main()
