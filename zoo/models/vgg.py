"""VGG-M-2048 and VGG-16 applied to every frame of a clip: the streams of chapter 3.

VGG-M (Chatfield, Simonyan, Vedaldi, Zisserman 2014) and VGG-16 (Simonyan and Zisserman
2014b) with the geometry of thesis Table 2.1. Convolutions have biases and no batch
normalisation; VGG-M normalises responses across channels after its first two. Fully
connected layers are convolutions, so that larger frames give scores at more positions
(section 3.4, fully convolutional testing); the scores of all frames and positions are
averaged before the softmax.

The appearance stream sees RGB frames, the motion stream stacks of optical flow and has
no norm2. Endpoints have the names of Table 2.1; a convolution and its ReLU are one
layer (conv5_3), whose output is the endpoint relu5_3, and fc6 and fc7 are rectified.

Tensors are clips [B, T, H, W, C] throughout.
"""

from typing import NamedTuple

import keras

from zoo import layers
from zoo.models.classifier import average_scores, predict, require_classes
from zoo.models.inputs import DESCRIPTIONS, normalized, video_input
from zoo.registry import register

# Of the ImageNet mean image; R, G, B in 0-255.
MEAN = (123.68, 116.779, 103.939)


class Conv(NamedTuple):
    """A convolution with its ReLU, and what follows it (thesis Table 2.1)."""

    name: str  # "5_3": conv5_3 and relu5_3
    filters: int
    kernel_size: int = 3
    strides: int = 1
    padding: int = 1
    norm: bool = False  # local response normalisation
    pool: bool = False  # max pooling


class Vgg(NamedTuple):
    """A network of the family (thesis Table 2.1)."""

    convs: tuple
    pool_size: int  # stride 2, one row and column of padding at bottom and right
    fc6: tuple  # (kernel_size, filters)
    fc7: int

    @property
    def last_relu(self):
        """The endpoint of the last convolution, where streams fuse (thesis 3.4.1)."""
        return f"relu{self.convs[-1].name}"


def plain_convs(stages):
    """Convolutions 3x3 in stages of (count, filters), pooling after each stage.

    Source: Simonyan and Zisserman (2014), configuration D; thesis Table 2.1.
    """
    return tuple(
        Conv(f"{stage}_{number}", filters, pool=number == count)
        for stage, (count, filters) in enumerate(stages, start=1)
        for number in range(1, count + 1)
    )


VGGS = {
    "m": Vgg(
        convs=(
            Conv("1", 96, 7, strides=2, padding=0, norm=True, pool=True),
            Conv("2", 256, 5, strides=2, padding=1, norm=True, pool=True),
            Conv("3", 512),
            Conv("4", 512),
            Conv("5", 512, pool=True),
        ),
        pool_size=3,
        fc6=(6, 4096),
        fc7=2048,
    ),
    "16": Vgg(
        convs=plain_convs([(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)]),
        pool_size=2,
        fc6=(7, 4096),
        fc7=4096,
    ),
    "tiny": Vgg(
        convs=(
            Conv("1", 16, norm=True, pool=True),
            Conv("2", 24, norm=True, pool=True),
            Conv("3", 32, pool=True),
            Conv("4", 48, pool=True),
            Conv("5", 64, pool=True),
        ),
        pool_size=2,
        fc6=(2, 128),
        fc7=128,
    ),
}


class Step(NamedTuple):
    """One layer of a tower and the endpoint it leads to (thesis Table 2.1)."""

    endpoint: str
    layer: keras.layers.Layer


def steps(net, num_classes, dropout=0.85, without=(), prefix=""):
    """The layers of a tower in order, from conv1 to the scores fc8.

    Args:
        net: a `Vgg`. num_classes: of fc8.
        dropout: after fc6 and fc7, in training; 0 adds no layers.
        without: endpoints left out, ("norm2",) in motion streams.
        prefix: of the names of the layers.

    Returns:
        A list of `Step`.

    Source: thesis Table 2.1; 3.3.5 for the dropout.
    """
    num_classes = require_classes(num_classes)
    found = []
    for conv in net.convs:
        stage = conv.name[0]
        layer = layers.SpatialConv(
            conv.filters,
            conv.kernel_size,
            conv.strides,
            padding=conv.padding,
            use_bias=True,
            activation="relu",
            name=f"{prefix}conv{conv.name}",
        )
        found.append(Step(f"relu{conv.name}", layer))
        if conv.norm:
            name = f"norm{stage}"
            layer = layers.LocalResponseNormalization(name=f"{prefix}{name}")
            found.append(Step(name, layer))
        if conv.pool:
            name = f"pool{stage}"
            layer = layers.SpatialMaxPooling(
                net.pool_size, 2, padding=(0, 1), name=f"{prefix}{name}"
            )
            found.append(Step(name, layer))
    for name, (kernel_size, filters) in (("fc6", net.fc6), ("fc7", (1, net.fc7))):
        layer = layers.SpatialConv(
            filters,
            kernel_size,
            padding=0,
            use_bias=True,
            activation="relu",
            name=f"{prefix}{name}",
        )
        found.append(Step(name, layer))
        if dropout:
            name = f"drop{name[-1]}"
            layer = keras.layers.Dropout(dropout, name=f"{prefix}{name}")
            found.append(Step(name, layer))
    found.append(Step("fc8", scores(num_classes, f"{prefix}fc8")))
    return [step for step in found if step.endpoint not in without]


def scores(num_classes, name):
    """fc8, raw scores at every position, from small weights (thesis Table 2.1)."""
    initializer = keras.initializers.RandomNormal(stddev=0.01)
    return keras.layers.Dense(num_classes, kernel_initializer=initializer, name=name)


def without_in(kind):
    """Endpoints that the stream on "rgb" or "flow" does not have.

    Source: Simonyan and Zisserman 2014a, section 5 (the motion stream lacks norm2).
    """
    return ("norm2",) if kind == "flow" else ()


def apply(x, step, prefix=""):
    """Applies a `Step` and names the endpoint (thesis Table 2.1)."""
    x = step.layer(x)
    name = f"{prefix}{step.endpoint}"
    return x if step.layer.name == name else keras.layers.Identity(name=name)(x)


def vgg(
    name,
    net,
    num_classes,
    classifier_activation,
    kind,
    *,
    dropout=0.85,
    flow_offset=0.0,
):
    """The frame-wise network, scores averaged over frames and positions.

    Args:
        name: of the model. net: a `Vgg`.
        num_classes, classifier_activation: of the classifier.
        kind: what it sees, "rgb" (appearance stream) or "flow" (motion stream).
        dropout: share of fc6 and fc7 dropped in training; 0.85 in 3.3.5, and 0.9 in
            the released motion streams.
        flow_offset: of motion streams, see `inputs.normalized`.

    Raises:
        ValueError: an offset of flow for a network that sees colour.

    Source: thesis Tables 2.1 and 3.3.
    """
    inputs = video_input(kind)
    if kind == "rgb" and flow_offset:
        raise ValueError(f"{name} sees no flow: leave out flow_offset={flow_offset!r}.")
    x = normalized(inputs, MEAN, flow_offset=flow_offset)
    for step in steps(net, num_classes, dropout, without_in(kind)):
        x = apply(x, step)
    outputs = predict(average_scores(x), classifier_activation)
    return keras.Model(inputs, outputs, name=name)


def endpoints(net, kind="rgb"):
    """Names for `zoo.features` of a key of `VGGS`, in order of depth (Table 2.1)."""
    names = [s.endpoint for s in steps(VGGS[net], 1, 0, without_in(kind))]
    return (*names, "logits", "predictions")


# In theory, at the endpoints of the thesis' Table 2.1: (frames, pixels).
RECEPTIVE_FIELDS = {
    "m": {
        "relu1": (1, 7), "pool1": (1, 11), "relu2": (1, 27), "pool2": (1, 43),
        "relu3": (1, 75), "relu4": (1, 107), "relu5": (1, 139), "pool5": (1, 171),
        "fc6": (1, 331), "fc7": (1, 331),
    },
    "16": {
        "relu1_1": (1, 3), "relu1_2": (1, 5), "pool1": (1, 6), "relu2_1": (1, 10),
        "relu2_2": (1, 14), "pool2": (1, 16), "relu3_1": (1, 24), "relu3_2": (1, 32),
        "relu3_3": (1, 40), "pool3": (1, 44), "relu4_1": (1, 60), "relu4_2": (1, 76),
        "relu4_3": (1, 92), "pool4": (1, 100), "relu5_1": (1, 132),
        "relu5_2": (1, 164), "relu5_3": (1, 196), "pool5": (1, 212), "fc6": (1, 404),
        "fc7": (1, 404),
    },
    "tiny": {
        "relu5": (1, 78), "pool5": (1, 94), "fc6": (1, 126), "fc7": (1, 126),
    },
}  # fmt: skip


def facts(net, kind="rgb", **others):
    """The common part of the records (thesis Tables 2.1 and 3.3)."""
    return {
        "architecture": vgg,
        "task": "classification",
        "section": "3.3.5 (streams)",
        "inputs": {kind: DESCRIPTIONS[kind]},
        "endpoints": endpoints(net, kind),
        "clip": (16, 224, 224),
        "receptive_field": RECEPTIVE_FIELDS[net],
        **others,
    }


TINY = {"clip": (8, 64, 64)}


@register(parameters=92_469_864, multiply_adds=26.65, **facts("m"))
def vgg_m(num_classes=1000, classifier_activation="softmax", **options):
    """VGG-M-2048 on every frame, scores averaged (thesis Tables 2.1 and 3.3)."""
    return vgg("vgg_m", VGGS["m"], num_classes, classifier_activation, "rgb", **options)


@register(
    parameters=138_357_544, multiply_adds=247.5, **facts("16", weights=("imagenet",))
)
def vgg16(num_classes=1000, classifier_activation="softmax", **options):
    """VGG-16 on every frame, scores averaged (thesis Tables 2.1 and 3.3)."""
    return vgg(
        "vgg16", VGGS["16"], num_classes, classifier_activation, "rgb", **options
    )


@register(parameters=102_896, multiply_adds=0.06764, **facts("tiny", **TINY))
def vgg_tiny(num_classes=8, classifier_activation="softmax", **options):
    """VGG-M in small, for tests and synthetic clips (thesis Table 2.1)."""
    return vgg(
        "vgg_tiny", VGGS["tiny"], num_classes, classifier_activation, "rgb", **options
    )


@register(
    parameters=90_707_781, multiply_adds=41.82, **facts("m", "flow", warm_start="vgg_m")
)
def motion_vgg_m(num_classes=101, classifier_activation="softmax", **options):
    """The motion stream: VGG-M-2048 on stacks of flow (thesis Table 3.3)."""
    return vgg(
        "motion_vgg_m", VGGS["m"], num_classes, classifier_activation, "flow", **options
    )


@register(
    parameters=134_684_133,
    multiply_adds=255.3,
    **facts("16", "flow", warm_start="vgg16", weights=("imagenet", "imagenet_tiled")),
)
def motion_vgg16(num_classes=101, classifier_activation="softmax", **options):
    """The motion stream: VGG-16 on stacks of flow (thesis Table 3.3)."""
    return vgg(
        "motion_vgg16",
        VGGS["16"],
        num_classes,
        classifier_activation,
        "flow",
        **options,
    )


@register(
    parameters=105_344,
    multiply_adds=0.1479,
    **facts("tiny", "flow", warm_start="vgg_tiny", **TINY),
)
def motion_vgg_tiny(num_classes=8, classifier_activation="softmax", **options):
    """The motion stream of a VGG-M in small (thesis Table 2.1)."""
    return vgg(
        "motion_vgg_tiny",
        VGGS["tiny"],
        num_classes,
        classifier_activation,
        "flow",
        **options,
    )
