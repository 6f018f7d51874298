"""ResNet-50, 101 and 152 applied to every frame of a clip: the spatial baseline.

He, Zhang, Ren, Sun 2015 (arXiv:1512.03385), in the form of their Caffe release, from
which the thesis starts (chapters 4, 5, 7): stride 2 stands on the first 1x1
convolution of a stage. Layers carry the names of that release (res4b_branch2a, ...).
Convolutions have no bias; imported biases are folded into batch normalisation. The
scores of all frames are averaged before the softmax.

Tensors are clips [B, T, H, W, C] throughout; sizes in comments are for 224 x 224.
"""

import numbers
from typing import NamedTuple

import keras

from zoo import layers
from zoo.registry import register


class Stem(NamedTuple):
    """What differs between releases of the same trunk: mean colour and pool1.

    Source: He et al. 2015 in their Caffe release (caffe); keras.applications, ported
    by Keras' authors in 2017 (keras).
    """

    mean: tuple  # of R, G, B in 0-255
    pool_padding: tuple  # (before, after) rows and columns


STEMS = {
    "caffe": Stem((123.1516, 115.9029, 103.0626), (0, 1)),
    "keras": Stem((123.68, 116.779, 103.939), (1, 1)),
}


class Net(NamedTuple):
    """Residual units of stages 2-5, and channels inside the units of stage 2.

    Source: He et al. 2015, Table 1; thesis Table 5.1.
    """

    units: tuple
    width: int = 64


NETS = {
    "50": Net((3, 4, 6, 3)),
    "101": Net((3, 4, 23, 3)),
    "152": Net((3, 8, 36, 3)),
    "tiny": Net((1, 1, 1, 1), width=16),
}


def require(option, value, accepted):
    """Raises ValueError unless `value` is accepted, e.g. a unit of section 7.3."""
    if value not in accepted:
        raise ValueError(
            f"Unknown {option} {value!r}; accepted are {', '.join(accepted)}."
        )


def unit_names(stage, net):
    """Names of a stage's units: a, b, c, ...; in deep nets a, b1, b2, ... (Caffe).

    Source: He et al. 2015, Caffe release.
    """
    count = net.units[stage - 2]
    if stage in (3, 4) and net.units[2] > 6:
        return ["a", *(f"b{i}" for i in range(1, count))]
    return list("abcdef"[:count])


class Unit(NamedTuple):
    """One residual unit: "4b" is the second of stage 4 (thesis Table 5.1)."""

    name: str
    index: int  # place in its stage, from 0
    width: int  # channels inside the unit; it returns 4 times as many
    strides: int  # of its first 1x1 convolution and of its projection
    sub_batch: int | None  # clips per group of batch normalisation


def conv_norm(unit, branch, filters, kernel_size, strides=1, activation="relu"):
    """The layer f(BN(W x)) of thesis eq. 7.3, under its names in the release."""
    return layers.ConvNorm(
        filters,
        kernel_size,
        strides,
        activation=activation,
        sub_batch=unit.sub_batch,
        norm_name=f"bn{unit.name}_branch{branch}",
        name=f"res{unit.name}_branch{branch}",
    )


def spatial_aggregation(x, shortcut, unit):
    """From x_l to the input of W3: f(W2 f(W1 x_l)) of thesis eq. 7.3.

    Args:
        x: x_l [B, T, H, W, C].
        shortcut: x_l, or its projection.
        unit: the `Unit`.

    Returns:
        The input of W3, and the shortcut with the same frames.
    """
    x = conv_norm(unit, "2a", unit.width, 1, unit.strides)(x)
    x = conv_norm(unit, "2b", unit.width, 3)(x)
    return x, shortcut


def residual_unit(x, unit, aggregation):
    """x_{l+1} = f(x_l + F(x_l)), a bottleneck of width C and output 4 C (eq. 7.1).

    Args:
        x: x_l. unit: the `Unit`. aggregation: F but for its last convolution W3.
    """
    shortcut = x
    if unit.index == 0:
        project = conv_norm(unit, "1", 4 * unit.width, 1, unit.strides, activation=None)
        shortcut = project(x)
    y, shortcut = aggregation(x, shortcut, unit)
    return conv_norm(unit, "2c", 4 * unit.width, 1)(y, shortcut)


def trunk(rgb, net, stem="caffe", sub_batch=None, aggregation=spatial_aggregation):
    """Everything up to res5: RGB [B, T, H, W, 3] -> [B, T, H/32, W/32, 32 width].

    Args:
        rgb: the input tensor, RGB 0-255.
        net: a `Net`. stem: a key of `STEMS`.
        sub_batch: clips per group of batch normalisation, None for the whole batch.
        aggregation: from the input of a residual unit to its last convolution.

    Raises:
        ValueError: unknown stem.

    Source: He et al. 2015, Table 1; thesis Table 5.1.
    """
    require("stem", stem, STEMS)
    mean, pool_padding = STEMS[stem]
    x = layers.RGBNormalization(mean, name="rgb_normalization")(rgb)
    x = layers.ConvNorm(
        net.width, 7, 2, "relu", sub_batch, norm_name="bn_conv1", name="conv1"
    )(x)  # 112
    x = layers.SpatialMaxPooling(3, 2, pool_padding, name="pool1")(x)  # 56
    for stage in (2, 3, 4, 5):  # 56, 28, 14, 7
        names = unit_names(stage, net)
        for index, letter in enumerate(names):
            strides = 2 if stage > 2 and index == 0 else 1
            width = net.width * 2 ** (stage - 2)
            unit = Unit(f"{stage}{letter}", index, width, strides, sub_batch)
            x = residual_unit(x, unit, aggregation)
            last = letter == names[-1]
            x = keras.layers.Identity(name=f"res{stage if last else unit.name}")(x)
    return x


def classifier(x, num_classes, activation):
    """Scores at every position of [B, T', H', W', C], averaged -> [B, num_classes].

    Averaging raw scores over frames and positions, then the activation: thesis 7.3.3.

    Raises:
        ValueError: a number of classes that is not a positive integer.
    """
    whole = isinstance(num_classes, numbers.Integral)
    if not whole or isinstance(num_classes, bool) or num_classes < 1:
        raise ValueError(
            f"num_classes must be a positive integer, got {num_classes!r}; for "
            "features without a classifier use zoo.features(model, ['pool5'])."
        )
    initializer = keras.initializers.RandomNormal(stddev=0.01)
    x = keras.layers.Dense(int(num_classes), kernel_initializer=initializer, name="fc")(
        x
    )
    x = keras.layers.GlobalAveragePooling3D(dtype="float32", name="logits")(x)
    return keras.layers.Activation(activation, dtype="float32", name="predictions")(x)


def resnet(
    name, net, num_classes, classifier_activation, *, stem="caffe", sub_batch=None
):
    """The frame-wise network: trunk, pool5, scores averaged over frames.

    Args:
        name: of the model. net: a `Net`.
        num_classes, classifier_activation: of the classifier.
        stem: "caffe" (He's release) or "keras" (keras.applications), see `STEMS`.
        sub_batch: clips per group of batch normalisation, None for the whole batch.

    Raises:
        ValueError: unknown stem.

    Source: He et al. 2015; the baseline ResNet of thesis Tables 7.2 and 7.3.
    """
    rgb = keras.Input((None, None, None, 3), name="rgb")
    x = trunk(rgb, net, stem, sub_batch)
    x = layers.SlidingAveragePooling(7, name="pool5")(x)
    outputs = classifier(x, num_classes, classifier_activation)
    return keras.Model(rgb, outputs, name=name)


ENDPOINTS = (
    "conv1", "res2", "res3", "res4", "res5", "pool5", "logits", "predictions",
)  # fmt: skip
RGB = "[B, T, H, W, 3] RGB, 0-255, uint8 or float; normalised inside"
FACTS = {
    "architecture": resnet,
    "task": "classification",
    "section": "7.5 (ResNet)",
    "inputs": {"rgb": RGB},
    "endpoints": ENDPOINTS,
    "clip": (16, 224, 224),
    "weights": ("imagenet",),
}


@register(
    parameters=25_557_032,
    multiply_adds=61.7,
    receptive_field={
        "res2": (1, 35),
        "res3": (1, 99),
        "res4": (1, 291),
        "res5": (1, 483),
    },
    **FACTS,
)
def resnet50(num_classes=1000, classifier_activation="softmax", **options):
    """ResNet-50 on every frame, scores averaged (He et al. 2015; thesis 7.5)."""
    return resnet("resnet50", NETS["50"], num_classes, classifier_activation, **options)


@register(
    parameters=44_549_160,
    multiply_adds=121.1,
    receptive_field={
        "res2": (1, 35),
        "res3": (1, 99),
        "res4": (1, 835),
        "res5": (1, 1027),
    },
    **FACTS,
)
def resnet101(num_classes=1000, classifier_activation="softmax", **options):
    """ResNet-101 on every frame, scores averaged (He et al. 2015)."""
    return resnet(
        "resnet101", NETS["101"], num_classes, classifier_activation, **options
    )


@register(
    parameters=60_192_808,
    multiply_adds=180.5,
    receptive_field={
        "res2": (1, 35),
        "res3": (1, 163),
        "res4": (1, 1315),
        "res5": (1, 1507),
    },
    **FACTS,
)
def resnet152(num_classes=1000, classifier_activation="softmax", **options):
    """ResNet-152 on every frame, scores averaged (He et al. 2015)."""
    return resnet(
        "resnet152", NETS["152"], num_classes, classifier_activation, **options
    )


@register(
    parameters=510_488,
    multiply_adds=0.0649,
    receptive_field={
        "res2": (1, 19),
        "res3": (1, 35),
        "res4": (1, 67),
        "res5": (1, 131),
    },
    **{**FACTS, "clip": (8, 64, 64), "weights": ()},
)
def resnet_tiny(num_classes=8, classifier_activation="softmax", **options):
    """The frame-wise network in small, for tests and synthetic scenes (thesis 7.5)."""
    return resnet(
        "resnet_tiny", NETS["tiny"], num_classes, classifier_activation, **options
    )
