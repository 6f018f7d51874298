"""Class-specificity of units by depth: do the clips that excite a unit share a class?

The videos of a labelled set that excite a unit most are looked at. If all are of one
class its specificity is 1, if every class is there equally often it is 0: one less the
entropy of their classes, in units of that of equal shares. Few videos cannot be equally
spread, so even a unit that knows nothing of classes is above 0: that chance is told
alongside.

    found = responses(View(model), videos, ["res2", "res5"])
    layers = by_layer(found)             # [Layer(endpoint, values, ...), ...]

Source: thesis 6.4.3, "a consequent increase of class-specificity when moving from the
features at close to the network input to higher layers".
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from zoo.datasets import VideoError, test_videos
from zoo.files import replacing
from zoo.models.endpoints import features
from zoo.models.inputs import CHANNELS, STREAMS
from zoo.models.testing import alone_or_all, inputs_of

SHUFFLES = 200
"""Random rankings of the videos of which chance is the mean."""


@dataclasses.dataclass(frozen=True, eq=False)
class Responses:
    """How strongly every unit responds to every video.

    Attributes:
        values: {endpoint: [videos, units]}, the largest activation of the unit in the
            video, over all frames and positions.
        labels: [videos]. classes: names of the K classes.
        skipped: reasons of the videos that could not be read.
    """

    values: dict
    labels: np.ndarray
    classes: tuple
    skipped: tuple = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """Class-specificity of the units of an endpoint.

    Attributes:
        endpoint: its name. values: [units], 0-1; NaN of units that answer every video
            alike, as dead ones do. chance: mean of units that know nothing of classes.
    """

    endpoint: str
    values: np.ndarray
    chance: float

    @property
    def silent(self):
        """How many units answer every video alike."""
        return int(np.isnan(self.values).sum())

    @property
    def quartiles(self):
        """(lower quartile, mean, upper quartile) of the other units; NaN if none."""
        alive = self.values[~np.isnan(self.values)]
        if not alive.size:
            return (np.nan,) * 3
        low, high = np.percentile(alive, (25, 75))
        return float(low), float(alive.mean()), float(high)


def responses(view, videos, endpoints, flow=None, report=None):
    """Runs a network on every video of a list and keeps what its units say.

    Args:
        view: the `zoo.understanding.views.View` of a classifier. videos: a
            `zoo.datasets.VideoList`; its classes need not be those of the model.
        endpoints: of `zoo.info(name).endpoints`.
        flow: source of optical flow for a network that sees it.
        report: called as report(videos done, of how many).

    Returns:
        The `Responses`. Videos that cannot be read are counted there, and in a warning.

    Raises:
        ValueError: an unknown endpoint, no source of flow, or no video could be read.

    Source: thesis 7.3.3 for the view.
    """
    run = _compiled(features(view.network, list(endpoints)))
    reader, rows, labels, skipped = view.reader(flow), [], [], []
    for number, item in enumerate(test_videos(videos, view.takes, reader=reader), 1):
        failure = item.failure
        if failure is None:
            try:
                seen = view(_named(item.clip, view.inputs))
            except VideoError as error:
                failure = f"{item.path}: {error}"
        if failure is None:
            given = alone_or_all({kind: x[None] for kind, x in seen.items()})
            rows.append({name: y[0].numpy() for name, y in run(given).items()})
            labels.append(item.label)
        else:
            skipped.append(failure)
        if report:
            report(number, len(videos))
    if not rows:
        raise ValueError(
            f"None of the {len(videos)} videos could be read: {'; '.join(skipped[:3])}."
        )
    if skipped:
        logging.warning(
            "%d of %d videos skipped, the first: %s",
            len(skipped),
            len(videos),
            skipped[0],
        )
    values = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return Responses(
        values, np.array(labels), tuple(videos.class_names), tuple(skipped)
    )


def by_layer(found, top=None, seed=0):
    """The specificity of every unit, layer by layer.

    Args:
        found: `Responses`. top: how many videos of each unit are looked at; None for
            as many as the smallest class has. seed: of the rankings of chance.

    Returns:
        [`Layer`], in the order of the endpoints.

    Raises:
        ValueError: fewer than two classes among the videos, or a top out of range.

    Source: thesis 6.4.3; the measure is ours.
    """
    counts = np.bincount(found.labels, minlength=len(found.classes))
    counts = counts[counts > 0]
    if len(counts) < 2:
        raise ValueError("class-specificity needs videos of at least two classes.")
    top = int(counts.min()) if top is None else top
    if not 1 <= top < len(found.labels):
        raise ValueError(
            f"top must be from 1 to {len(found.labels) - 1}, fewer than there are "
            f"videos, got {top!r}."
        )
    rng = np.random.default_rng(seed)
    random = np.stack([rng.permutation(len(found.labels)) for _ in range(SHUFFLES)], 1)
    chance = float(specificity(random, found.labels, top).mean())
    return [
        Layer(endpoint, specificity(values, found.labels, top), chance)
        for endpoint, values in found.values.items()
    ]


def specificity(values, labels, top):
    """One less the relative entropy of the classes of each unit's best videos.

    Classes are weighed as if they had equally many videos. Of videos that tie for the
    last places each has an equal part in them, so that their order does not matter.

    Args:
        values: [videos, units]. labels: [videos]. top: how many are looked at.

    Returns:
        [units], 0-1; NaN of units whose values are all the same.

    Source: Shannon's entropy; thesis 6.4.3.
    """
    places = np.stack([_part_in_the_top(column, top) for column in values.T])
    classes, rows = np.unique(labels, return_inverse=True)
    member = np.eye(len(classes))[rows]
    shares = places @ (member / member.sum(axis=0))
    shares /= shares.sum(axis=1, keepdims=True)
    logs = np.log(np.where(shares > 0, shares, 1))
    found = 1 + (shares * logs).sum(axis=1) / np.log(len(classes))
    return np.where(np.ptp(values, axis=0) > 0, found, np.nan)


def _part_in_the_top(values, top):
    """[N], 1 for each of the `top` largest, equal parts for those that tie."""
    last = np.sort(values)[-top]
    above, tied = values > last, values == last
    return above + tied * (top - above.sum()) / tied.sum()


def table(layers):
    """Specificity by layer as a Markdown table, in per cent.

    Args:
        layers: of `by_layer`.

    Source: thesis 6.4.3.
    """
    lines = [
        "| endpoint | units | silent | mean | middle half | chance |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for layer in layers:
        low, mean, high = (100 * value for value in layer.quartiles)
        lines.append(
            f"| {layer.endpoint} | {len(layer.values)} | {layer.silent} | {mean:.1f} | "
            f"{low:.1f} - {high:.1f} | {100 * layer.chance:.1f} |"
        )
    return "\n".join(lines) + "\n"


def save(layers, folder):
    """Writes specificity.md, specificity.json and specificity.png.

    Args:
        layers: of `by_layer`. folder: created if absent; files of an earlier run are
            replaced.

    Raises:
        OSError: a file cannot be written.

    Source: thesis 6.4.3.
    """
    folder = Path(folder)
    with replacing(folder / "specificity.md") as path:
        path.write_text(table(layers), encoding="utf-8")
    with replacing(folder / "specificity.json") as path:
        units = {
            layer.endpoint: {"chance": layer.chance, "units": _plain(layer.values)}
            for layer in layers
        }
        path.write_text(json.dumps(units, indent=1) + "\n", encoding="utf-8")
    with replacing(folder / "specificity.png") as path:
        plot(layers, path)


def _plain(values):
    """Numbers for JSON, which knows no NaN."""
    return [None if np.isnan(v) else round(float(v), 6) for v in values]


def plot(layers, path):
    """Draws specificity by depth, one line per stream.

    Args:
        layers: of `by_layer`. path: of a .png file.

    Source: thesis 6.4.3.
    """
    streams = {}
    for layer in layers:
        stream, slash, name = layer.endpoint.rpartition("/")
        streams.setdefault(stream if slash else "", []).append((name, layer))
    longest = max(map(len, streams.values()))
    size = (2.5 + 0.5 * longest) * len(streams), 4
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(streams), sharey=True, squeeze=False)[0]
    for axes, (stream, rows) in zip(panels, streams.items(), strict=True):
        low, mean, high = 100 * np.array([layer.quartiles for _, layer in rows]).T
        places = range(len(rows))
        axes.fill_between(places, low, high, alpha=0.25, label="middle half of units")
        axes.plot(places, mean, "o-", label="mean")
        axes.axhline(100 * rows[0][1].chance, color="0.5", ls="--", label="chance")
        axes.set_xticks(places, [name for name, _ in rows], rotation=60, ha="right")
        axes.set_title(stream if stream in STREAMS else "whole network", fontsize=10)
        axes.set_ylim(0, 100)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("class-specificity (%)")
    panels[0].legend(fontsize=8, loc="upper left")
    FigureCanvasAgg(figure).print_png(str(path))


def _compiled(network):
    """The network as one graph for all sizes, to {endpoint: [B, units]}."""
    kinds = inputs_of(network)
    signature = {
        kind: tf.TensorSpec((None,) * 4 + (CHANNELS[kind],), "float32")
        for kind in kinds
    }

    def run(given):
        maps = network(given, training=False)
        return {
            name: tf.cast(tf.reduce_max(y, range(1, len(y.shape) - 1)), "float32")
            for name, y in maps.items()
        }

    return tf.function(run, input_signature=[alone_or_all(signature)], autograph=False)


def _named(clip, inputs):
    return clip if isinstance(clip, dict) else {inputs[0]: clip}
