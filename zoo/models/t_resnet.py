r"""T-ResNet: temporal residual networks for dynamic scene recognition.

Thesis chapter 7 (Feichtenhofer, Pinz, Wildes, CVPR 2017). A ResNet applied to the
frames of a clip in which the first and third residual unit of every stage filter over
time as well: a temporal convolution on the reduced features, in parallel with the
spatial 3x3 convolution, scaled by a small affine S_l (eq. 7.6). Features are averaged
over space, then the maximum over all frames is classified (eq. 7.7).

    x_l --- W1 -- f --+-- W2 3x3 ---------- f --+-- W3 --+-- f -- x_{l+1}
       \              \-- W_t 1x1x3 + b -- f -- S_l      |
        \------------------------------------------------/

Batch normalisation follows W1, W2 and W3 and is omitted here, as in the thesis.
Tensors are clips [B, T, H, W, C]. With S_l at zero the network is the ResNet it was
started from, on every frame.
"""

from functools import partial

import keras

from zoo import layers
from zoo.models import resnet
from zoo.models.inputs import video_input
from zoo.models.resnet import (
    NETS,
    branch_names,
    classifier,
    conv_norm,
    require,
    spatial_aggregation,
    trunk,
)
from zoo.registry import register

UNITS_WITH_TIME = (0, 2)  # "every first and third residual unit at each conv stage"


def thesis_unit(x, shortcut, unit, scale, padding):
    """S_l f(x_t) + f(W2 f(x_1)), with x_t = W_t f(x_1) + b (eq. 7.5 and 7.6).

    The temporal convolution is in pre-activation order (7.3.3): normalisation and
    nonlinearity stand before it, those of x_1, and none but f follows it.

    Args:
        x, shortcut, unit: as in `resnet.spatial_aggregation`.
        scale: initial value of S_l.
        padding: of the temporal convolution, "same" or "valid".
    """
    a = conv_norm(unit, "2a", unit.width, 1, unit.strides_of("1x1"))(x)
    s = conv_norm(unit, "2b", unit.width, 3, unit.strides_of("3x3"))(a)
    x_t = temporal_conv(unit, padding, "he_normal")(at_positions_of_w2(a, unit))
    x_t = keras.layers.ReLU()(x_t)
    x_t = affine_scale(unit, scale)(x_t)
    s, shortcut = keep_centre(padding, s, shortcut)
    return keras.layers.Add(name=f"{temporal_name(unit)}_sum")([s, x_t]), shortcut


def release_unit(x, shortcut, unit, scale, padding):
    """The unit of the released code: the branches join before W2's normalisation.

    With a = f(W1 x_l): f(BN(W2 a + S_l (W_t f(BN(a)) + b))). Arguments as those of
    `thesis_unit`, and eq. 7.6 is the one it departs from.
    """
    a = conv_norm(unit, "2a", unit.width, 1, unit.strides_of("1x1"))(x)
    names = branch_names(unit, "2b")
    strides = unit.strides_of("3x3")
    s = layers.SpatialConv(unit.width, 3, strides, name=names["name"])(a)
    x_t = at_positions_of_w2(a, unit)
    x_t = norm_relu(x_t, f"{temporal_name(unit)}_bn", unit)
    small = keras.initializers.RandomNormal(stddev=0.01)
    x_t = affine_scale(unit, scale)(temporal_conv(unit, padding, small)(x_t))
    s, shortcut = keep_centre(padding, s, shortcut)
    u = keras.layers.Add(name=f"{temporal_name(unit)}_sum")([s, x_t])
    return norm_relu(u, names["norm_name"], unit), shortcut


UNITS = {"thesis": thesis_unit, "release": release_unit}


def temporal_name(unit):
    """Name of the temporal layers, as in the release (thesis 7.3.1)."""
    return f"{unit.prefix}conv_time_res{unit.name}_branch2b"


def at_positions_of_w2(x, unit):
    """The positions at which W2 looks, where W2 has the strides of the stage.

    The release has them on W1, and W_t sees what W2 sees (thesis eq. 7.5).
    """
    strides = unit.strides_of("3x3")
    if strides == 1:
        return x
    name = f"{temporal_name(unit)}_positions"
    return layers.SpatialMaxPooling(1, strides, name=name)(x)


def norm_relu(x, name, unit):
    """f(BN(x)), a pre-activation (thesis 7.3.3)."""
    x = layers.SubBatchNormalization(unit.sub_batch, name=name)(x)
    return keras.layers.ReLU()(x)


def temporal_conv(unit, padding, initializer):
    """W_t, 1x1x3 from random weights, and b = 0 (eq. 7.4)."""
    return layers.TemporalConv(
        padding=padding, kernel_initializer=initializer, name=temporal_name(unit)
    )


def affine_scale(unit, scale):
    """The channel-wise affine scaling S_l of eq. 7.6."""
    return layers.ChannelScale(scale, name=f"{temporal_name(unit)}_scale")


def keep_centre(padding, *maps):
    """The frames that a temporal convolution without padding leaves (thesis 7.3.2)."""
    if padding == "same":
        return maps
    return [keras.layers.Cropping3D(((1, 1), (0, 0), (0, 0)))(x) for x in maps]


def temporal_aggregation(x, shortcut, unit, spatiotemporal):
    """Eq. 7.6 for the first and third unit of a stage, eq. 7.3 for the others."""
    with_time = unit.index in UNITS_WITH_TIME
    return (spatiotemporal if with_time else spatial_aggregation)(x, shortcut, unit)


def t_resnet(
    name,
    net,
    num_classes,
    classifier_activation,
    *,
    unit="thesis",
    temporal_scale=0.01,
    temporal_padding="same",
    temporal_pooling="max",
    stem="caffe",
    sub_batch=None,
):
    """The network of section 7.3: trunk, average over space, maximum over time.

    Args:
        name: of the model. net: a `resnet.Net`.
        num_classes, classifier_activation: of the classifier.
        unit: "thesis" (eq. 7.6) or "release" (the released code).
        temporal_scale: initial value of S_l; zero leaves the spatial network.
        temporal_padding: "same", or "valid" (2.4 % worse in 7.3.2), which takes two
            frames per spatiotemporal unit: 17 frames at least for 50 layers.
        temporal_pooling: "max" (eq. 7.7) or "average" (2 % worse in 7.3.2).
        stem: "caffe", "keras" or "torchvision", see `resnet.STEMS`.
        sub_batch: clips per group of batch normalisation, None for the whole batch.

    Raises:
        ValueError: an unknown unit, stem, padding or pooling.

    Source: thesis 7.3.
    """
    require("unit", unit, UNITS)
    require("temporal_pooling", temporal_pooling, ("max", "average"))
    spatiotemporal = partial(
        UNITS[unit], scale=temporal_scale, padding=temporal_padding
    )
    aggregation = partial(temporal_aggregation, spatiotemporal=spatiotemporal)
    rgb = video_input("rgb")
    x = trunk(rgb, net, stem, sub_batch, aggregation)
    x = layers.SlidingAveragePooling(7, name="pool5")(x)
    if temporal_pooling == "max":  # else the classifier averages scores, and is linear
        x = layers.TemporalMaxPooling(name="pool5_time")(x)
    outputs = classifier(x, num_classes, classifier_activation)
    return keras.Model(rgb, outputs, name=name)


FACTS = {
    **resnet.FACTS,
    "architecture": t_resnet,
    "section": "7.3",
    "new_layers": ("conv_time_*",),
}


@register(
    parameters=25_643_732,
    multiply_adds=66.63,
    receptive_field={
        "res2": (5, 35),
        "res3": (9, 99),
        "res4": (13, 291),
        "res5": (17, 483),
    },
    warm_start="resnet50",
    **FACTS,
)
def t_resnet50(num_classes=20, classifier_activation="softmax", **options):
    """T-ResNet-50, the network of chapter 7 (thesis 7.3; 20 classes of YUP++)."""
    return t_resnet(
        "t_resnet50", NETS["50"], num_classes, classifier_activation, **options
    )


@register(
    parameters=44_635_860,
    multiply_adds=126.0,
    receptive_field={
        "res2": (5, 35),
        "res3": (9, 99),
        "res4": (13, 835),
        "res5": (17, 1027),
    },
    warm_start="resnet101",
    **FACTS,
)
def t_resnet101(num_classes=20, classifier_activation="softmax", **options):
    """T-ResNet on a ResNet-101 (thesis 7.3 applied to the deeper trunk)."""
    return t_resnet(
        "t_resnet101", NETS["101"], num_classes, classifier_activation, **options
    )


@register(
    parameters=60_279_508,
    multiply_adds=185.4,
    receptive_field={
        "res2": (5, 35),
        "res3": (9, 163),
        "res4": (13, 1315),
        "res5": (17, 1507),
    },
    warm_start="resnet152",
    **FACTS,
)
def t_resnet152(num_classes=20, classifier_activation="softmax", **options):
    """T-ResNet on a ResNet-152 (thesis 7.3 applied to the deeper trunk)."""
    return t_resnet(
        "t_resnet152", NETS["152"], num_classes, classifier_activation, **options
    )


@register(
    parameters=576_488,
    multiply_adds=0.07118,
    receptive_field={
        "res2": (3, 19),
        "res3": (5, 35),
        "res4": (7, 67),
        "res5": (9, 131),
    },
    warm_start="resnet_tiny",
    **{**FACTS, "clip": (8, 64, 64), "weights": ()},
)
def t_resnet_tiny(num_classes=8, classifier_activation="softmax", **options):
    """T-ResNet in small, for tests and the synthetic scenes (thesis 7.3)."""
    return t_resnet(
        "t_resnet_tiny", NETS["tiny"], num_classes, classifier_activation, **options
    )
