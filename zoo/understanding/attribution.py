"""Which pixels of which frames speak for a class: attribution in space-time.

    found = grad_cam(model, {"rgb": frames, "flow": stacks}, label=3)
    found.maps["rgb"]                  # [T, H, W]

Of any classifier of the zoo, for the raw score of a class, before the softmax:

- gradient x input: the slope at the clip, times its distance from an empty one;
- integrated gradients: the slope averaged on the straight line from the empty clip to
  this one; the maps sum up to the difference of both scores, which is checked;
- Grad-CAM: the last maps of each stream, weighted by the slope of each channel.

The empty clip is what the networks see as zero: the mean colour, and no motion.

Source: Simonyan, Vedaldi and Zisserman (2014) for gradients; Sundararajan, Taly and Yan
(2017), "Axiomatic attribution for deep networks"; Selvaraju et al. (2017), "Grad-CAM".
Thesis 6.2 for the place of gradients among ways to look into networks.
"""

import dataclasses

import cv2
import keras
import numpy as np
import tensorflow as tf
from absl import logging

from zoo.layers import RGBNormalization
from zoo.models.endpoints import features
from zoo.models.inputs import CHANNELS, DESCRIPTIONS, STREAMS
from zoo.models.testing import alone_or_all, inputs_of

LAST_MAPS = ("res5", "relu5_3", "relu5")
"""Endpoints for Grad-CAM by default: the last that know where, ResNets' and VGGs'."""
FIRST_STEPS = 16
"""Steps on the line at first; three times as many until the sum is right."""
MOST_STEPS = 16 * 3**3
PATH_PIXELS = 16 * 6 * 64 * 64
"""Pixels of the clips on the line that are computed at once."""


@dataclasses.dataclass(frozen=True, eq=False)
class Attribution:
    """What each pixel of a clip contributed to the score of a class.

    Attributes:
        method: a key of `METHODS`. label: of the class. score: its raw score.
        maps: {"rgb": [T, H, W], "flow": [T, H, W]} of the inputs that the network has.
            Of flow a map is of the whole stack around a frame.
        expected: of integrated gradients, what the maps should sum up to: the score
            less that of the empty clip. Else None.
        steps: of integrated gradients, on the line. Else None.
        units: of Grad-CAM, {input: (frames, rows, columns)} of the maps it has taken
            before they were brought to the size of the clip. Else None.
    """

    method: str
    label: int
    score: float
    maps: dict
    expected: float | None = None
    steps: int | None = None
    units: dict | None = None

    @property
    def total(self):
        """The sum of all maps."""
        return float(sum(values.sum(dtype="float64") for values in self.maps.values()))

    @property
    def gap(self):
        """How far `total` is from `expected`, as a share of it; None without one."""
        if self.expected is None:
            return None
        return abs(self.total - self.expected) / max(abs(self.expected), 1e-12)


def gradient_x_input(model, clip, label):
    """Slope of a class score, times the clip's distance from the empty one.

    Args:
        model: a classifier of the zoo. clip: what it takes, without the batch: an array
            [T, H, W, C], or {"rgb", "flow"} of such. label: of the class.

    Returns:
        An `Attribution`; positive where the clip speaks for the class.

    Raises:
        ValueError: a clip that the model does not take, or a label out of range.

    Source: the first order of Taylor's series, Simonyan et al. (2014), section 3.
    """
    problem = _Problem(model, clip, label)
    here = {kind: tf.constant(x[None]) for kind, x in problem.clip.items()}
    slopes = problem.slopes(here)
    maps = problem.maps({kind: slope[0].numpy() for kind, slope in slopes.items()})
    return Attribution("gradient_x_input", problem.label, problem.score, maps)


def integrated_gradients(model, clip, label, tolerance=0.05, report=None):
    """Slope of a class score averaged from the empty clip to this one, as a product.

    The maps are this mean slope times the distance of both clips. The line is walked in
    16 steps; while the sum of the maps is further from the difference of the scores
    than `tolerance` allows, in three times as many, at most 432. What is not reached
    then is said in a warning.

    Args:
        model, clip, label: see `gradient_x_input`.
        tolerance: largest `Attribution.gap`.
        report: called as report(steps done, steps of this round).

    Returns:
        An `Attribution`, with `expected` and `steps`.

    Raises:
        ValueError: as `gradient_x_input`; a tolerance that is not positive.

    Source: Sundararajan et al. (2017), eq. 1 and proposition 1 (completeness).
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance must be above 0, got {tolerance!r}.")
    problem = _Problem(model, clip, label)
    expected = problem.score - problem.score_of(problem.empty)
    sums = {kind: np.zeros(x.shape) for kind, x in problem.clip.items()}
    steps, places = FIRST_STEPS, _middles(FIRST_STEPS)
    while True:
        for slopes in problem.along(places, steps, report):
            for kind, slope in slopes.items():
                sums[kind] += slope.sum(axis=0)
        maps = problem.maps({kind: total / steps for kind, total in sums.items()})
        found = Attribution(
            "integrated_gradients", problem.label, problem.score, maps, expected, steps
        )
        if found.gap <= tolerance or steps == MOST_STEPS:
            break
        # Of three times as many middles every third was among the earlier ones.
        steps *= 3
        places = np.delete(_middles(steps), np.s_[1::3])
    if found.gap > tolerance:
        logging.warning(
            "integrated gradients of class %d sum up to %.4g and not to %.4g after %d "
            "steps; take the maps with care.",
            problem.label,
            found.total,
            expected,
            steps,
        )
    return found


def grad_cam(model, clip, label, endpoint=None):
    """Where the last maps of each stream speak for a class, in space and time.

    Every channel of the maps is weighted by the mean of its slope; their sum, where it
    is positive, is brought to the size of the clip. A map is as fine as the units are
    dense, see `zoo.understanding.strides`.

    Args:
        model, clip, label: see `gradient_x_input`.
        endpoint: maps to take, such as "res4", without the name of a stream; None for
            the last ones, `LAST_MAPS`.

    Returns:
        An `Attribution` of maps that are nowhere negative.

    Raises:
        ValueError: as `gradient_x_input`; an endpoint that a stream does not have or
            that is no map; maps on which the score does not depend.

    Source: Selvaraju et al. (2017), eq. 1 and 2, the mean taken over time as well.
    """
    problem = _Problem(model, clip, label)
    names = {kind: _cam_endpoint(model, kind, endpoint) for kind in problem.clip}
    network = features(model, [*names.values(), "logits"])
    given = {kind: tf.constant(x[None]) for kind, x in problem.clip.items()}
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(given)
        outputs = network(alone_or_all(given), training=False)
        score = outputs["logits"][0, problem.label]
    found = {kind: outputs[name] for kind, name in names.items()}
    slopes = tape.gradient(score, found)
    maps, units = {}, {}
    for kind, name in names.items():
        if slopes[kind] is None or len(found[kind].shape) != 5:
            raise ValueError(
                f"{name} of {model.name} holds no maps on which the scores depend; "
                f"take a convolution's, such as {', '.join(LAST_MAPS)}."
            )
        weights = tf.reduce_mean(slopes[kind][0], axis=(0, 1, 2))
        cam = tf.nn.relu(tf.reduce_sum(found[kind][0] * weights, axis=-1))
        units[kind] = tuple(cam.shape)
        maps[kind] = _resized(cam.numpy().astype("float32"), problem.clip[kind].shape)
    return Attribution("gradcam", problem.label, problem.score, maps, units=units)


METHODS = {
    "gradcam": grad_cam,
    "integrated_gradients": integrated_gradients,
    "gradient_x_input": gradient_x_input,
}
"""{name: function of (model, clip, label)}: the ways to attribute."""


def empty_clip(model, shapes):
    """The clip that a network sees as zero: its mean colour, and no motion.

    Args:
        model: of the zoo. shapes: {"rgb": [..., 3], "flow": [..., 20]} or one of them.

    Returns:
        Arrays of these shapes.

    Raises:
        ValueError: a network of frames that does not subtract a mean colour.

    Source: Sundararajan et al. (2017), section 3: a baseline without a signal.
    """
    dtype, found = keras.config.floatx(), {}
    for kind, shape in shapes.items():
        found[kind] = np.zeros(shape, dtype)
        if kind == "rgb":
            found[kind] += np.array(_mean_colour(model), dtype)
    return found


def _mean_colour(model):
    for layer in model.layers:
        if isinstance(layer, RGBNormalization):
            return layer.mean
    raise ValueError(
        f"{model.name} has no layer RGBNormalization, so its zero is unknown; "
        "attribute classes of the zoo's own networks."
    )


class _Problem:
    """A class score as a function of a clip, and its slopes."""

    def __init__(self, model, clip, label):
        self.clip = _checked(model, clip)
        self.network = features(model, ["logits"])
        self.label = _checked_label(self.network, label)
        shapes = {kind: x.shape for kind, x in self.clip.items()}
        self.empty = empty_clip(model, shapes)
        self.score = self.score_of(self.clip)
        self._graph = None  # made once it is needed often

    def score_of(self, clip):
        given = alone_or_all({kind: x[None] for kind, x in clip.items()})
        logits = self.network(given, training=False)["logits"]
        return float(logits[0, self.label])

    def slopes(self, clips):
        """Of the score of every clip of a batch, by each of its values."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(clips)
            logits = self.network(alone_or_all(clips), training=False)["logits"]
            total = tf.reduce_sum(logits[:, self.label])
        # An input that a network ignores has no slope.
        zero = tf.UnconnectedGradients.ZERO
        return tape.gradient(total, clips, unconnected_gradients=zero)

    def _compiled(self):
        """`slopes` as a graph, which leaves out those of the weights."""
        signature = {
            kind: tf.TensorSpec([None, *x.shape], x.dtype)
            for kind, x in self.clip.items()
        }
        return tf.function(self.slopes, input_signature=[signature], autograph=False)

    def along(self, places, steps, report):
        """Slopes at places from 0, the empty clip, to 1, batch by batch."""
        self._graph = self._graph or self._compiled()
        pixels = max(np.prod(x.shape[:3]) for x in self.clip.values())
        size = max(1, PATH_PIXELS // int(pixels))
        for first in range(0, len(places), size):
            share = places[first : first + size].reshape(-1, 1, 1, 1, 1)
            clips = {}
            for kind, x in self.clip.items():
                empty = self.empty[kind]
                clips[kind] = (empty + share * (x - empty)).astype(x.dtype)
            yield {kind: x.numpy() for kind, x in self._graph(clips).items()}
            if report:
                done = steps - len(places) + first + len(share)
                report(done, steps)

    def maps(self, slopes):
        """Slopes times the distance from the empty clip, summed over channels."""
        return {
            kind: ((x - self.empty[kind]) * slopes[kind]).sum(axis=-1)
            for kind, x in self.clip.items()
        }


def _middles(steps):
    """Middles of so many equal parts of 0...1: networks are almost linear in each."""
    return (np.arange(steps) + 0.5) / steps


def _checked(model, clip):
    """{"rgb", "flow"} of float arrays [T, H, W, C], as the model takes."""
    kinds = inputs_of(model)
    if set(kinds) - set(CHANNELS):
        raise ValueError(
            f"{model.name} takes {' and '.join(kinds)}; attribution takes networks of "
            "clips and of stacks of flow, see zoo.understanding.views.View."
        )
    given = clip if isinstance(clip, dict) else {kinds[0]: clip}
    if set(given) != set(kinds):
        raise ValueError(
            f"{model.name} sees {' and '.join(kinds)}, got {' and '.join(given)}."
        )
    arrays = {}
    for kind in kinds:
        arrays[kind] = np.asarray(given[kind], keras.config.floatx())
        shape = arrays[kind].shape
        if len(shape) != 4 or shape[-1] != CHANNELS[kind] or 0 in shape:
            raise ValueError(
                f"{kind} must be one clip without the batch, {DESCRIPTIONS[kind]}; got "
                f"shape {shape}."
            )
    return arrays


def _checked_label(network, label):
    count = network.output["logits"].shape[-1]
    whole = isinstance(label, int | np.integer) and not isinstance(label, bool)
    if not whole or not 0 <= label < count:
        raise ValueError(f"label must be of a class, 0 to {count - 1}, got {label!r}.")
    return int(label)


def _cam_endpoint(model, kind, endpoint):
    """Name of the layer whose maps Grad-CAM takes for an input."""
    names = {layer.name for layer in model.layers}
    stream = next(name for name, seen in STREAMS.items() if seen == kind)
    alone = len(inputs_of(model)) == 1
    prefix = "" if alone else f"{stream}_"
    wanted = LAST_MAPS if endpoint is None else (endpoint.replace("/", "_"),)
    for name in wanted:
        if prefix + name in names:
            return prefix + name
    if endpoint is not None:
        return prefix + wanted[0]  # which `features` refuses, the nearest named
    raise ValueError(
        f"{model.name} has none of the maps {', '.join(LAST_MAPS)}; name an endpoint."
    )


def _resized(values, shape):
    """[T', H', W'] -> [T, H, W], linear, the grids centred on each other."""
    frames, height, width = shape[:3]
    space = np.stack(
        [cv2.resize(v, (width, height), interpolation=cv2.INTER_LINEAR) for v in values]
    )
    places = (np.arange(frames) + 0.5) * len(space) / frames - 0.5
    places = np.clip(places, 0, len(space) - 1)
    low = np.minimum(places.astype(int), len(space) - 1)
    high = np.minimum(low + 1, len(space) - 1)
    part = (places - low).astype("float32")[:, None, None]
    return (1 - part) * space[low] + part * space[high]
