"""Fixtures shared by all tests: seeds, real clips, two devices on one machine."""

import ctypes
import gc
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo  # noqa: F401  (registers the layers for deserialisation)

# Real videos, if there are any: beside the checkout, or where the variable says.
CLIPS = Path(
    os.environ.get("ZOO_TEST_CLIPS")
    or Path(__file__).resolve().parents[2] / "shared" / "clips"
)

# Before TensorFlow starts: two logical devices, so that replicas need no GPU.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)


# Tracing makes objects by the million, among which Python would look for garbage again
# and again; after every module is enough. What is imported is none.
gc.freeze()
gc.set_threshold(100_000, 20, 100)


@pytest.fixture(autouse=True)
def seeds():
    """The same random numbers in every test, whatever ran before."""
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="module", autouse=True)
def memory_of_a_module():
    """Models are cyclic and large: unless collected, they add up to many gigabytes.

    What they leave free between other blocks goes back to the system only if told so.
    """
    yield
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim:
        trim(0)


@pytest.fixture
def zero_weights(monkeypatch):
    """Weights of zeros in place of random ones, for tests that look at shapes only.

    Drawing the 283 million numbers of the largest network takes longer than the rest.
    """
    for name in ("HeNormal", "GlorotUniform", "RandomNormal"):
        initializer = getattr(keras.initializers, name)
        monkeypatch.setattr(
            initializer,
            "__call__",
            lambda self, shape, dtype=None: keras.ops.zeros(shape),
        )


@pytest.fixture
def quick_weights(monkeypatch):
    """65,521 random numbers over and over in place of new ones: of the right size."""
    block = np.random.default_rng(0).standard_normal(65521).astype("float32")
    for name in ("HeNormal", "GlorotUniform", "RandomNormal"):
        initializer = getattr(keras.initializers, name)
        monkeypatch.setattr(
            initializer,
            "__call__",
            lambda self, shape, dtype=None: keras.ops.convert_to_tensor(
                np.resize(block, shape) * np.float32((2 / np.prod(shape[:-1])) ** 0.5)
            ),
        )


@pytest.fixture
def mixed_bfloat16():
    """Runs a test under the policy of half-precision training."""
    yield from under_policy("mixed_bfloat16")


@pytest.fixture
def float64():
    """Runs a test in double precision, where rounding errors are out of sight."""
    before = keras.config.floatx()
    keras.config.set_floatx("float64")  # of inputs
    yield from under_policy("float64")
    keras.config.set_floatx(before)


def under_policy(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    yield
    keras.config.set_dtype_policy(before)


@pytest.fixture
def two_replicas():
    """A MirroredStrategy over two logical CPU devices.

    Collectives of several strategies in one process get in each other's way; sums on
    one device do not.
    """
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


@pytest.fixture(scope="session")
def clips():
    """Folder of real video files beside the checkout; skips where there is none."""
    if not CLIPS.is_dir():
        pytest.skip(f"no real clips: set ZOO_TEST_CLIPS, {CLIPS} does not exist")
    return CLIPS
