"""Effective receptive fields: known ones of planted convolutions, and the command."""

import math

import keras
import numpy as np
import pytest

import zoo
from tests.test_command_line import run
from zoo import layers
from zoo.models.inputs import video_input
from zoo.understanding.effective_fields import (
    effective_receptive_fields,
    table,
    width,
)


def network(*steps, kind="rgb"):
    """Layers one after the other; the last is called "top"."""
    x = given = video_input(kind)
    for step in steps:
        x = step(x)
    return keras.Model(given, keras.layers.Identity(name="top")(x), name="planted")


def even(layer, channels=3):
    """A layer whose taps are all equally strong."""
    layer.build((None, None, None, None, channels))
    layer.set_weights([np.ones(w.shape) for w in layer.weights])
    return layer


# --- widths --------------------------------------------------------------------------


@pytest.mark.parametrize("taps", [1, 2, 3, 7, 12])
def test_the_width_of_an_even_window_is_its_length(taps):
    energy = np.pad(np.full(taps, 0.3), (2, 5))
    assert width(energy) == pytest.approx(taps)
    assert width(energy[::-1]) == pytest.approx(taps)


def test_the_width_of_a_gaussian_and_of_nothing():
    places = np.arange(200)
    energy = np.exp(-((places - 99) ** 2) / (2 * 8.0**2))
    assert width(energy) == pytest.approx(math.sqrt(12) * 8, rel=1e-2)
    assert math.isnan(width(np.zeros(5)))


# --- planted networks ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("taps", "stride", "frames"), [(3, 1, 3), (7, 2, 5), (5, 2, 1)]
)
def test_of_a_single_convolution_it_is_the_kernel(taps, stride, frames):
    space = even(layers.SpatialConv(4, taps, stride, use_bias=False))
    time = even(layers.TemporalConv(1, frames, use_bias=False), 4)
    found = effective_receptive_fields(network(space, time), ["top"], samples=1)
    field = found["top"]
    assert (field.frames, field.pixels) == (frames, taps)
    assert field.widths["rgb"] == pytest.approx((frames, taps))


def test_unequal_taps_are_narrower():
    """Of [1, 2, 1] the energies are 1, 4, 1: variance 1/3."""
    time = layers.TemporalConv(1, 3, use_bias=False)
    time.build((None, None, None, None, 3))
    time.set_weights([np.broadcast_to(np.reshape([1.0, 2, 1], (3, 1, 1)), (3, 3, 1))])
    found = effective_receptive_fields(network(time), ["top"], samples=1)
    assert found["top"].widths["rgb"] == pytest.approx((math.sqrt(5), 1))


def test_random_layers_grow_with_the_root_of_their_number():
    """Luo et al. (2016), section 2: the energies of independent taps add up."""
    steps = [layers.SpatialConv(48, 3, use_bias=False) for _ in range(6)]
    found = effective_receptive_fields(network(*steps), ["top"], samples=1)["top"]
    assert found.pixels == 13
    assert found.widths["rgb"][1] == pytest.approx(math.sqrt(6 * 8 + 1), rel=0.06)


def test_streams_that_do_not_meet_and_frames_that_all_count():
    model = zoo.load("two_stream_vgg_tiny")
    names = ["appearance/relu2", "motion/relu2", "logits"]
    done = []
    found = effective_receptive_fields(
        model, names, samples=1, report=lambda *x: done.append(x)
    )
    assert set(found["appearance/relu2"].widths) == {"rgb"}
    assert set(found["motion/relu2"].widths) == {"flow"}
    for name in names[:2]:
        (widths,) = found[name].widths.values()
        assert found[name].pixels == 8 and 4 < widths[1] <= 8 and widths[0] == 1
    whole = found["logits"]
    assert (whole.frames, whole.pixels) == (None, None) and set(whole.widths) == {
        "rgb",
        "flow",
    }
    assert whole.widths["flow"][0] == pytest.approx(whole.clip[0], rel=0.2)
    assert [name for name, _ in done] == names
    again = effective_receptive_fields(model, names[:1], samples=1)
    assert again[names[0]] == found[names[0]]
    other = effective_receptive_fields(model, names[:1], samples=1, seed=1)
    assert other[names[0]] != found[names[0]]
    lines = table(found).splitlines()
    assert lines[0].split("  ")[-1].strip() == "effective, flow" and len(lines) == 4
    assert lines[1].split()[-1] == "-" and " of 256" in lines[3]


def test_a_unit_without_slope_is_said():
    silent = layers.SpatialConv(2, 3, kernel_initializer="zeros")
    found = effective_receptive_fields(network(silent), ["top"], samples=1)
    assert math.isnan(found["top"].widths["rgb"][1])
    assert table(found).endswith("no slope")


def test_bad_input():
    model = network(even(layers.SpatialConv(1, 3, use_bias=False)))
    with pytest.raises(ValueError, match="no endpoint 'res9'"):
        effective_receptive_fields(model, ["res9"])
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        effective_receptive_fields(model, ["top"], samples=0)


# --- zoo info ------------------------------------------------------------------------


def test_the_command_prints_every_endpoint(capsys):
    """With a dash or an underscore, like every flag of two words."""
    code, out, error = run(capsys, "info", "vgg_tiny", "--receptive-field")
    assert code == 0, error
    card, lines = out.split("weights: random\n")
    assert card.startswith("vgg_tiny: ")
    rows = {line.split()[0]: line.split() for line in lines.splitlines()[1:]}
    info = zoo.info("vgg_tiny")
    assert list(rows) == [e for e in info.endpoints if e != "predictions"]
    for endpoint, (frames, pixels) in info.receptive_field.items():
        assert rows[endpoint][1:4] == [str(frames), "x", str(pixels)]
        assert 0.4 * pixels < float(rows[endpoint][6]) < pixels
    sizes = [float(row[6]) for row in rows.values()]
    assert sizes[0] == pytest.approx(3, abs=0.5) and sizes[-1] > 4 * sizes[5]


def test_the_command_refuses(capsys):
    code, _, error = run(capsys, "info", "vgg_tiny", "--weights", "imagenet")
    assert code == 2 and "The card of a model makes no use of --weights" in error
    code, _, error = run(capsys, "info", "rfcn_tiny", "--receptive_field")
    assert code == 2 and "rfcn_tiny is a detector" in error
    code, _, error = run(capsys, "info", "vgg_tiny", "--receptive-fields")
    assert code == 2 and "Unknown command line flag" in error
