"""Activation maximisation: the RGB clip and the flow that excite a unit most.

    preferred = maximize(model, "conv5_fusion", range(8), chi=1.0)
    preferred.rgb, preferred.flow, preferred.activations

RGB and flow are found together, many units in one batch, by a variant of AdaGrad that
forgets (Mahendran and Vedaldi 2016). What is searched for is a movie: T frames, and the
N = T + 9 fields of flow between them and around, of which every frame sees its stack of
ten, as in a real video.

Source: thesis chapter 6, eq. 6.1 and section 6.3.2.
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from zoo.models.endpoints import features
from zoo.models.inputs import CHANNELS
from zoo.models.testing import alone_or_all, inputs_of
from zoo.understanding.graph import inputs_seen
from zoo.understanding.regularizers import (
    BOUND,
    Smoothness,
    projected,
    range_penalty,
    variation_in_space,
)

FIELDS = CHANNELS["flow"] // 2
PIXELS = 20.0 / 127.5  # of flow per unit of the network
MEAN = 127.5  # grey, about which colours are searched
FORGET = 0.9  # of the squared gradients, per iteration
BLOCK = 20  # iterations between two looks at what has been found


@dataclasses.dataclass(frozen=True)
class Search:
    """How a preferred input is searched for (thesis 6.3.2 and 6.4).

    Attributes:
        clip: (frames, height, width) of the input.
        iterations: number of steps. rate: length of the first step in grey levels; it
            falls linearly to a tenth.
        strength: weight of the activation, divided by its maximum, against the
            regularisers. Eq. 6.1 has 1 / rho^2 here, of the receptive field's side rho,
            and weights of the regularisers "to provide similar weights for the
            different terms" (6.3.2); with penalties that are means, that is about 1.
        jitter: largest random shift of the input per step, in pixels.
        starts: random starts per unit; the best is kept. seed: of all that is random.

    Raises:
        ValueError: a number out of its range.
    """

    clip: tuple = (5, 64, 64)
    iterations: int = 200
    rate: float = 8.0
    strength: float = 1.0
    jitter: int = 0
    starts: int = 1
    seed: int = 0

    def __post_init__(self):
        clip = tuple(self.clip)
        if len(clip) != 3 or not all(isinstance(n, int) and n > 0 for n in clip):
            raise ValueError(
                "clip must be (frames, height, width), three positive integers, got "
                f"{self.clip!r}."
            )
        object.__setattr__(self, "clip", clip)
        for name, least in (("iterations", 1), ("starts", 1), ("jitter", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(
                    f"{name} must be an integer of at least {least}, got {value!r}."
                )
        for name in ("rate", "strength"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(
                    f"{name} must be a positive number, got {getattr(self, name)!r}."
                )


@dataclasses.dataclass(frozen=True)
class Preferred:
    """What excites some units of one endpoint most.

    Attributes:
        endpoint: its name. channels: of the units, U of them.
        rgb: uint8 [U, T, H, W, 3], or None if the units depend on none.
        flow: float32 [U, T + 9, H, W, 2] in pixels, u right and v down, or None.
        activations: [U], of the units on these inputs.
        history: [iterations / 20, U], of the objective, eq. 6.1.
        dead: channels that no input ever activated; they are not among `channels`.
    """

    endpoint: str
    channels: tuple
    rgb: np.ndarray | None
    flow: np.ndarray | None
    activations: np.ndarray
    history: np.ndarray
    dead: tuple = ()


def maximize(
    model, endpoint, channels, smoothness=None, search=None, maxima=None, report=None
):
    """Finds what excites units of a network most.

    Args:
        model: of the zoo, one of clips `rgb`, of `flow`, or of both.
        endpoint: of `zoo.info(name).endpoints`, or any layer of maps; "logits" for
            classes. The unit in the middle of the map is taken.
        channels: numbers of the units, from 0.
        smoothness: of the flow, a `Smoothness`; None for chi = 1.
        search: a `Search`; None for its defaults.
        maxima: largest activation of each of these units on real clips, the thesis'
            normalisation; None for 1.
        report: called as report(iteration, objectives [U]) now and then.

    Returns:
        A `Preferred`.

    Raises:
        ValueError: an unknown endpoint; a channel out of range; maxima that are not
            one positive number per channel; flow's smoothness for units without.

    Source: thesis eq. 6.1.
    """
    search = search or Search()
    network = features(model, [endpoint])
    seen = inputs_seen(model, endpoint.replace("/", "_"))
    if smoothness is not None and "flow" not in seen:
        raise ValueError(
            f"{endpoint} of {model.name} sees no flow, so there is no smoothness of "
            "flow to choose; leave it out."
        )
    channels = checked_channels(network, endpoint, channels)
    problem = _Problem(
        network,
        endpoint,
        channels,
        _checked_maxima(maxima, channels),
        smoothness or Smoothness(),
        search,
        seen,
    )
    runs = [problem.solve(seed, report) for seed in range(search.starts)]
    return problem.result(runs)


def checked_channels(network, endpoint, channels):
    """Numbers of units as a tuple (ours).

    Args:
        network: of `features`. endpoint: one of its outputs. channels: numbers.

    Raises:
        ValueError: a unit that there is not, or none at all.
    """
    channels = tuple(int(c) for c in channels)
    count = network.output[endpoint].shape[-1]
    wrong = [c for c in channels if not 0 <= c < count]
    if wrong or not channels:
        raise ValueError(
            f"{endpoint} has units 0 to {count - 1}, got "
            f"{', '.join(map(str, wrong)) or 'none'}."
        )
    return channels


def _checked_maxima(maxima, channels):
    maxima = np.ones(len(channels)) if maxima is None else np.asarray(maxima, float)
    if maxima.shape != (len(channels),) or not (maxima > 0).all():
        raise ValueError(
            f"maxima must be one positive number for each of {len(channels)} units, "
            f"got {maxima!r}."
        )
    return maxima.astype("float32")


class _Problem:
    """One search: the objective, its compiled steps, and what comes out."""

    def __init__(self, network, endpoint, channels, maxima, smoothness, search, seen):
        self.network, self.endpoint = network, endpoint
        self.channels, self.maxima = channels, maxima
        self.smoothness, self.search, self.seen = smoothness, search, seen
        self._block = tf.function(self._steps, autograph=False)

    def start(self, start):
        """Random inputs {"rgb", "flow"} in the units of the network.

        Each unit's depend on nothing but the seed, its number and that of the start,
        so that they do not depend on which units share a batch.
        """
        frames, height, width = self.search.clip
        shapes = {
            "rgb": (frames, height, width, 3),
            "flow": (frames + FIELDS - 1, height, width, 2),
        }
        drawn = {kind: [] for kind in self.seen}
        for channel in self.channels:
            rng = np.random.default_rng([self.search.seed, start, channel])
            for kind, inputs in drawn.items():
                inputs.append(rng.normal(0, BOUND / 16, shapes[kind]))
        return {k: tf.constant(np.stack(v), "float32") for k, v in drawn.items()}

    def activations(self, x):
        """Of the unit in the middle of each map, [U].

        A rectified unit at zero has no gradient to wake by; there, the strongest of
        its neighbours, which have the same weights, stands in.
        """
        middle = maps = self._maps(x)
        for _ in range(len(maps.shape) - 1):
            middle = middle[:, tf.shape(middle)[1] // 2]
        strongest = tf.reduce_max(maps, axis=range(1, len(maps.shape)))
        return tf.where(middle == 0, strongest, middle)

    def _maps(self, x):
        """The map of each unit's channel on its own input, [U, ...]."""
        maps = self.network(self._inputs(x), training=False)[self.endpoint]
        maps = tf.gather(maps, self.channels, axis=-1)
        own = tf.range(len(self.channels))
        maps = tf.transpose(
            maps, [0, len(maps.shape) - 1, *range(1, len(maps.shape) - 1)]
        )
        return tf.cast(tf.gather_nd(maps, tf.stack([own, own], axis=1)), "float32")

    def _inputs(self, x):
        """What the network takes, of a movie in its units; what is not seen is grey."""
        frames, height, width = self.search.clip
        given = {}
        for kind in inputs_of(self.network):
            if kind not in x:
                shape = (len(self.channels), frames, height, width, CHANNELS[kind])
                given[kind] = tf.fill(shape, MEAN if kind == "rgb" else 0.0)
            elif kind == "rgb":
                given[kind] = x[kind] + MEAN
            else:
                given[kind] = stacks(x[kind] * PIXELS)
        return alone_or_all(given)

    def objective(self, x):
        """Eq. 6.1 of every unit, [U]."""
        active = self.activations(x)
        value = self.search.strength * active / self.maxima
        for kind, array in x.items():
            value -= range_penalty(array)
            if kind == "flow":
                value -= self.smoothness(array)
            else:
                value -= variation_in_space(array)
        return value

    def _steps(self, x, gathered, rate, first):
        """BLOCK steps; returns inputs, squared gradients and the last objectives."""
        decay = 0.9 / self.search.iterations

        def step(i, x, gathered, _):
            shift = self._shift(first + i)
            shifted = {k: tf.roll(v, shift, (2, 3)) for k, v in x.items()}
            with tf.GradientTape() as tape:
                tape.watch(shifted)
                value = self.objective(shifted)
                total = tf.reduce_sum(value)
            slopes = tape.gradient(total, shifted)
            slopes = {k: tf.roll(v, -shift, (2, 3)) for k, v in slopes.items()}
            length = rate * (1 - decay * tf.cast(first + i, "float32"))
            gathered = {
                k: FORGET * gathered[k] + (1 - FORGET) * tf.square(slopes[k]) for k in x
            }
            # Of the first steps, too, the mean of all that has been gathered.
            share = 1 - tf.pow(FORGET, tf.cast(first + i + 1, "float32"))
            x = {
                k: projected(x[k] + length * slopes[k] / _spread(gathered[k] / share))
                for k in x
            }
            return i + 1, x, gathered, value

        state = (0, x, gathered, tf.zeros(len(self.channels)))
        left = tf.minimum(BLOCK, self.search.iterations - first)
        _, *state = tf.while_loop(lambda i, *_: i < left, step, state)
        return state

    def _shift(self, number):
        seed = tf.stack([self.search.seed, number])
        limit = self.search.jitter
        return tf.random.stateless_uniform((2,), seed, -limit, limit + 1, tf.int32)

    def solve(self, seed, report):
        """(inputs, objectives, history) from one random start."""
        x = self.start(seed)
        gathered = {k: tf.zeros_like(v) for k, v in x.items()}
        rate, first, history = self.search.rate, 0, []
        while first < self.search.iterations:
            found, squares, value = self._block(
                x, gathered, tf.constant(rate, "float32"), tf.constant(first)
            )
            finite = all(
                bool(tf.reduce_all(tf.math.is_finite(v))) for v in found.values()
            )
            if not (finite and np.isfinite(value).all()):
                if rate < self.search.rate / 2**10:
                    raise ValueError(
                        f"The search at {self.endpoint} diverges at any step; the "
                        "network's weights or its activations may not be finite."
                    )
                rate /= 2
                logging.warning(
                    "%s: diverged at step %d; steps are halved to %g.",
                    self.endpoint,
                    first,
                    rate,
                )
                continue
            x, gathered = found, squares
            first += BLOCK
            history.append(value.numpy())
            if report:
                report(min(first, self.search.iterations), value.numpy())
        return x, self.objective(x).numpy(), np.stack(history)

    def result(self, runs):
        """The best of all starts as a `Preferred`."""
        values = np.stack([objectives for _, objectives, _ in runs])
        best = values.argmax(axis=0)
        units = range(len(self.channels))
        x = {
            k: np.stack([runs[best[u]][0][k][u].numpy() for u in units])
            for k in self.seen
        }
        active = self.activations({k: tf.constant(v) for k, v in x.items()}).numpy()
        history = np.stack([runs[best[u]][2][:, u] for u in units], axis=1)
        alive = active != 0  # a rectified unit that nothing reaches
        dead = tuple(c for c, a in zip(self.channels, alive, strict=True) if not a)
        if dead:
            logging.warning(
                "%s: no input was found for %d units, which stay at zero: %s.",
                self.endpoint,
                len(dead),
                ", ".join(map(str, dead)),
            )
        return Preferred(
            endpoint=self.endpoint,
            channels=tuple(c for c, a in zip(self.channels, alive, strict=True) if a),
            rgb=_colours(x["rgb"][alive]) if "rgb" in x else None,
            flow=x["flow"][alive] * PIXELS if "flow" in x else None,
            activations=active[alive],
            history=history[:, alive],
            dead=dead,
        )


def _spread(gathered):
    """Root of the gathered squares of each input, never zero: [U, ...]."""
    mean = tf.reduce_mean(gathered, axis=(1, 2, 3, 4), keepdims=True)
    return tf.sqrt(gathered + 0.1 * mean + 1e-20)


def stacks(fields):
    """Consecutive fields -> the stack of ten of each frame, u and v in turn.

    Args:
        fields: [U, T + 9, H, W, 2].

    Returns:
        [U, T, H, W, 20].

    Source: thesis 2.3.
    """
    frames = fields.shape[1] - FIELDS + 1
    taken = [fields[:, i : i + frames] for i in range(FIELDS)]
    return keras.ops.concatenate(taken, axis=-1)


def _colours(rgb):
    return np.clip(np.round(rgb + MEAN), 0, 255).astype(np.uint8)
