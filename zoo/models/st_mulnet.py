r"""ST-MulNet: spatiotemporal multiplier networks for action recognition.

Thesis chapter 5 (Feichtenhofer, Pinz, Wildes, CVPR 2017). Two ResNets, one on RGB and
one on flow. Before the second residual unit of every stage the motion signal gates,
element by element, what the appearance unit's residual branch reads (eq. 5.5); inside
these second units, of both streams, a temporal convolution that starts as the identity
filters the features over time (eq. 5.8-5.9); at the end comes the maximum over time
(eq. 5.10).

    motion      x^m --- f ---+-------------------------------------- ...
                             |
    appearance  x^a --+----- * --- 1x1 - 3x3 - f - 1x1x3 - 1x1 --+-- f --- ...
                      \-- f -------------------------------------/

x^a and x^m are the sums before the nonlinearity f of the first units. Batch
normalisation follows the spatial convolutions and is omitted here, as in the thesis.
Every row of Tables 5.2 and 5.3 is an entry of `CONNECTIONS` and `TEMPORAL`. Tensors are
clips [B, T, H, W, C]; T counts chunks, of one RGB frame and ten flow fields each.
"""

from functools import partial
from itertools import product
from typing import NamedTuple

import keras

from zoo import layers
from zoo.models import resnet
from zoo.models.inputs import STREAMS
from zoo.models.resnet import (
    NETS,
    require,
    residual_sum,
    residual_unit,
    spatial_aggregation,
)
from zoo.models.towers import towers
from zoo.models.two_stream import (
    TINY,
    facts,
    receptive_fields,
    separate,
    two_inputs,
    two_pools,
    two_scores,
    two_trunks,
)
from zoo.registry import register


class Connection(NamedTuple):
    """How the streams connect at every stage (thesis Table 5.2, Fig. 5.1).

    `appearance` and `motion` say where the signal of the other stream enters: at the
    "residual" branch of the second unit (eq. 5.2 and 5.5), or "direct", at the sum
    that the first unit hands to all that follows; None where none enters.
    """

    interaction: str  # "add" or "multiply"
    appearance: str | None
    motion: str | None = None


CONNECTIONS = {
    # The seven rows of Table 5.2 in their order.
    "direct_add": Connection("add", "direct"),  # Fig. 5.1a
    "direct_multiply": Connection("multiply", "direct"),  # Fig. 5.1b
    "residual_add": Connection("add", "residual"),  # Fig. 5.1c, eq. 5.2
    "residual_multiply": Connection("multiply", "residual"),  # Fig. 5.1d, eq. 5.5
    "residual_add_into_motion": Connection("add", None, "residual"),
    "residual_multiply_into_motion": Connection("multiply", None, "residual"),
    "residual_multiply_both": Connection("multiply", "residual", "residual"),  # 5.1e
    # What the released code builds for the last three.
    "direct_add_into_motion": Connection("add", None, "direct"),
    "direct_multiply_into_motion": Connection("multiply", None, "direct"),
    "release_multiply_both": Connection("multiply", "residual", "direct"),
    # The baseline of Table 5.4.
    "none": None,
}
TABLE_5_2 = tuple(CONNECTIONS)[:7]


class Temporal(NamedTuple):
    """Where and how the streams filter over time (thesis Table 5.3, Fig. 5.3).

    `place` of the temporal convolutions, in both streams: "skip" (dagger), on the
    shortcut path after the last unit of every stage; "residual" (double dagger), after
    the 3x3 convolution of the second unit of every stage; "last" (section sign), the
    same in the last stage alone; None for none.
    """

    place: str | None
    filter: str | None = None  # at the start: "average" or "centre", eq. 5.9
    pool: bool = False  # whether the maximum over time is taken, eq. 5.10


def _temporal_name(place, filter, pool):
    return f"{place}_{filter}{'_pool' if pool else ''}"


TEMPORAL = {
    "none": Temporal(None),
    "pool": Temporal(None, pool=True),
    **{
        _temporal_name(*row): Temporal(*row)
        for row in product(
            ("last", "skip", "residual"), ("average", "centre"), (False, True)
        )
    },
}
# The rows of the thesis in their order; the others are their remaining combinations.
TABLE_5_3 = (
    "none", "last_average", "skip_average", "residual_average", "skip_centre",
    "last_centre", "residual_centre", "skip_centre_pool", "residual_centre_pool",
)  # fmt: skip
VARIANTS = ("thesis", "release")
WINDOW = 5  # of the maximum over time in the release, stride 1


def stage(a, m, units_a, units_m, connection, temporal, by_name):
    """A stage of both streams, connected before the second unit.

    Args:
        a, m: input of the stage in appearance and motion.
        units_a, units_m: their `resnet.Unit`s, at least two each.
        connection: a `Connection`, or None. temporal: a `Temporal`.
        by_name: as the release, filter units whose name is a digit and "b" only.

    Returns:
        Both outputs of the stage.

    Source: thesis eq. 5.2, 5.5 and 5.8, Table 5.1.
    """
    rest = partial(filtered_units, temporal=temporal, by_name=by_name)
    if connection is None:
        a, m = separate(a, m, units_a[:1], units_m[:1])
        return rest(a, units_a[1:]), rest(m, units_m[1:])
    x_a, f_a = first_unit(a, units_a[0], opened=connection.appearance)
    x_m, f_m = first_unit(m, units_m[0], opened=connection.motion)
    signal_a = signal_m = None
    # The other stream's f is that before anything enters, unless it enters directly.
    if connection.motion == "direct":
        f_m = nonlinearity(meet(x_m, f_a, units_m[0], connection), units_m[0], "_fused")
    if connection.appearance == "direct":
        f_a = nonlinearity(meet(x_a, f_m, units_a[0], connection), units_a[0], "_fused")
    if connection.appearance == "residual":
        signal_a = meet(x_a, f_m, units_a[0], connection)
    if connection.motion == "residual":
        signal_m = meet(x_m, f_a, units_m[0], connection)
    return rest(f_a, units_a[1:], signal_a), rest(f_m, units_m[1:], signal_m)


def first_unit(x, unit, opened):
    """(x_l, f(x_l)) of the first unit, x_l only where opened (thesis eq. 5.5)."""
    if not opened:
        return None, residual_unit(x, unit)
    x = residual_sum(x, unit)
    return x, nonlinearity(x, unit)


def meet(x, signal, unit, connection):
    """X + signal or x * signal, under the unit's name (thesis eq. 5.2 and 5.5)."""
    name = f"{unit.endpoint}_{connection.interaction}"
    return layers.CrossStream(connection.interaction, name=name)([x, signal])


def nonlinearity(x, unit, suffix=""):
    """F of a first unit (thesis eq. 5.1)."""
    return keras.layers.ReLU(name=f"{unit.endpoint}{suffix}")(x)


def filtered_units(x, units, signal=None, *, temporal, by_name):
    """The second unit of a stage and those after it, filtering over time.

    Args:
        x: output of the first unit. units: the others.
        signal: what the residual branch of the second unit reads in place of x.
        temporal: a `Temporal`. by_name: see `stage`.

    Source: thesis Table 5.1 and Fig. 5.3.
    """
    for unit in units:
        inside = filters_inside(unit, temporal, by_name)
        aggregation = (
            partial(temporal_aggregation, filter=temporal.filter)
            if inside
            else spatial_aggregation
        )
        x = residual_unit(x, unit, aggregation, signal)
        signal = None
        if temporal.place == "skip" and unit.last:
            x = identity_filter(temporal.filter, f"{unit.endpoint}_time")(x)
    return x


def filters_inside(unit, temporal, by_name):
    """Whether a unit has a temporal convolution of its own (thesis Table 5.1)."""
    second = unit.name.endswith("b") if by_name else unit.index == 1
    places = {"residual": True, "last": unit.name[0] == "5"}
    return second and places.get(temporal.place, False)


def temporal_aggregation(x, shortcut, unit, filter):
    """F of a unit that filters over time after its 3x3 convolution (Fig. 5.3b)."""
    x, shortcut = spatial_aggregation(x, shortcut, unit)
    name = f"{unit.prefix}res{unit.name}_branch2b_time"
    return identity_filter(filter, name)(x), shortcut


def identity_filter(filter, name):
    """The temporal convolution 1x1x3 that starts as the identity of eq. 5.8-5.9."""
    return layers.TemporalConv(
        kernel_initializer=layers.FeatureIdentity(filter), name=name
    )


def temporal_max(a, m, window):
    """Maximum over all chunks (thesis eq. 5.10), or over windows of them."""
    return [
        layers.TemporalMaxPooling(window, name=f"{stream}_pool_time")(x)
        for stream, x in zip(STREAMS, (a, m), strict=True)
    ]


def st_mulnet(
    name,
    nets,
    num_classes,
    classifier_activation,
    *,
    connection="residual_multiply",
    temporal="residual_centre_pool",
    variant="thesis",
    dropout=0.0,
    stream_weights=(1.0, 1.0),
    stem="caffe",
    sub_batch=None,
):
    """The network of section 5.4.

    Args:
        name: of the model. nets: `resnet.Net` of appearance and of motion.
        num_classes, classifier_activation: of both classifiers.
        connection: a row of Table 5.2, a key of `CONNECTIONS`.
        temporal: a row of Table 5.3, a key of `TEMPORAL`.
        variant: "thesis", or "release" for what its weights need: a maximum over
            windows of 5 chunks in place of all, and in ResNet-152 temporal
            convolutions in units 2b and 5b only.
        dropout: before the classifier of the motion stream, in training; 0.8 in 5.4.1.
        stream_weights: of appearance and motion in the average of their scores.
        stem: "caffe", "keras" or "torchvision", see `resnet.STEMS`.
        sub_batch: clips per group of batch normalisation, None for the whole batch.

    Raises:
        ValueError: an unknown connection, temporal row, variant or stem.

    Source: thesis 5.3 and 5.4, Tables 5.1-5.3.
    """
    require("connection", connection, CONNECTIONS)
    require("temporal", temporal, TEMPORAL)
    require("variant", variant, VARIANTS)
    rows = {
        "connection": CONNECTIONS[connection],
        "temporal": TEMPORAL[temporal],
        "by_name": variant == "release",
    }
    inputs = two_inputs()
    a, m = two_trunks(inputs, nets, partial(stage, **rows), stem, sub_batch)
    if TEMPORAL[temporal].pool:
        a, m = temporal_max(a, m, window=None if variant == "thesis" else WINDOW)
    a, m = two_pools(a, m, dropout)
    scores = two_scores(a, m, num_classes)
    return towers(name, inputs, scores, classifier_activation, stream_weights)


# Of the default rows: three chunks more at every stage than before.
RECEPTIVE_FIELDS = {
    "50": {"res2": (3, 35), "res3": (5, 99), "res4": (7, 291), "res5": (9, 483)},
    "152": {"res2": (3, 35), "res3": (5, 163), "res4": (7, 1315), "res5": (9, 1507)},
    "26": {"res2": (3, 27), "res3": (5, 59), "res4": (7, 123), "res5": (9, 251)},
}


def st_mulnet_facts(*nets, **others):
    """The common part of the records (thesis Table 5.1)."""
    return {
        **facts(resnet, nets),
        "architecture": st_mulnet,
        "section": "5.4",
        "new_layers": ("*_time",),
        "receptive_field": receptive_fields(*(RECEPTIVE_FIELDS[net] for net in nets)),
        **others,
    }


@register(
    parameters=49_574_154,
    multiply_adds=139.0,
    warm_start={"appearance": "resnet50", "motion": "motion_resnet50"},
    **st_mulnet_facts("50", "50"),
)
def st_mulnet50(num_classes=101, classifier_activation="softmax", **options):
    """ST-MulNet of two ResNet-50 (thesis 5.4)."""
    return st_mulnet(
        "st_mulnet50",
        (NETS["50"], NETS["50"]),
        num_classes,
        classifier_activation,
        **options,
    )


@register(
    parameters=84_209_930,
    multiply_adds=257.8,
    warm_start={"appearance": "resnet50", "motion": "motion_resnet152"},
    **st_mulnet_facts(
        "50",
        "152",
        # The deeper stream widens what the other sees of it.
        receptive_field=receptive_fields(
            {**RECEPTIVE_FIELDS["50"], "res4": (7, 355), "res5": (9, 1507)},
            RECEPTIVE_FIELDS["152"],
        ),
    ),
)
def st_mulnet50_152(num_classes=101, classifier_activation="softmax", **options):
    """ST-MulNet of ResNet-50 and ResNet-152, the final network of chapter 5 (5.5.3)."""
    return st_mulnet(
        "st_mulnet50_152",
        (NETS["50"], NETS["152"]),
        num_classes,
        classifier_activation,
        **options,
    )


@register(
    parameters=488_280,
    multiply_adds=0.1176,
    warm_start={"appearance": "resnet26_tiny", "motion": "motion_resnet26_tiny"},
    **st_mulnet_facts("26", "26", **TINY),
)
def st_mulnet26_tiny(num_classes=8, classifier_activation="softmax", **options):
    """ST-MulNet in small, for tests and synthetic clips (thesis 5.4)."""
    return st_mulnet(
        "st_mulnet26_tiny",
        (NETS["26"], NETS["26"]),
        num_classes,
        classifier_activation,
        **options,
    )
