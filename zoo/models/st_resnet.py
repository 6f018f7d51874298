r"""ST-ResNet: spatiotemporal residual networks for action recognition.

Thesis chapter 4 (Feichtenhofer, Pinz, Wildes, NIPS 2016). Two ResNets, one on RGB and
one on flow, that are one network in two ways. Before the second residual unit of
every stage the motion signal is added to what the appearance unit's residual branch
reads (eq. 4.2). And in these second units, of both streams, the 1x1 convolutions span
three frames (eq. 4.5), "residual connections across time" that start as averages.

    motion      x^m --- f ---+------------------------ ...
                             |
    appearance  x^a --+----- + --- 1x1x3 - 3x3 - 1x1x3 --+-- f --- ...
                      \-- f ----------------------------/

x^a and x^m are the sums before the nonlinearity f of the first units. Batch
normalisation follows every convolution and is omitted here, as in the thesis. Tensors
are clips [B, T, H, W, C]; T counts chunks, of one RGB frame and ten flow fields each.
"""

import keras

from zoo import layers
from zoo.models import resnet
from zoo.models.inputs import STREAMS
from zoo.models.resnet import NETS, require, residual_sum, residual_unit
from zoo.models.towers import towers
from zoo.models.two_stream import (
    TINY,
    facts,
    receptive_fields,
    two_inputs,
    two_pools,
    two_scores,
    two_trunks,
)
from zoo.registry import register

TAPS = 3  # T' of eq. 4.5, frames
WINDOW, STRIDE = 5, 2  # of the maximum over time, Table 4.1
TEMPORAL_POOLING = ("none", "res5", "pool5")


def connected_stage(a, m, units_a, units_m):
    """A stage of both streams: eq. 4.2 before the second unit, eq. 4.5 in it.

    Args:
        a, m: input of the stage in appearance and motion.
        units_a, units_m: their `resnet.Unit`s, at least two each.

    Returns:
        Both outputs of the stage.
    """
    x_a = residual_sum(a, units_a[0])  # x^a, before its nonlinearity
    f_m = residual_unit(m, units_m[0])  # f(x^m)
    f_a = keras.layers.ReLU(name=units_a[0].endpoint)(x_a)
    name = f"{units_a[0].endpoint}_sum"
    signal = layers.CrossStream("add", name=name)([x_a, f_m])
    a = residual_unit(f_a, across_time(units_a[1]), signal=signal)
    m = residual_unit(f_m, across_time(units_m[1]))
    for unit in units_a[2:]:
        a = residual_unit(a, unit)
    for unit in units_m[2:]:
        m = residual_unit(m, unit)
    return a, m


def across_time(unit):
    """The unit with its 1x1 convolutions inflated to 1x1x3 (thesis eq. 4.5)."""
    return unit._replace(taps=TAPS)


def temporal_max(a, m):
    """Maximum over windows of 5 chunks, stride 2: 11 chunks -> 4 (thesis Table 4.1)."""
    return [
        layers.TemporalMaxPooling(WINDOW, STRIDE, name=f"{stream}_pool_time")(x)
        for stream, x in zip(STREAMS, (a, m), strict=True)
    ]


def st_resnet(
    name,
    nets,
    num_classes,
    classifier_activation,
    *,
    temporal_pooling="none",
    stream_weights=(1.0, 1.0),
    stem="caffe",
    sub_batch=None,
):
    """The network of section 4.3.

    Args:
        name: of the model. nets: `resnet.Net` of appearance and of motion.
        num_classes, classifier_activation: of both classifiers.
        temporal_pooling: "none" is ST-ResNet, a prediction per chunk. "res5" is
            ST-ResNet*: a maximum over time, windows of 5 chunks, between res5 and
            pool5 as in Fig. 4.3 and the release; "pool5" puts it after pool5, as the
            text of 4.3.5 has it. Both need 5 chunks at least.
        stream_weights: of appearance and motion in the average of their scores.
        stem: "caffe", "keras" or "torchvision", see `resnet.STEMS`.
        sub_batch: clips per group of batch normalisation, 4 in Table 4.2; None for
            the whole batch.

    Raises:
        ValueError: an unknown temporal pooling or stem.

    Source: thesis 4.3, Table 4.1.
    """
    require("temporal_pooling", temporal_pooling, TEMPORAL_POOLING)
    inputs = two_inputs()
    a, m = two_trunks(inputs, nets, connected_stage, stem, sub_batch)
    if temporal_pooling == "res5":
        a, m = temporal_max(a, m)
    a, m = two_pools(a, m)
    if temporal_pooling == "pool5":
        a, m = temporal_max(a, m)
    scores = two_scores(a, m, num_classes)
    return towers(name, inputs, scores, classifier_activation, stream_weights)


# 17 chunks at the last convolution; space as in the ResNets (Table 4.1).
RECEPTIVE_FIELDS = {
    "50": {"res2": (5, 35), "res3": (9, 99), "res4": (13, 291), "res5": (17, 483)},
    "26": {"res2": (5, 27), "res3": (9, 59), "res4": (13, 123), "res5": (17, 251)},
}


def st_resnet_facts(net, **others):
    """The common part of the records (thesis Table 4.1)."""
    fields = RECEPTIVE_FIELDS[net]
    return {
        **facts(resnet, (net, net)),
        "architecture": st_resnet,
        "section": "4.3",
        "receptive_field": receptive_fields(fields, fields),
        **others,
    }


@register(
    parameters=58_624_394,
    multiply_adds=160.4,
    warm_start={"appearance": "resnet50", "motion": "motion_resnet50"},
    **st_resnet_facts("50"),
)
def st_resnet50(num_classes=101, classifier_activation="softmax", **options):
    """ST-ResNet of 50 layers, the network of chapter 4 (thesis 4.3)."""
    return st_resnet(
        "st_resnet50",
        (NETS["50"], NETS["50"]),
        num_classes,
        classifier_activation,
        **options,
    )


@register(
    parameters=629_480,
    multiply_adds=0.1313,
    warm_start={"appearance": "resnet26_tiny", "motion": "motion_resnet26_tiny"},
    **st_resnet_facts("26", **TINY),
)
def st_resnet26_tiny(num_classes=8, classifier_activation="softmax", **options):
    """ST-ResNet in small, for tests and synthetic clips (thesis 4.3)."""
    return st_resnet(
        "st_resnet26_tiny",
        (NETS["26"], NETS["26"]),
        num_classes,
        classifier_activation,
        **options,
    )
