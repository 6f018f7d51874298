"""ST-MulNet-50 on Keras' JAX backend, for machines that have JAX but no TensorFlow.

    python benchmarks/two_stream_jax.py [--model st_mulnet50] [--batches 1 8]
                                        [--policies float32 mixed_bfloat16]
                                        [--rounds 10] [--compare FILE]
    KERAS_BACKEND=tensorflow python benchmarks/two_stream_jax.py --write FILE

Prints the seconds of the forward pass on 25 chunks of 256 x 340, fully convolutional,
and of the training step on 5 chunks of 224 x 224, as in `two_stream.py`: medians over
the rounds after two rounds untimed, the clips being on the device already. Only JAX,
Keras and NumPy are needed, and this checkout; without JAX it says so and ends.

`--write` saves random weights in FILE.weights.h5 and the scores of the forward pass in
FILE.npz instead; `--compare` loads these weights and prints by how much the scores
differ. On NVIDIA's GPUs XLA multiplies float32 in TF32 unless
JAX_DEFAULT_MATMUL_PRECISION=highest is set.
"""

import argparse
import importlib.util
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import _turns as turns
import numpy as np
from two_stream import CHUNKS, CLASSES, MODELS, draw_clips

POLICIES = ("float32", "mixed_bfloat16")


def build(model, policy):
    """The model with its optimiser and loss, its classifier without an activation."""
    import keras

    from zoo.registry import build as build_model

    keras.config.set_dtype_policy(policy)
    net = build_model(model, num_classes=CLASSES, classifier_activation=None)
    net.compile(
        keras.optimizers.SGD(1e-4, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return net


def on_device(inputs):
    """Clips as tensors."""
    from keras import ops

    return turns.like(inputs, ops.convert_to_tensor)


def randomise(net, clips):
    """Draws weights, and takes the moving statistics from clips."""
    turns.randomise(net.variables)
    turns.calibrate(net, clips)


def write(options):
    """Saves weights and the scores that belong to them."""
    inputs, _ = draw_clips(1)
    net = build(options.model, "float32")
    randomise(net, on_device(inputs["step"]))
    net.save_weights(f"{options.write}.weights.h5")
    np.savez(f"{options.write}.npz", **net.predict_on_batch(inputs["forward"]))
    print(f"wrote {options.write}.weights.h5 and {options.write}.npz")


def compare_scores(net, inputs, file):
    """Prints by how much scores differ from those of `write`."""
    found = turns.flat(net.predict_on_batch(inputs)).astype("float32")
    with np.load(f"{file}.npz") as scores:
        wanted = turns.flat(dict(scores))
    difference = np.abs(found - wanted).max()
    print(
        f"  scores differ from those of {file} by at most {difference:.2g}, "
        f"{difference / np.abs(wanted).max():.1e} of the largest"
    )


def median_seconds(run, rounds):
    """Median and range over the rounds, as text."""
    run()  # compiles
    run()
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    low, high = 1e3 * min(times), 1e3 * max(times)
    return f"{1e3 * statistics.median(times):9.1f} ms ({low:.1f}-{high:.1f})"


def measure(net, batch, rounds, forward):
    """Prints the rows of one batch size."""
    inputs, labels = draw_clips(batch)
    tasks = {"step": lambda: net.train_on_batch(clips, labels)}
    if forward:
        tasks = {"forward": lambda: net.predict_on_batch(clips), **tasks}
    for task, run in tasks.items():
        clips = on_device(inputs[task])
        size = " x ".join(map(str, (batch, *CHUNKS[task])))
        text = median_seconds(run, rounds)
        print(f"  {turns.TASKS[task]:14} {size:20}{text}", flush=True)


def about():
    """Backend, device and versions."""
    import keras

    parts = [f"Python {platform.python_version()}", f"Keras {keras.__version__}"]
    parts.append(f"backend {keras.backend.backend()}")
    if keras.backend.backend() == "jax":
        import jax

        device = jax.devices()[0]
        parts.append(f"JAX {jax.__version__} on {device.platform} {device.device_kind}")
    return ", ".join((turns.machine(), *parts))


def run(options):
    """Measures under every policy and prints."""
    print(about())
    for policy in options.policies:
        print(f"\n{options.model}, {policy}; median (range) of {options.rounds} rounds")
        net = build(options.model, policy)
        inputs, _ = draw_clips(1)
        if options.compare:
            net.load_weights(f"{options.compare}.weights.h5")
            compare_scores(net, inputs["forward"], options.compare)
        else:
            randomise(net, on_device(inputs["step"]))
        for batch in options.batches:
            forward = batch == options.batches[0]
            measure(net, batch, options.rounds, forward)


def main():
    """Parses the command line, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="st_mulnet50")
    parser.add_argument("--batches", nargs="+", type=turns.positive, default=[1, 8])
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=POLICIES)
    parser.add_argument("--rounds", type=turns.positive, default=10)
    parser.add_argument("--compare", metavar="FILE")
    parser.add_argument("--write", metavar="FILE")
    options = parser.parse_args()
    backend = os.environ.setdefault("KERAS_BACKEND", "jax")
    if importlib.util.find_spec(backend) is None:
        print(f"{backend} is not installed here, so nothing is measured.")
        return
    # A checkout does: installing the package would install TensorFlow.
    sys.path.append(str(Path(__file__).resolve().parent.parent))
    write(options) if options.write else run(options)


if __name__ == "__main__":
    main()
