"""ResNet-50, 101 and 152 applied to every frame of a clip: the baseline of each stream.

He, Zhang, Ren, Sun 2015 (arXiv:1512.03385), in the form of their Caffe release, from
which the thesis starts (chapters 4, 5, 7): stride 2 stands on the first 1x1
convolution of a stage. Layers carry the names of that release (res4b_branch2a, ...).
Convolutions have no bias; imported biases are folded into batch normalisation. The
scores of all frames are averaged before the softmax.

The appearance stream sees RGB frames, the motion stream stacks of optical flow; they
are the same network but for the channels of conv1.

Tensors are clips [B, T, H, W, C] throughout; sizes in comments are for 224 x 224.
"""

from typing import NamedTuple

import keras

from zoo import layers
from zoo.models.classifier import average_scores, predict, score_map
from zoo.models.inputs import (
    DESCRIPTIONS,
    RELEASED_OFFSET,
    normalized,
    video_input,
)
from zoo.registry import register


class Stem(NamedTuple):
    """What differs between releases of a trunk: mean, pool1, strides, zero flow.

    Source: He et al. 2015 in their Caffe release (caffe); keras.applications, ported
    by Keras' authors in 2017 (keras); torchvision (Marcel and Rodriguez 2010), whose
    deviations are folded into conv1 when weights are imported (torchvision); the
    thesis' own code (release).
    """

    mean: tuple  # of R, G, B in 0-255
    pool_padding: tuple  # (before, after) rows and columns
    stride_on: str = "1x1"  # the convolution that halves a stage, or "3x3" ("v1.5")
    flow_offset: float = 0.0  # what zero motion becomes


STEMS = {
    "caffe": Stem((123.1516, 115.9029, 103.0626), (0, 1)),
    "keras": Stem((123.68, 116.779, 103.939), (1, 1)),
    "torchvision": Stem((123.675, 116.28, 103.53), (1, 1), "3x3"),
    "release": Stem(
        (123.1516, 115.9029, 103.0626), (0, 1), flow_offset=RELEASED_OFFSET
    ),
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
    "26": Net((2, 2, 2, 2), width=8),  # small, with the second units of chapters 4, 5
}


def require(option, value, accepted):
    """Raises ValueError unless `value` is accepted, e.g. a unit of section 7.3."""
    if not isinstance(value, str) or value not in accepted:
        raise ValueError(
            f"Unknown {option} {value!r}; accepted are {', '.join(accepted)}."
        )


class Unit(NamedTuple):
    """One residual unit: "4b" is the second of stage 4 (thesis Table 5.1)."""

    name: str
    index: int  # place in its stage, from 0
    last: bool  # of its stage
    width: int  # channels inside the unit; it returns 4 times as many
    strides: int  # of its projection, and of one convolution before it
    sub_batch: int | None = None  # clips per group of batch normalisation
    prefix: str = ""  # of layer names: "appearance_" or "motion_"
    taps: int = 1  # frames that its 1x1 convolutions span, 3 where inflated (eq. 4.5)
    dilation: int = 1  # of its 3x3 convolution, 2 in detectors (8.3.2)
    stride_on: str = "1x1"  # which convolution has its strides, see `Stem`

    @property
    def endpoint(self):
        """Name of its output: res4b, and res4 for the last of the stage."""
        return f"{self.prefix}res{self.name[0] if self.last else self.name}"

    def strides_of(self, kernel):
        """Strides of its "1x1" or "3x3" convolution (He et al. 2015, releases)."""
        return self.strides if kernel == self.stride_on else 1


def unit_names(stage, net):
    """Names of a stage's units: a, b, c, ...; in deep nets a, b1, b2, ... (Caffe).

    Source: He et al. 2015, Caffe release.
    """
    count = net.units[stage - 2]
    if stage in (3, 4) and net.units[2] > 6:
        return ["a", *(f"b{i}" for i in range(1, count))]
    return list("abcdef"[:count])


def units(stage, net, sub_batch=None, prefix="", stem="caffe"):
    """The residual units of a stage in order (thesis Table 5.1).

    Args:
        stage: 2 to 5. net: a `Net`.
        sub_batch: clips per group of batch normalisation.
        prefix: of the names of their layers.
        stem: a key of `STEMS`, which says where strides are.
    """
    names = unit_names(stage, net)
    width = net.width * 2 ** (stage - 2)
    return [
        Unit(
            name=f"{stage}{letter}",
            index=index,
            last=letter == names[-1],
            width=width,
            strides=2 if stage > 2 and index == 0 else 1,
            sub_batch=sub_batch,
            prefix=prefix,
            stride_on=STEMS[stem].stride_on,
        )
        for index, letter in enumerate(names)
    ]


def branch_names(unit, branch):
    """Names of a convolution and of its normalisation (He et al. 2015, release)."""
    return {
        "name": f"{unit.prefix}res{unit.name}_branch{branch}",
        "norm_name": f"{unit.prefix}bn{unit.name}_branch{branch}",
    }


def conv_norm(unit, branch, filters, kernel_size, strides=1, activation="relu"):
    """The layer f(BN(W x)) of thesis eq. 7.3, under its names in the release."""
    return layers.ConvNorm(
        filters,
        kernel_size,
        strides,
        dilation_rate=unit.dilation if kernel_size > 1 else 1,
        activation=activation,
        sub_batch=unit.sub_batch,
        **branch_names(unit, branch),
    )


def mapping(unit, branch, filters, strides=1, activation="relu"):
    """A 1x1 convolution f(BN(W x)), over `unit.taps` frames (thesis eq. 4.5)."""
    if unit.taps == 1:
        return conv_norm(unit, branch, filters, 1, strides, activation)
    return layers.TemporalConvNorm(
        filters,
        unit.taps,
        activation=activation,
        sub_batch=unit.sub_batch,
        kernel_initializer=layers.Inflated(),
        **branch_names(unit, branch),
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
    x = mapping(unit, "2a", unit.width, unit.strides_of("1x1"))(x)
    x = conv_norm(unit, "2b", unit.width, 3, unit.strides_of("3x3"))(x)
    return x, shortcut


def residual_sum(
    x, unit, aggregation=spatial_aggregation, signal=None, activation=None
):
    """x_l + F(x_l), a bottleneck of width C and output 4 C (thesis eq. 7.1).

    Args:
        x: x_l. unit: the `Unit`. aggregation: F but for its last convolution W3.
        signal: what F reads in place of x_l (eq. 4.2 and 5.5).
        activation: f of eq. 7.1, or None.
    """
    shortcut = x
    if unit.index == 0:
        # W_0: the first unit of a stage changes size and depth.
        shortcut = mapping(unit, "1", 4 * unit.width, unit.strides, None)(x)
    y, shortcut = aggregation(x if signal is None else signal, shortcut, unit)
    return mapping(unit, "2c", 4 * unit.width, activation=activation)(y, shortcut)


def residual_unit(x, unit, aggregation=spatial_aggregation, signal=None):
    """x_{l+1} = f(x_l + F(x_l)) (thesis eq. 7.1); arguments as of `residual_sum`."""
    y = residual_sum(x, unit, aggregation, signal, activation="relu")
    return keras.layers.Identity(name=unit.endpoint)(y)


def conv1_pool1(x, net, stem="caffe", sub_batch=None, prefix=""):
    """The stem: a clip [B, T, H, W, C] -> [B, T, H/4, W/4, width].

    Args:
        x: the input tensor, RGB 0-255 or flow in pixels.
        net: a `Net`. stem: a key of `STEMS`.
        sub_batch: clips per group of batch normalisation.
        prefix: of the names of the layers.

    Raises:
        ValueError: unknown stem.

    Source: He et al. 2015, Table 1; thesis Table 5.1.
    """
    require("stem", stem, STEMS)
    x = normalized(x, STEMS[stem].mean, prefix, STEMS[stem].flow_offset)
    x = layers.ConvNorm(
        net.width,
        7,
        2,
        activation="relu",
        sub_batch=sub_batch,
        norm_name=f"{prefix}bn_conv1",
        name=f"{prefix}conv1",
    )(x)  # 112
    pool1 = layers.SpatialMaxPooling(
        3, 2, STEMS[stem].pool_padding, name=f"{prefix}pool1"
    )
    return pool1(x)  # 56


def trunk(x, net, stem="caffe", sub_batch=None, aggregation=spatial_aggregation):
    """Everything up to res5: a clip [B, T, H, W, C] -> [B, T, H/32, W/32, 32 width].

    Args:
        x: the input tensor, RGB 0-255 or flow in pixels.
        net: a `Net`. stem: a key of `STEMS`.
        sub_batch: clips per group of batch normalisation, None for the whole batch.
        aggregation: from the input of a residual unit to its last convolution.

    Raises:
        ValueError: unknown stem.

    Source: He et al. 2015, Table 1; thesis Table 5.1.
    """
    x = conv1_pool1(x, net, stem, sub_batch)
    for stage in (2, 3, 4, 5):  # 56, 28, 14, 7
        for unit in units(stage, net, sub_batch, stem=stem):
            x = residual_unit(x, unit, aggregation)
    return x


def pool5(x, dropout=0.0, prefix=""):
    """7x7 average at every position, and dropout before the classifier.

    The release drops features here; 5.4.1 says "after the final classification layer",
    which would drop classes.

    Args:
        x: res5 [B, T, H, W, C]. dropout: share dropped in training; 0 adds no layer.
        prefix: of the names of the layers.

    Source: thesis Table 4.1 and section 5.4.1.
    """
    x = layers.SlidingAveragePooling(7, name=f"{prefix}pool5")(x)
    if dropout:
        x = keras.layers.Dropout(dropout, name=f"{prefix}drop_pool5")(x)
    return x


def classifier(x, num_classes, activation):
    """Scores at every position of [B, T', H', W', C], averaged -> [B, num_classes].

    Averaging raw scores over frames and positions, then the activation: thesis 7.3.3.

    Raises:
        ValueError: a number of classes that is not a positive integer.
    """
    return predict(average_scores(score_map(x, num_classes)), activation)


def resnet(
    name,
    net,
    num_classes,
    classifier_activation,
    kind,
    *,
    dropout=0.0,
    stem="caffe",
    sub_batch=None,
):
    """The frame-wise network: trunk, pool5, scores averaged over frames.

    Args:
        name: of the model. net: a `Net`.
        num_classes, classifier_activation: of the classifier.
        kind: what it sees, "rgb" (appearance stream) or "flow" (motion stream).
        dropout: share of the features dropped before the classifier in training, 0.8
            in the thesis' motion streams.
        stem: whose release the trunk follows, "caffe" (He et al.), "keras"
            (keras.applications) or "torchvision", see `STEMS`.
        sub_batch: clips per group of batch normalisation, None for the whole batch.

    Raises:
        ValueError: unknown stem.

    Source: He et al. 2015; the baseline ResNet of thesis Tables 7.2 and 7.3, and the
    streams of Tables 4.3 and 5.4.
    """
    inputs = video_input(kind)
    x = trunk(inputs, net, stem, sub_batch)
    x = pool5(x, dropout)
    outputs = classifier(x, num_classes, classifier_activation)
    return keras.Model(inputs, outputs, name=name)


ENDPOINTS = (
    "conv1", "res2", "res3", "res4", "res5", "pool5", "logits", "predictions",
)  # fmt: skip


def endpoints(net, kind="rgb"):
    """Names for `zoo.features`, the same for all (thesis Table 4.1)."""
    return ENDPOINTS


# In theory, of units at the end of a stage: (frames, pixels).
RECEPTIVE_FIELDS = {
    "50": {"res2": (1, 35), "res3": (1, 99), "res4": (1, 291), "res5": (1, 483)},
    "101": {"res2": (1, 35), "res3": (1, 99), "res4": (1, 835), "res5": (1, 1027)},
    "152": {"res2": (1, 35), "res3": (1, 163), "res4": (1, 1315), "res5": (1, 1507)},
    "tiny": {"res2": (1, 19), "res3": (1, 35), "res4": (1, 67), "res5": (1, 131)},
    "26": {"res2": (1, 27), "res3": (1, 59), "res4": (1, 123), "res5": (1, 251)},
}
FACTS = {
    "architecture": resnet,
    "task": "classification",
    "section": "7.5 (ResNet)",
    "inputs": {"rgb": DESCRIPTIONS["rgb"]},
    "endpoints": ENDPOINTS,
    "clip": (16, 224, 224),
    "weights": ("imagenet",),
}
TINY = {**FACTS, "clip": (8, 64, 64), "weights": ()}
MOTION_FACTS = {
    **FACTS,
    "section": "4.3.1 (motion stream)",
    "inputs": {"flow": DESCRIPTIONS["flow"]},
    "weights": ("imagenet", "imagenet_tiled"),
}


@register(
    parameters=25_557_032,
    multiply_adds=61.73,
    receptive_field=RECEPTIVE_FIELDS["50"],
    **FACTS,
)
def resnet50(num_classes=1000, classifier_activation="softmax", **options):
    """ResNet-50 on every frame, scores averaged (He et al. 2015; thesis 7.5)."""
    return resnet(
        "resnet50", NETS["50"], num_classes, classifier_activation, "rgb", **options
    )


@register(
    parameters=44_549_160,
    multiply_adds=121.1,
    receptive_field=RECEPTIVE_FIELDS["101"],
    **FACTS,
)
def resnet101(num_classes=1000, classifier_activation="softmax", **options):
    """ResNet-101 on every frame, scores averaged (He et al. 2015)."""
    return resnet(
        "resnet101", NETS["101"], num_classes, classifier_activation, "rgb", **options
    )


@register(
    parameters=60_192_808,
    multiply_adds=180.5,
    receptive_field=RECEPTIVE_FIELDS["152"],
    **FACTS,
)
def resnet152(num_classes=1000, classifier_activation="softmax", **options):
    """ResNet-152 on every frame, scores averaged (He et al. 2015)."""
    return resnet(
        "resnet152", NETS["152"], num_classes, classifier_activation, "rgb", **options
    )


@register(
    parameters=510_488,
    multiply_adds=0.06491,
    receptive_field=RECEPTIVE_FIELDS["tiny"],
    **TINY,
)
def resnet_tiny(num_classes=8, classifier_activation="softmax", **options):
    """The frame-wise network in small, for tests and synthetic scenes (thesis 7.5)."""
    return resnet(
        "resnet_tiny",
        NETS["tiny"],
        num_classes,
        classifier_activation,
        "rgb",
        **options,
    )


@register(
    parameters=224_368,
    multiply_adds=0.02997,
    receptive_field=RECEPTIVE_FIELDS["26"],
    **TINY,
)
def resnet26_tiny(num_classes=8, classifier_activation="softmax", **options):
    """A small appearance stream with two units per stage (thesis 4.3.1)."""
    return resnet(
        "resnet26_tiny",
        NETS["26"],
        num_classes,
        classifier_activation,
        "rgb",
        **options,
    )


@register(
    parameters=23_768_293,
    multiply_adds=72.4,
    receptive_field=RECEPTIVE_FIELDS["50"],
    warm_start="resnet50",
    **MOTION_FACTS,
)
def motion_resnet50(num_classes=101, classifier_activation="softmax", **options):
    """The motion stream: ResNet-50 on stacks of flow (thesis 4.3.1)."""
    return resnet(
        "motion_resnet50",
        NETS["50"],
        num_classes,
        classifier_activation,
        "flow",
        **options,
    )


@register(
    parameters=58_404_069,
    multiply_adds=191.2,
    receptive_field=RECEPTIVE_FIELDS["152"],
    warm_start="resnet152",
    **MOTION_FACTS,
)
def motion_resnet152(num_classes=101, classifier_activation="softmax", **options):
    """The motion stream: ResNet-152 on stacks of flow (thesis 5.5.3)."""
    return resnet(
        "motion_resnet152",
        NETS["152"],
        num_classes,
        classifier_activation,
        "flow",
        **options,
    )


@register(
    parameters=231_032,
    multiply_adds=0.08456,
    receptive_field=RECEPTIVE_FIELDS["26"],
    warm_start="resnet26_tiny",
    **{**TINY, **{k: MOTION_FACTS[k] for k in ("section", "inputs")}},
)
def motion_resnet26_tiny(num_classes=8, classifier_activation="softmax", **options):
    """A small motion stream with two units per stage (thesis 4.3.1)."""
    return resnet(
        "motion_resnet26_tiny",
        NETS["26"],
        num_classes,
        classifier_activation,
        "flow",
        **options,
    )
