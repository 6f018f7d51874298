"""Broken JPEG files against the `jpeg` signature: none may crash a server.

    python benchmarks/fuzz_jpeg.py [--count 10000] [--seed 0] [--export DIR]

Requests of one to three files are mutated: bytes flipped, cut out, repeated, moved or
replaced by markers of the format, files cut off, swapped for others, emptied. Each is
sent through the loader that TensorFlow Serving uses. What may come back is an answer
that is finite, or INVALID_ARGUMENT with a message that can be read; anything else is
printed with the seed that makes it again, and the exit status is 1. Every 500 requests
an unchanged one must be answered as at the start. Resident memory is printed, too.

Decoders write what they find to standard error; `2> /dev/null` hides it.
"""

import argparse
import collections
import os
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from zoo.exports import Contract, publish

# Starts of segments: image, tables, frame headers of all kinds, scans, restarts.
MARKERS = [bytes([0xFF, code]) for code in (*range(0xC0, 0xE2), 0xFE, 0x00, 0xFF)]
READABLE = ("`jpeg` must be", "A file could not be", "The frames", "The request is too")


def network():
    """A network of a few weights; what is tested comes before it."""
    rgb = keras.Input((None, None, None, 3), name="rgb")
    x = keras.layers.Dense(2)(rgb)
    x = keras.layers.GlobalAveragePooling3D(name="logits")(x)
    x = keras.layers.Activation("softmax", name="predictions")(x)
    return keras.Model(rgb, x, name="fuzzed")


def originals():
    """Files of several kinds and one size: baseline, progressive, grey, 4:4:4."""
    y, x = np.mgrid[:48, :64]
    waves = [127 + 100 * np.sin(x / 5 + y / 7 + phase) for phase in range(3)]
    frame = np.uint8(np.stack(waves, -1))
    options = (
        {},
        {"progressive": True},
        {"format": "grayscale"},
        {"chroma_downsampling": False, "quality": 30},
        {"optimize_size": True, "xmp_metadata": "x" * 50},
    )
    grey = frame[..., :1]
    return [
        tf.io.encode_jpeg(grey if "format" in o else frame, **o).numpy()
        for o in options
    ]


def mutated(file, rng, others):
    """The file with one to four accidents."""
    data = bytearray(file)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(0, len(data) + 1))
        # Headers are short and what is in them matters most.
        at = at % 700 if rng.random() < 0.5 else at
        length = int(rng.integers(1, 40))
        accident = int(rng.integers(0, 8))
        if accident == 0:
            data[at:at] = rng.bytes(length)
        elif accident == 1:
            del data[at : at + length]
        elif accident == 2:
            data[at : at + length] = rng.bytes(length)
        elif accident == 3:
            data[at : at + 2] = MARKERS[rng.integers(len(MARKERS))]
        elif accident == 4:
            del data[at:]
        elif accident == 5:
            data[at:at] = data[at : at + length]
        elif accident == 6:
            other = others[rng.integers(len(others))]
            data[at:] = other[at:]
        elif at < len(data):
            data[at] ^= 1 << int(rng.integers(8))
    return bytes(data)


def request(rng, files):
    """Files of a request, [B, T] bytes as an object array."""
    shape = (1, int(rng.integers(1, 4)))
    clip = [files[rng.integers(len(files))] for _ in range(shape[1])]
    place = int(rng.integers(len(clip)))
    clip[place] = mutated(clip[place], rng, files)
    array = np.empty(shape, object)
    array[0] = clip
    return array


class Server:
    """An export in a session, as TensorFlow Serving runs it.

    Args:
        path: of its version folder.
    """

    def __init__(self, path):
        with tf.Graph().as_default() as graph:
            self._session = tf.compat.v1.Session(graph=graph)
            loaded = tf.compat.v1.saved_model.load(self._session, ["serve"], str(path))
        signature = loaded.signature_def["jpeg"]
        self._input = signature.inputs["jpeg"].name
        self._output = signature.outputs["logits"].name

    def __call__(self, files):
        """Raw scores, or the message of a refused request; other errors are raised."""
        try:
            return self._session.run(self._output, {self._input: files}), None
        except tf.errors.InvalidArgumentError as error:
            return None, error.message


def problem(scores, message):
    """What is wrong with an outcome, or None."""
    if message is None:
        return None if np.isfinite(scores).all() else f"scores {scores}"
    if not any(f"assertion failed: [{start}" in message for start in READABLE):
        return f"a message that names nothing: {message[:300]}"
    return None


def fuzz(server, count, seed=0, report=print):
    """Sends mutated requests; returns the number of outcomes by kind.

    Args:
        server: a `Server`. count: of requests. seed: of the first.
        report: function that takes a line of text.
    """
    files = originals()
    whole = np.array([files[:3]], object)
    before, _ = server(whole)
    outcomes = collections.Counter()
    report(f"0 requests, {memory():.0f} MiB")
    for number in range(seed, seed + count):
        outcome = server(request(np.random.default_rng(number), files))
        wrong = problem(*outcome)
        if wrong:
            report(f"seed {number}: {wrong}")
        kind = "answered" if outcome[1] is None else outcome[1].split("[")[1][:24]
        outcomes["wrong" if wrong else kind] += 1
        if (number - seed) % 500 == 499:
            after, message = server(whole)
            if message or not np.array_equal(before, after):
                outcomes["wrong"] += 1
                report(
                    f"after seed {number}: a whole request is not answered as before"
                )
            report(f"{number - seed + 1} requests, {memory():.0f} MiB")
    return outcomes


def memory():
    """Resident memory of the process in MiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main():
    """Parses, fuzzes, prints; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--export", help="version folder; a tiny network by default")
    flags = parser.parse_args()
    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        contract = Contract(("yes", "no"), 2, 16)
        path = flags.export or publish(network(), folder, contract, verify=False)
        server, start = Server(path), time.monotonic()
        outcomes = fuzz(server, flags.count, flags.seed)
    for kind, number in outcomes.most_common():
        print(f"{number:7} {kind}")
    print(f"{time.monotonic() - start:.0f} s")
    return 1 if outcomes["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
