"""A server under mixed load: no crash, no wrong answer, memory that stays flat.

    python benchmarks/soak.py [--minutes 1] [--clients 8] [--model t_resnet_tiny]

An export of random weights is served by the test server (tests/serving_server.py, the
session loader that TensorFlow Serving uses) in a process of its own. Clients send valid
clips of random length and size as tensors by gRPC and as JPEG files by gRPC and REST,
single frames, 600 frames, every kind of invalid request, and requests that are dropped
midway. After a quarter of the time a second version with other weights takes over.

Every answer is compared with that of the export in this process (1e-5 of the largest
raw score); every invalid request must get its code and a message that says what is
wrong. Printed are counts and latencies by kind of request, what happened around the
change of versions, and the server's memory over time. Exit code 1 if anything was not
as it should be.
"""

import argparse
import base64
import collections
import contextlib
import dataclasses
import http.client
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import grpc
import keras
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

import zoo
from zoo.exports import Contract, load_exported, publish
from zoo.exports.client import Client, Retry, ServerError, encode_jpeg

ROOT = Path(__file__).resolve().parents[1]
NAME = "soak"
CONTRACT = Contract(
    labels=("one", "two", "three", "four"),
    frames=8,
    shorter_side=64,
    top_k=3,
    max_pixels=2**23,
    max_frames=1000,
)
CLIPS = 16  # valid ones, of which answers are known
LONG = (1, 600, 36, 48, 3)
TOLERANCE = 1e-5  # of the largest raw score, or of 1
# Medians of the server's memory that are printed.
PARTS = 12
# Share by which memory may grow from the third quarter of the time to the last.
GROWTH = 0.1
INVALID = "INVALID_ARGUMENT"


class Wrong(Exception):
    """An answer that is not what it should be."""


# --- models and clips ----------------------------------------------------------------


def write_version(model, folder, seed):
    """Exports a model of random weights that tell clips apart."""
    keras.utils.set_random_seed(seed)
    network = zoo.load(model, num_classes=len(CONTRACT.labels))
    rng = np.random.default_rng(seed)
    for variable in network.variables:
        if variable.path.endswith(("moving_mean", "beta")):
            variable.assign(rng.normal(0, 0.3, variable.shape))
    fc = network.get_layer("fc").kernel
    fc.assign(rng.normal(0, 1, fc.shape))
    return publish(network, folder, CONTRACT, NAME, verify=False)


def draw_clip(rng, shape=None):
    """Coloured waves, uint8 [1, T, H, W, 3]: what JPEG keeps well."""
    if shape is None:
        frames = int(rng.integers(1, 33))
        shape = (1, frames, *(int(n) for n in rng.integers(16, 161, 2)), 3)
    t, y, x = np.mgrid[: shape[1], : shape[2], : shape[3]]
    scale, speed = rng.uniform(3, 30), rng.uniform(-2, 2)
    waves = [
        np.sin((x * np.cos(a) + y * np.sin(a) - speed * t) / scale)
        for a in rng.uniform(0, 6, 3)
    ]
    return np.uint8(128 + 120 * np.stack(waves, -1))[None]


@dataclasses.dataclass
class Clip:
    """A valid clip: frames, JPEG files of them, and answers by kind and version."""

    frames: np.ndarray
    files: list
    expected: dict = dataclasses.field(default_factory=dict)


def make_clips(seed):
    """The valid clips; the last two are a single frame and a long one."""
    rng = np.random.default_rng(seed)
    drawn = [draw_clip(rng) for _ in range(CLIPS)]
    drawn += [draw_clip(rng, (1, 1, 60, 80, 3)), draw_clip(rng, LONG)]
    return [Clip(frames, encode_jpeg(frames[0])) for frames in drawn]


def add_answers(clips, version, path):
    """What the export of a version says of every clip, in this process."""
    exported = load_exported(path)
    for clip in clips:
        clip.expected["clips", version] = exported(clip.frames)["logits"]
        clip.expected["jpeg", version] = exported.jpeg([clip.files])["logits"]


# --- requests ------------------------------------------------------------------------


class Load:
    """What the clients send, and what has come of it.

    Attributes:
        counts: {kind: requests}. seconds: {kind: [latency]}. wrong: messages.
        answered: {version: answers}.
    """

    def __init__(self, ports, clips):
        self.clips = clips
        self.grpc_address = f"127.0.0.1:{ports[0]}"
        self.rest_port = ports[1]
        retry = Retry(attempts=1)  # nothing here may need a second attempt
        self.grpc = Client(self.grpc_address, retry=retry, timeout=120)
        rest = f"http://127.0.0.1:{ports[1]}"
        self.rest = Client(rest, retry=retry, timeout=120)
        self.channel = grpc.insecure_channel(self.grpc_address)
        self.stub = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.counts, self.answered = collections.Counter(), collections.Counter()
        self.seconds = collections.defaultdict(list)
        self.wrong = []
        self.newest = 1  # the lowest version that may answer
        self._lock = threading.Lock()

    def send(self, rng):
        """One request, of a kind drawn at random."""
        (kind,) = rng.choices(list(KINDS), [weight for weight, _ in KINDS.values()])
        begin = time.perf_counter()
        try:
            KINDS[kind][1](self, rng)
        except Exception as error:
            with self._lock:
                self.wrong.append(f"{kind}: {type(error).__name__}: {error}")
        with self._lock:
            self.counts[kind] += 1
            self.seconds[kind].append(time.perf_counter() - begin)

    def check(self, clip, kind, outputs, oldest):
        """Raises unless an answer is that of one of the versions."""
        for version in (2, 1):
            expected = clip.expected.get((kind, version))
            if expected is None or version < oldest:
                continue
            accepted = TOLERANCE * max(1.0, float(np.abs(expected).max()))
            if np.abs(outputs["logits"] - expected).max() <= accepted:
                with self._lock:
                    self.answered[version] += 1
                return
        raise Wrong(f"{clip.frames.shape}: {outputs['logits']}, not {clip.expected}")

    def refused(self, call, code, *words):
        """Raises unless a call is refused with a code and a message of these words."""
        try:
            call()
        except ServerError as error:
            missing = [word for word in words if word not in str(error)]
            if error.code != code or missing:
                raise Wrong(f"{error.code}: {error}; missing {missing}") from error
            return
        raise Wrong(f"accepted; expected was {code}")


def _valid(send, kind, long=False):
    def run(load, rng):
        oldest = load.newest
        clip = load.clips[-1] if long else rng.choice(load.clips[:-1])
        load.check(clip, kind, send(load, clip), oldest)

    return run


def _single(load, rng):
    oldest, clip = load.newest, load.clips[-2]
    load.check(clip, "clips", load.grpc.model(NAME)(clip.frames), oldest)


def _batch(load, rng):
    """Several copies of a clip: all rows are its answer."""
    oldest, clip = load.newest, rng.choice(load.clips[:-1])
    outputs = load.grpc.model(NAME)(clip.frames.repeat(rng.randint(2, 4), 0))
    load.check(clip, "clips", outputs, oldest)


def _bad_tensor(change, *words):
    def run(load, rng):
        clip = change(rng.choice(load.clips[:-1]).frames)
        load.refused(lambda: load.grpc.model(NAME)(clip), INVALID, *words)

    return run


def _bad_files(change, *words, by="grpc"):
    def run(load, rng):
        files = change(list(rng.choice(load.clips[:-1]).files), rng)
        client = getattr(load, by)
        load.refused(lambda: client.model(NAME).jpeg([files]), INVALID, *words)

    return run


def _endless(frames):
    return np.tile(frames[:, :1], (1, 2000, 1, 1, 1))


def _with(files, rng, file):
    """A clip of which one file, any of them, is replaced by another."""
    place = rng.randrange(len(files))
    return [*files[:place], file, *files[place + 1 :]]


def _cut(files, rng):
    """A clip whose files end in the middle: those that are taken are looked at."""
    return [file[: len(file) // 2] for file in files]


def _two_sizes(files, rng):
    other = np.zeros((1, 17, 23, 3), np.uint8)
    return [*files, *encode_jpeg(other)]


def _wrong_name(load, rng):
    model = load.grpc.model("nothing")
    load.refused(lambda: model(load.clips[0].frames), "NOT_FOUND", "nothing")


def _wrong_signature(load, rng):
    model, inputs = load.grpc.model(NAME), {"clips": load.clips[0].frames}
    code = "FAILED_PRECONDITION"
    load.refused(lambda: model.predict(inputs, "nothing"), code, "nothing")


def _no_input(load, rng):
    model = load.grpc.model(NAME)
    load.refused(lambda: model.predict({}), INVALID, "clips")


def _torn_tensor(load, rng):
    """A tensor whose bytes are fewer than its shape says."""
    request = _request(load.clips[0])
    proto = request.inputs["clips"]
    proto.tensor_content = proto.tensor_content[:-7]
    try:
        load.stub.Predict(request, timeout=120)
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.INVALID_ARGUMENT or not error.details():
            raise
        return
    raise Wrong("accepted")


def _no_json(load, rng):
    connection = http.client.HTTPConnection("127.0.0.1", load.rest_port, timeout=120)
    body = rng.choice(['{"inputs": ', "[]", "{}", '{"inputs": [[{"b64": "?"}]]}', ""])
    connection.request("POST", f"/v1/models/{NAME}:predict", body)
    answer = connection.getresponse()
    message = json.loads(answer.read()).get("error")
    connection.close()
    if answer.status != 400 or not message:
        raise Wrong(f"{answer.status}: {message}")


def _cancelled(load, rng):
    """Cancelled while it is sent, waits or is computed."""
    future = load.stub.Predict.future(_request(rng.choice(load.clips)), timeout=120)
    time.sleep(rng.uniform(0, 0.2))
    future.cancel()


def _too_late(load, rng):
    """A deadline that most requests miss."""
    with contextlib.suppress(grpc.RpcError):
        load.stub.Predict(_request(rng.choice(load.clips)), timeout=0.01)


def _hung_up(load, rng):
    """A connection that ends in the middle of the body."""
    clip = load.clips[rng.randrange(CLIPS)]
    files = [{"b64": base64.b64encode(file).decode()} for file in clip.files]
    body = json.dumps({"signature_name": "jpeg", "inputs": {"jpeg": [files]}})
    connection = http.client.HTTPConnection("127.0.0.1", load.rest_port, timeout=120)
    connection.putrequest("POST", f"/v1/models/{NAME}:predict")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[: rng.randrange(len(body))].encode())
    connection.close()


def _request(clip):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = NAME
    request.inputs["clips"].CopyFrom(tf.make_tensor_proto(clip.frames))
    return request


_BY_TENSOR = lambda load, clip: load.grpc.model(NAME)(clip.frames)  # noqa: E731
_BY_FILES = lambda load, clip: load.grpc.model(NAME).jpeg([clip.files])  # noqa: E731
_BY_REST = lambda load, clip: load.rest.model(NAME).jpeg([clip.files])  # noqa: E731
# {kind: (weight, function of the load and random numbers)}
KINDS = {
    "clips": (20, _valid(_BY_TENSOR, "clips")),
    "jpeg": (20, _valid(_BY_FILES, "jpeg")),
    "jpeg by REST": (10, _valid(_BY_REST, "jpeg")),
    "one frame": (4, _single),
    "batch": (4, _batch),
    "600 frames": (2, _valid(_BY_TENSOR, "clips", long=True)),
    "600 JPEG files": (2, _valid(_BY_FILES, "jpeg", long=True)),
    "floats": (2, _bad_tensor(lambda x: x.astype("f"), "float")),
    "a video, no batch": (2, _bad_tensor(lambda x: x[0], "must be uint8", "shape")),
    "no frames": (2, _bad_tensor(lambda x: x[:, :0], "length 0")),
    "grey": (2, _bad_tensor(lambda x: x[..., :1], "must be uint8")),
    "too large": (1, _bad_tensor(_endless, "too large")),
    "empty strings": (2, _bad_files(lambda f, r: _with(f, r, b""), "JPEG")),
    "no JPEG": (2, _bad_files(lambda f, r: _with(f, r, b"GIF89a" * 9), "JPEG")),
    "JPEG cut off": (2, _bad_files(_cut, "cut off")),
    "the same by REST": (2, _bad_files(_cut, "cut off", by="rest")),
    "two sizes": (2, _bad_files(_two_sizes, "one height and width")),
    "too many files": (1, _bad_files(lambda f, r: f[:1] * 1001, "at most 1000 frames")),
    "no input": (1, _no_input),
    "unknown model": (1, _wrong_name),
    "unknown signature": (1, _wrong_signature),
    "torn tensor": (1, _torn_tensor),
    "no JSON": (2, _no_json),
    "cancelled": (4, _cancelled),
    "deadline missed": (4, _too_late),
    "hung up": (4, _hung_up),
}


# --- server --------------------------------------------------------------------------


@contextlib.contextmanager
def server(folder):
    """The test server in a process of its own: its process and (gRPC, REST) ports."""
    command = [sys.executable, "-m", "tests.serving_server", folder]
    errors = open(folder.parent / "errors", "w+")  # libjpeg writes of every bad file
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
    process = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)
    try:
        _, grpc_port, _, rest_port = process.stdout.readline().split()
        yield process, (int(grpc_port), int(rest_port))
    finally:
        process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def errors_of(folder):
    """The last that the server wrote to standard error."""
    return (folder.parent / "errors").read_text("utf-8", "replace")[-1000:]


def resident(process):
    """MiB of memory of a process (proc(5))."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def change_versions(load, clips, made, folder, log):
    """Puts version 2 beside version 1 and waits until it has taken over."""
    hidden = folder / NAME / ".unfinished-2"
    shutil.copytree(made, hidden)
    before = sum(load.answered.values())
    begin = time.monotonic()
    hidden.rename(folder / NAME / "2")
    model = load.grpc.model(NAME)
    while model.status().get(2) != "AVAILABLE":
        time.sleep(0.05)
    load.newest = 2
    seconds, count = time.monotonic() - begin, sum(load.answered.values()) - before
    while model.status()[1] != "END":
        time.sleep(0.05)
    log.append(
        f"version 2 took over after {seconds:.1f} s, in which {count} clips were "
        f"answered; version 1 was unloaded {time.monotonic() - begin - seconds:.1f} s "
        "later"
    )


def run(options, folder, made):
    """The load, memory [(seconds, MiB)], and what is to be said of the versions."""
    clips = make_clips(options.seed)
    for version, path in enumerate(made, 1):
        add_answers(clips, version, path)
    shutil.copytree(made[0], folder / NAME / "1")
    memory, log = [], []
    with server(folder) as (process, ports):
        load = Load(ports, clips)
        begin, end = time.monotonic(), time.monotonic() + 60 * options.minutes

        def client(number):
            rng = random.Random(f"{options.seed} {number}")
            while time.monotonic() < end and process.poll() is None:
                load.send(rng)

        threads = [
            threading.Thread(target=client, args=(number,))
            for number in range(options.clients)
        ]
        change = threading.Timer(
            15 * options.minutes,
            change_versions,
            (load, clips, made[1], folder, log),
        )
        for thread in (*threads, change):
            thread.start()
        while any(t.is_alive() for t in (*threads, change)):
            if process.poll() is not None:
                status, said = process.returncode, errors_of(folder)
                load.wrong.append(f"The server ended with status {status}: {said}")
                break
            memory.append((time.monotonic() - begin, resident(process)))
            time.sleep(min(1, options.minutes))
        if process.poll() is None:
            for kind, send in {"clips": _BY_TENSOR, "jpeg": _BY_FILES}.items():
                for clip in clips:  # after all that, everything is as before
                    load.check(clip, kind, send(load, clip), 2)
    return load, memory, log


# --- report --------------------------------------------------------------------------


def report(load, memory, log, clients):
    """Prints the tables; True if all is well."""
    seconds = memory[-1][0]
    total = sum(load.counts.values())
    print(f"{total} requests of {clients} clients in {seconds / 60:.1f} minutes")
    print(f"\n| {'request':17} | count | ms, median | 95 % |\n|---|---:|---:|---:|")
    for kind in KINDS:
        times = sorted(1000 * x for x in load.seconds[kind])
        row = f"| {kind:17} | {len(times):5} |"
        if times:
            late = times[int(0.95 * (len(times) - 1))]
            row += f" {statistics.median(times):10.0f} | {late:4.0f} |"
        print(row)
    versions = ", ".join(
        f"{n} by version {v}" for v, n in sorted(load.answered.items())
    )
    print(f"\nright answers: {versions}\n" + "\n".join(log))
    parts = [[] for _ in range(PARTS)]
    for at, size in memory:
        parts[min(PARTS - 1, int(PARTS * at / (seconds + 1e-9)))].append(size)
    curve = [statistics.median(part) for part in parts if part]
    print("server's memory in MiB, medians of equal parts of the time:")
    print("  " + " ".join(f"{size:.0f}" for size in curve))
    quarter = len(curve) // 4
    early = statistics.median(curve[2 * quarter : 3 * quarter])
    late = statistics.median(curve[-quarter:])
    print(f"  third quarter {early:.0f}, last quarter {late:.0f}")
    print(f"wrong: {len(load.wrong)}")
    for message in load.wrong[:10]:
        print(f"  {message[:600]}")
    unused = [kind for kind in KINDS if not load.counts[kind]]
    if unused:
        print(f"  never sent: {', '.join(unused)}")
    if not log:
        print("  version 2 has not taken over")
    return not load.wrong and not unused and bool(log), late / early - 1


def main(argv=None):
    """Runs the load and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--model", default="t_resnet_tiny")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        made, folder = Path(scratch, "made"), Path(scratch, "served")
        paths = [write_version(options.model, made, seed) for seed in (1, 2)]
        (folder / NAME).mkdir(parents=True)
        load, memory, log = run(options, folder, paths)
    well, growth = report(load, memory, log, options.clients)
    # In a minute or two, memory is still being taken for the first time.
    if options.minutes >= 5 and growth > GROWTH:
        print(f"memory grew by {100 * growth:.1f} %, more than {100 * GROWTH:.0f} %")
        well = False
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
