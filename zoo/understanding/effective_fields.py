"""Effective receptive fields: where in space and time a unit really looks.

    effective_receptive_fields(model, ["res4", "res5"])["res5"].widths["rgb"]

The theoretical field counts every pixel that could matter (`graph.receptive_fields`).
Most at its border hardly do: few paths lead from there to the unit. Here the energy of
the slope of the unit in the middle is measured, on noise and over all channels, and its
spread along each axis is given as the width of an even window of the same spread: k for
a convolution of k taps of equal strength, sqrt(n (k^2 - 1) + 1) for n random ones on
top of each other, which have n (k - 1) + 1 in theory.

Source: Luo et al. (2016), "Understanding the effective receptive field"; thesis Table
2.1 and Fig. 4.3 for the theoretical ones.
"""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from zoo.models.endpoints import features
from zoo.models.inputs import CHANNELS
from zoo.models.plain_rgb import network_of
from zoo.models.testing import alone_or_all, inputs_of
from zoo.understanding.graph import receptive_fields, strides

MOST_PIXELS = 256
"""Largest height and width of the noise; of larger fields the middle is measured."""
ALL_FRAMES = 8
"""Frames of the noise where a unit sees all."""


@dataclasses.dataclass(frozen=True)
class Field:
    """Receptive field of the units of an endpoint.

    Attributes:
        frames, pixels: in theory; None for all.
        widths: {input: (frames, pixels)}, effective, of every input on which the units
            depend; NaN where no slope was found.
        clip: (frames, height, width) of the noise it was measured on. A theoretical
            field that is larger was cut there.
    """

    frames: int | None
    pixels: int | None
    widths: dict
    clip: tuple


def effective_receptive_fields(model, endpoints, samples=2, seed=0, report=None):
    """Measures the receptive fields of some endpoints beside their theoretical ones.

    Args:
        model: a model of the zoo, of clips, of flow, or of both; with the weights that
            the fields are to be of.
        endpoints: of `zoo.info(name).endpoints`, or names of layers.
        samples: clips of noise to average over, each with a random sign per channel,
            so that the energies of all channels add up. seed: of both.
        report: called as report(endpoint, `Field`) when one is done.

    Returns:
        {endpoint: `Field`}.

    Raises:
        ValueError: an unknown endpoint; no samples.

    Source: Luo et al. (2016), section 3.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples!r}.")
    model = network_of(model)
    theory, steps, found = receptive_fields(model), strides(model), {}
    for endpoint in endpoints:
        network = features(model, [endpoint])
        layer = endpoint.replace("/", "_")
        frames, pixels = theory[layer]
        clip = _clip(frames, pixels, *steps[layer])
        widths = _widths(network, endpoint, clip, samples, seed)
        found[endpoint] = Field(frames, pixels, widths, clip)
        if report:
            report(endpoint, found[endpoint])
    return found


def width(energy):
    """Width of the even window that has the spread of an energy along one axis.

    Args:
        energy: [N], nowhere negative.

    Returns:
        sqrt(12 variance + 1), in samples; NaN without any energy.

    Source: the variance of k equal taps is (k^2 - 1) / 12.
    """
    total = energy.sum()
    if not total > 0:
        return math.nan
    places = np.arange(len(energy))
    middle = (places * energy).sum() / total
    return math.sqrt(12 * ((places - middle) ** 2 * energy).sum() / total + 1)


def table(fields):
    """Theoretical and effective fields as lines of text, in frames x pixels.

    Args:
        fields: of `effective_receptive_fields`.

    Source: thesis Table 2.1.
    """
    kinds = [k for k in CHANNELS if any(k in f.widths for f in fields.values())]
    rows = [("endpoint", "in theory", *(f"effective, {kind}" for kind in kinds))]
    for endpoint, field in fields.items():
        cells = [_cell(field, field.widths.get(kind)) for kind in kinds]
        theory = f"{_count(field.frames)} x {_count(field.pixels)}"
        rows.append((endpoint, theory, *cells))
    sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(c.ljust(n) for c, n in zip(row, sizes, strict=True)).rstrip()
        for row in rows
    )


def _count(number):
    return "all" if number is None else str(number)


def _cell(field, widths):
    if widths is None:
        return "-"
    if math.isnan(widths[0]):
        return "no slope"
    larger = field.pixels is None or field.pixels > field.clip[1]
    cut = f" of {field.clip[1]}" if larger else ""
    return f"{widths[0]:.1f} x {widths[1]:.0f}{cut}"


def _clip(frames, pixels, frame_stride, pixel_stride):
    """Large enough that the whole field of the unit in the middle lies inside."""
    frames = ALL_FRAMES if frames is None else frames + 2 * (frame_stride - 1)
    side = MOST_PIXELS
    if pixels is not None:
        # A whole number of units and one more on each side, for paddings that shift.
        side = min(side, pixel_stride * (-(-pixels // pixel_stride) + 2))
    return frames, side, side


def _widths(network, endpoint, clip, samples, seed):
    """{input: (frames, pixels)} of the unit in the middle of an endpoint."""
    rng = np.random.default_rng(seed)
    energies = {}
    for _ in range(samples):
        given = {kind: _noise(kind, clip, rng) for kind in inputs_of(network)}
        signs = rng.choice([-1.0, 1.0], network.output[endpoint].shape[-1])
        for kind, slope in _slopes(network, endpoint, given, signs).items():
            energies[kind] = energies.get(kind, 0) + np.square(slope, dtype="float64")
    return {kind: _axes(energy) for kind, energy in energies.items()}


def _noise(kind, clip, rng):
    shape = (1, *clip, CHANNELS[kind])
    values = rng.uniform(0, 255, shape) if kind == "rgb" else rng.normal(0, 5, shape)
    return tf.constant(values.astype("float32"))


def _slopes(network, endpoint, given, signs):
    """{input: [T, H, W, C]}; an input on which the unit does not depend is left out."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(given)
        unit = network(alone_or_all(given), training=False)[endpoint]
        unit = tf.cast(unit, "float32")
        while len(unit.shape) > 1:
            unit = unit[:, unit.shape[1] // 2] if len(unit.shape) > 2 else unit[0]
        value = tf.reduce_sum(unit * tf.constant(signs, "float32"))
    slopes = tape.gradient(value, given)
    return {kind: x.numpy()[0] for kind, x in slopes.items() if x is not None}


def _axes(energy):
    """(frames, pixels) of an energy [T, H, W, C]; pixels are the mean of both axes."""
    time, rows, columns = (
        width(energy.sum(axis=tuple({0, 1, 2, 3} - {axis}))) for axis in range(3)
    )
    return time, (rows + columns) / 2
