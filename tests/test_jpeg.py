"""The signature `jpeg`: what it decodes, what it refuses, and that it survives."""

import io
import struct

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import zoo
from benchmarks import fuzz_jpeg
from tests.test_export import mini
from tests.test_models import TINY
from zoo.exports import Contract, load_exported, publish, verification
from zoo.exports.jpeg import MAX_FRAME_PIXELS, decode
from zoo.exports.signature import endpoints_of, signatures

LIMITS = {"max_frames": 60, "max_pixels": 50_000, "max_view_pixels": 20_000}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    keras.utils.set_random_seed(0)
    contract = Contract(("yes", "no"), 4, 16, **LIMITS)
    folder = tmp_path_factory.mktemp("jpeg")
    return publish(mini(), folder, contract, verify=False)


@pytest.fixture(scope="module")
def served(path):
    return load_exported(path)


def frames(batch, time, height=24, width=32):
    """Smooth frames of which no two are alike."""
    waves = verification.waves((batch, time, height, width)).astype(int)
    shifts = 30 * np.arange(batch * time).reshape(batch, time, 1, 1, 1)
    return np.uint8((waves + shifts) % 256)


def files_of(clips):
    files, _ = verification.encoded(clips)
    return [[bytes(file) for file in row] for row in files]


def resized(file, height, width):
    """The file with another size in its header."""
    at = file.index(b"\xff\xc0") + 5
    return file[:at] + struct.pack(">HH", height, width) + file[at + 4 :]


# --- what it decodes -----------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (1, 4), (1, 23), (3, 9)])
def test_files_and_decoded_frames_are_answered_alike(served, shape):
    files = files_of(frames(*shape))
    clips = np.array([[decode(file) for file in row] for row in files])
    expected, found = served(clips), served.jpeg(files)
    assert set(found) == set(expected)
    np.testing.assert_allclose(found["logits"], expected["logits"], atol=1e-4)
    np.testing.assert_array_equal(found["labels"], expected["labels"])
    other = served.jpeg(files_of(255 - frames(*shape)))
    assert np.abs(other["logits"] - found["logits"]).max() > 0.01


def test_grey_and_cmyk_become_rgb(served):
    def saved(mode, colour):
        file = io.BytesIO()
        Image.new(mode, (32, 24), colour).save(file, "JPEG", quality=100)
        return file.getvalue()

    white, black = saved("RGB", (255, 255, 255)), saved("RGB", (0, 0, 0))
    same = {
        white: (saved("L", 255), saved("CMYK", (0, 0, 0, 0))),
        black: (saved("L", 0), saved("CMYK", (0, 0, 0, 255))),
    }
    for rgb, others in same.items():
        expected = served.jpeg([[rgb]])["logits"]
        for file in others:
            found = served.jpeg([[file]])["logits"]
            np.testing.assert_allclose(found, expected, atol=2.0)
    apart = served.jpeg([[white], [black]])["logits"]
    assert np.abs(apart[0] - apart[1]).max() > 50


def test_frames_that_are_not_taken_are_not_decoded(served):
    (files,) = files_of(frames(1, 12))
    expected = served.jpeg([files])["logits"]
    taken = [1, 4, 7, 10]
    for place in range(12):
        cut = files.copy()
        cut[place] = cut[place][:-100]  # its header is whole
        if place in taken:
            with pytest.raises(ValueError, match=rf"not be decoded.*\[0\] \[{place}\]"):
                served.jpeg([cut])
        else:
            np.testing.assert_array_equal(served.jpeg([cut])["logits"], expected)


# --- what it refuses -----------------------------------------------------------------

GOOD = files_of(frames(2, 3))
SMALL = files_of(frames(1, 1, 8, 32))[0][0]
PNG = tf.io.encode_png(frames(1, 1)[0, 0]).numpy()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (np.zeros((0, 3), "S"), r"no axis of length 0.*got shape: \[0 3\]"),
        (np.zeros((1, 0), "S"), r"no axis of length 0.*got shape: \[1 0\]"),
        (
            [GOOD[0], [*GOOD[1][:2], b""]],
            r"not be read: it is no JPEG.*\[1\] \[2\] \[0\]",
        ),
        ([[*GOOD[0][:2], b"GIF89a"]], r"not be read: it is no JPEG.*\[0\] \[2\] \[6\]"),
        ([[PNG]], r"not be read: it is no JPEG.*\[0\] \[0\]"),
        ([[GOOD[0][0][:90]]], r"not be read.*\[0\] \[0\] \[90\]"),
        (
            [[*GOOD[0][:2], SMALL]],
            r"one height and width.*\[0\] \[2\] \[8 32\] \[24 32\]",
        ),
        ([[SMALL] * 61], "at most 60 frames may be sent"),
        ([[resized(SMALL, 300, 300)]], r"at most 50000 pixels may be.*\[300 300\]"),
        ([[resized(SMALL, 2, 900)]], r"pixels of which 20000 remain.*2 900 3"),
        ([[resized(SMALL, 65500, 65500)]], r"at most 50000 pixels may be decoded"),
        ([[SMALL + bytes(300_000)]], r"65536 a file may be sent; got bytes"),
    ],
)
def test_wrong_requests_are_named(served, files, message):
    with pytest.raises(ValueError, match=message):
        served.jpeg(files)


def test_what_is_no_batch_of_files(served):
    with pytest.raises(ValueError, match=r"jpeg must be bytes.*\[B\]\[T\]"):
        served.jpeg([GOOD[0], GOOD[1][:2]])
    with pytest.raises(ValueError, match="jpeg must be bytes"):
        served.jpeg(frames(1, 1))


def test_one_frame_is_bounded_whatever_a_request_may_hold(tmp_path):
    path = publish(mini(), tmp_path, Contract(("a", "b"), 1, 8), verify=False)
    huge = resized(SMALL, 8000, 8000)
    with pytest.raises(ValueError, match=f"{MAX_FRAME_PIXELS} of one frame"):
        load_exported(path).jpeg([[huge]])


def test_a_long_frame_does_not_exhaust_the_memory(tmp_path):
    """Its pixels are few, before and after, but not the weights that resize it."""
    path = publish(mini(), tmp_path, Contract(("a", "b"), 1, 8), verify=False)
    served, message = load_exported(path), "16777216 weights are accepted"
    with pytest.raises(ValueError, match=message):
        served.jpeg([[resized(SMALL, 8, 60_000)]])
    with pytest.raises(ValueError, match=message):
        served(np.zeros((1, 1, 8, 60_000, 3), "uint8"))


def test_mutated_files_are_answered_or_refused_by_name(path):
    said = []
    outcomes = fuzz_jpeg.fuzz(fuzz_jpeg.Server(path), 300, report=said.append)
    assert outcomes["wrong"] == 0, said
    assert sum(outcomes.values()) == 300 and len(outcomes) > 2, outcomes


def test_what_the_fuzzer_would_complain_about():
    assert fuzz_jpeg.problem(np.array([np.nan]), None).startswith("scores")
    assert "names nothing" in fuzz_jpeg.problem(None, "jpeg::Uncompress failed")
    assert fuzz_jpeg.problem(np.zeros(2), None) is None


# --- all models ----------------------------------------------------------------------


ELSEWHERE = {"t_resnet_tiny", "motion_resnet26_tiny", "st_mulnet26_tiny", "resnet_tiny"}


@pytest.fixture
def plain_graphs():
    """Runs graphs as they were traced, which is quicker for those that run once."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


# The others are exported and verified in test_export.py, test_two_stream_command.py and
# test_plain_rgb.py; tracing takes seconds.
@pytest.mark.parametrize("name", sorted(set(TINY) - ELSEWHERE))
def test_every_signature_of_a_model_answers(name, plain_graphs):
    model = zoo.load(name)
    contract = Contract(
        tuple("abcdefgh"), 5, 64, flip=False, features=endpoints_of(model)
    )
    served = signatures(model, contract)
    assert tuple(served.functions) == zoo.info(name).signatures
    requests = verification.sample_requests(served)
    expected = verification.expected_outputs(model, contract, requests)
    for signature, inputs in requests.items():
        tensors = {key: tf.constant(x) for key, x in inputs.items()}
        got = {k: v.numpy() for k, v in served.functions[signature](**tensors).items()}
        verification.compare(expected[signature], got, 1e-5, signature)
