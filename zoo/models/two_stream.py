"""Two-stream networks: appearance and motion apart, late fusion of their scores.

Simonyan and Zisserman 2014, as the thesis uses it (section 2.3, Tables 3.3 and 5.4): a
network on RGB frames and a network on stacks of optical flow, "no connection across
the streams"; the raw scores of both are averaged. It is the baseline of chapters 3 to 5
and what their networks start from.

    rgb  --- appearance stream --- scores --+
                                            +-- average --- softmax
    flow --- motion stream ------- scores --+
"""

from zoo.models import resnet, vgg
from zoo.models.classifier import score_map
from zoo.models.inputs import DESCRIPTIONS, STREAMS, normalized, video_input
from zoo.models.resnet import NETS, conv1_pool1, pool5, residual_unit, units
from zoo.models.towers import towers
from zoo.models.vgg import VGGS
from zoo.registry import register


def two_inputs():
    """{"rgb": input, "flow": input} (thesis 2.3)."""
    return {kind: video_input(kind) for kind in STREAMS.values()}


def two_trunks(inputs, nets, stage, stem="caffe", sub_batch=None):
    """Both ResNets up to res5, stage by stage.

    Args:
        inputs: of `two_inputs`. nets: `resnet.Net` of appearance and of motion.
        stage: function of (a, m, units of appearance, units of motion) that returns
            both maps after these units, and may connect the streams.
        stem: a key of `resnet.STEMS`.
        sub_batch: clips per group of batch normalisation, None for the whole batch.

    Returns:
        res5 of both streams, [B, T, H/32, W/32, C] each.

    Source: thesis 4.3.1 and Table 4.1.
    """
    a, m = (
        conv1_pool1(inputs[kind], net, stem, sub_batch, f"{stream}_")
        for (stream, kind), net in zip(STREAMS.items(), nets, strict=True)
    )
    for number in (2, 3, 4, 5):
        of_stage = [
            units(number, net, sub_batch, f"{stream}_", stem)
            for stream, net in zip(STREAMS, nets, strict=True)
        ]
        a, m = stage(a, m, *of_stage)
    return a, m


def separate(a, m, units_a, units_m):
    """A stage of two streams that do not meet (thesis 2.3)."""
    for unit in units_a:
        a = residual_unit(a, unit)
    for unit in units_m:
        m = residual_unit(m, unit)
    return a, m


def two_pools(a, m, dropout=0.0):
    """pool5 of both streams, and dropout in the motion stream alone (thesis 5.4.1)."""
    return pool5(a, prefix="appearance_"), pool5(m, dropout, prefix="motion_")


def two_scores(a, m, num_classes):
    """Raw scores of both streams at every position (thesis Table 4.1)."""
    return {
        "appearance": score_map(a, num_classes, "appearance_"),
        "motion": score_map(m, num_classes, "motion_"),
    }


def two_stream_resnet(
    name,
    nets,
    num_classes,
    classifier_activation,
    *,
    stream_weights=(1.0, 1.0),
    dropout=0.0,
    stem="caffe",
    sub_batch=None,
):
    """Two ResNets and the average of their scores.

    Args:
        name: of the model. nets: `resnet.Net` of appearance and of motion.
        num_classes, classifier_activation: of the classifiers.
        stream_weights: of appearance and motion in the average, (1, 3) on HMDB51.
        dropout: before the classifier of the motion stream, in training.
        stem: "caffe", "keras" or "torchvision", see `resnet.STEMS`.
        sub_batch: clips per group of batch normalisation, None for the whole batch.

    Raises:
        ValueError: an unknown stem, or weights that are not two positive numbers.

    Source: thesis 4.3.1 and 5.5.3, Tables 4.3 and 5.4.
    """
    inputs = two_inputs()
    a, m = two_trunks(inputs, nets, separate, stem, sub_batch)
    a, m = two_pools(a, m, dropout)
    scores = two_scores(a, m, num_classes)
    return towers(name, inputs, scores, classifier_activation, stream_weights)


def two_stream_vgg(
    name,
    nets,
    num_classes,
    classifier_activation,
    *,
    stream_weights=(1.0, 1.0),
    dropout=0.85,
    flow_offset=0.0,
):
    """Two VGGs and the average of their scores.

    Args:
        name: of the model. nets: `vgg.Vgg` of appearance and of motion.
        num_classes, classifier_activation: of the classifiers.
        stream_weights: of appearance and motion in the average, (1, 3) on HMDB51.
        dropout: after fc6 and fc7 of both streams, in training.
        flow_offset: see `inputs.normalized`.

    Raises:
        ValueError: weights that are not two positive numbers.

    Source: thesis 3.3.5 and Table 3.3.
    """
    inputs, found = two_inputs(), {}
    for (stream, kind), net in zip(STREAMS.items(), nets, strict=True):
        prefix = f"{stream}_"
        x = normalized(inputs[kind], vgg.MEAN, prefix, flow_offset)
        for step in vgg.steps(net, num_classes, dropout, vgg.without_in(kind), prefix):
            x = vgg.apply(x, step, prefix)
        found[stream] = x
    return towers(name, inputs, found, classifier_activation, stream_weights)


# Networks whose ImageNet weights keras.applications publishes.
ON_IMAGENET = ("16", "50", "152")


def endpoints(family, nets):
    """Endpoints of both streams, appearance/res2 and so on, and of their average.

    Args:
        family: the module `resnet` or `vgg`. nets: names of its networks of
            appearance and motion.

    Source: layer names of thesis Tables 2.1 and 4.1.
    """
    names = [
        f"{stream}/{name}"
        for (stream, kind), net in zip(STREAMS.items(), nets, strict=True)
        for name in family.endpoints(net, kind)
        if name != "predictions"
    ]
    return (*names, "logits", "predictions")


def receptive_fields(appearance, motion):
    """The fields of both streams under their names (thesis Tables 2.1 and 4.1)."""
    return {
        f"{stream}/{name}": field
        for stream, fields in zip(STREAMS, (appearance, motion), strict=True)
        for name, field in fields.items()
    }


def facts(family, nets, **others):
    """The common part of the records; arguments as of `endpoints` (thesis 2.3)."""
    appearance, motion = (family.RECEPTIVE_FIELDS[net] for net in nets)
    published = all(net in ON_IMAGENET for net in nets)
    return {
        "task": "classification",
        "inputs": DESCRIPTIONS,
        "endpoints": endpoints(family, nets),
        "clip": (16, 224, 224),
        "receptive_field": receptive_fields(appearance, motion),
        "weights": ("imagenet", "imagenet_tiled") if published else (),
        **others,
    }


def resnet_facts(*nets, **others):
    """`facts` of two ResNets that do not meet (thesis Tables 4.3 and 5.4)."""
    return facts(
        resnet, nets, architecture=two_stream_resnet, section="4.3.1, 5.5.3", **others
    )


def vgg_facts(*nets, **others):
    """`facts` of two VGGs that do not meet (thesis Table 3.3)."""
    return facts(vgg, nets, architecture=two_stream_vgg, section="3.3.5", **others)


TINY = {"clip": (8, 64, 64)}


@register(
    parameters=181_335_594,
    multiply_adds=68.45,
    warm_start={"appearance": "vgg_m", "motion": "motion_vgg_m"},
    **vgg_facts("m", "m"),
)
def two_stream_vgg_m(num_classes=101, classifier_activation="softmax", **options):
    """Two VGG-M-2048 streams, late fusion (thesis Tables 3.1 and 3.3)."""
    return two_stream_vgg(
        "two_stream_vgg_m",
        (VGGS["m"], VGGS["m"]),
        num_classes,
        classifier_activation,
        **options,
    )


@register(
    parameters=269_358_474,
    multiply_adds=502.8,
    warm_start={"appearance": "vgg16", "motion": "motion_vgg16"},
    **vgg_facts("16", "16"),
)
def two_stream_vgg16(num_classes=101, classifier_activation="softmax", **options):
    """Two VGG-16 streams, late fusion (thesis Tables 3.3 and 3.5)."""
    return two_stream_vgg(
        "two_stream_vgg16",
        (VGGS["16"], VGGS["16"]),
        num_classes,
        classifier_activation,
        **options,
    )


@register(
    parameters=208_240,
    multiply_adds=0.2155,
    warm_start={"appearance": "vgg_tiny", "motion": "motion_vgg_tiny"},
    **vgg_facts("tiny", "tiny", **TINY),
)
def two_stream_vgg_tiny(num_classes=8, classifier_activation="softmax", **options):
    """Two small VGG streams, late fusion (thesis Table 3.3)."""
    return two_stream_vgg(
        "two_stream_vgg_tiny",
        (VGGS["tiny"], VGGS["tiny"]),
        num_classes,
        classifier_activation,
        **options,
    )


@register(
    parameters=47_483_274,
    multiply_adds=134.1,
    warm_start={"appearance": "resnet50", "motion": "motion_resnet50"},
    **resnet_facts("50", "50"),
)
def two_stream_resnet50(num_classes=101, classifier_activation="softmax", **options):
    """Two ResNet-50 streams, late fusion (thesis Tables 4.3 and 5.4)."""
    return two_stream_resnet(
        "two_stream_resnet50",
        (NETS["50"], NETS["50"]),
        num_classes,
        classifier_activation,
        **options,
    )


@register(
    parameters=116_754_826,
    multiply_adds=371.7,
    warm_start={"appearance": "resnet152", "motion": "motion_resnet152"},
    **resnet_facts("152", "152"),
)
def two_stream_resnet152(num_classes=101, classifier_activation="softmax", **options):
    """Two ResNet-152 streams, late fusion (thesis Table 5.4)."""
    return two_stream_resnet(
        "two_stream_resnet152",
        (NETS["152"], NETS["152"]),
        num_classes,
        classifier_activation,
        **options,
    )


@register(
    parameters=82_119_050,
    multiply_adds=252.9,
    warm_start={"appearance": "resnet50", "motion": "motion_resnet152"},
    **resnet_facts("50", "152"),
)
def two_stream_resnet50_152(
    num_classes=101, classifier_activation="softmax", **options
):
    """ResNet-50 on appearance, ResNet-152 on motion, late fusion (thesis 5.5.3)."""
    return two_stream_resnet(
        "two_stream_resnet50_152",
        (NETS["50"], NETS["152"]),
        num_classes,
        classifier_activation,
        **options,
    )


@register(
    parameters=455_400,
    multiply_adds=0.1145,
    warm_start={"appearance": "resnet26_tiny", "motion": "motion_resnet26_tiny"},
    **resnet_facts("26", "26", **TINY),
)
def two_stream_resnet26_tiny(num_classes=8, classifier_activation="softmax", **options):
    """Two small ResNet streams, late fusion (thesis Table 4.3)."""
    return two_stream_resnet(
        "two_stream_resnet26_tiny",
        (NETS["26"], NETS["26"]),
        num_classes,
        classifier_activation,
        **options,
    )
