"""R-FCN on every frame of a clip: the detector that Detect & Track begins with.

Li, Dai, He, Sun 2016 (arXiv:1605.06409) as in thesis 8.3.2 and 8.5.2: a ResNet whose
conv5 keeps stride 16 and is dilated instead; a region proposal network (Ren et al.
2015) on it; one 3x3 convolution of dilation 6 that reduces to 512 channels; and 1x1
convolutions to k^2 (C + 1) maps of position-sensitive scores and 4 k^2 maps of box
regression, pooled in k x k bins of every proposal, and averaged.

Layers carry the names of the thesis' release (conv_new_1, rfcn_cls, rfcn_bbox). Tensors
are clips [B, T, H, W, C] throughout; R is the number of proposals per frame. Sizes in
comments are for frames of 608 x 1008.
"""

import functools
import re
from typing import NamedTuple

import keras

from zoo import layers
from zoo.models.classifier import in_full, require_classes
from zoo.models.detector import Detector, average_bins, deltas_of
from zoo.models.inputs import DESCRIPTIONS, video_input
from zoo.models.resnet import NETS, conv1_pool1, require, residual_unit, units
from zoo.models.resnet import RECEPTIVE_FIELDS as RESNET_FIELDS
from zoo.models.resnext import RECEPTIVE_FIELDS as RESNEXT_FIELDS
from zoo.models.resnext import dilated_resnext
from zoo.registry import register

STRIDE = 16  # pixels between positions of conv5
ANCHORS = tuple(STRIDE * 2 ** (n / 2) for n in (1, 3, 5, 7, 9))  # pixels


class Heads(NamedTuple):
    """What stands on the trunk.

    Source: thesis 8.5.2; scales of the anchors from the author's proposal network.
    """

    rpn: int = 512  # channels of the 3x3 convolution before objectness
    reduced: int = 512  # channels of conv_new_1
    bins: int = 7  # k
    scales: tuple = ANCHORS
    ratios: tuple = (1.0, 2.0, 0.5)  # width / height
    min_size: int = 16  # of proposals, in pixels
    displacement: int = 8  # d of eq. 8.4


HEADS = {
    "full": Heads(),
    "tiny": Heads(
        rpn=32,
        reduced=64,
        bins=3,
        scales=(16, 24, 36, 54, 80),
        min_size=4,
        displacement=3,
    ),
}


class Variant(NamedTuple):
    """What the thesis and the author's release do differently (docs/fidelity.md).

    Source: thesis 8.3 and 8.5.2; the release's prototxt files.
    """

    box_values: int  # per bin: 4 of the object, in the release 4 more of background
    has_rpn: bool  # the release reads proposals computed elsewhere
    conv3_step: int  # between displacements in the correlation of conv3
    caffe: bool  # boxes of width x2 - x1 + 1
    normalized: bool  # box deltas by MEANS and STDS; released files hold true ones


VARIANTS = {
    "thesis": Variant(
        box_values=4, has_rpn=True, conv3_step=1, caffe=False, normalized=True
    ),
    "release": Variant(
        box_values=8, has_rpn=False, conv3_step=2, caffe=True, normalized=False
    ),
}
# Of conv1 and conv2, in ResNets and ResNeXts.
STEM = re.compile("conv1$|res2|resx[123]_")
# Of the regression targets (dx, dy, dw, dh) on ImageNet VID and DET, from the release.
MEANS = (0.0, 0.003925, 0.063804, 0.036985)
STDS = (0.127715, 0.113734, 0.236192, 0.213047)


def dilated_resnet(net, x, stem="caffe", variant="thesis"):
    """A ResNet of stride 16: a clip -> {"res3", "res4", "res5"} [B, T, H', W', C].

    Args:
        net: a `Net` of `zoo.models.resnet`.
        x: the input tensor, RGB 0-255.
        stem: a key of `STEMS` of `zoo.models.resnet`.
        variant: makes no difference here.

    Source: thesis 8.3.2: "modifying the conv5 block to have unit spatial stride, and
    also increase its receptive field by dilated convolutions".
    """
    maps = {}
    x = conv1_pool1(x, net, stem)  # 152 x 252
    for stage in (2, 3, 4, 5):  # 152 x 252, 76 x 126, 38 x 63, 38 x 63
        for unit in units(stage, net, stem=stem):
            if stage == 5:
                unit = unit._replace(strides=1, dilation=2)
            x = residual_unit(x, unit)
        maps[f"res{stage}"] = x
    return maps


TRUNKS = {
    **{name: functools.partial(dilated_resnet, net) for name, net in NETS.items()},
    "resnext101": dilated_resnext,
}


def new_convolution(filters, kernel_size, name, dilation=1, activation=None):
    """A layer from N(0, 0.01^2), with a bias (thesis 8.5.2; Ren et al. 2015)."""
    return layers.SpatialConv(
        filters,
        kernel_size,
        dilation_rate=dilation,
        use_bias=True,
        activation=activation,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        name=name,
    )


def per_frame(layer):
    """A layer of images for clips, in full precision (thesis 8.3.1)."""
    return layers.PerFrame(layer, name=layer.name, dtype=in_full())


def region_proposals(frames, conv5, heads, count):
    """The region proposal network: {"proposals", "proposal_mask", and its maps}.

    Args:
        frames: the input clip, for its size.
        conv5: [B, T, H', W', C]. heads: the `Heads`.
        count: R, boxes kept per frame.

    Source: Ren et al. 2015, section 3; thesis 8.5.2: 15 anchors, NMS at 0.7, 300 boxes.
    """
    anchors = len(heads.scales) * len(heads.ratios)
    x = new_convolution(heads.rpn, 3, "rpn_conv", activation="relu")(conv5)
    objectness = in_float(new_convolution(anchors, 1, "rpn_cls")(x), "objectness")
    deltas = in_float(new_convolution(4 * anchors, 1, "rpn_bbox")(x), "anchor_deltas")
    propose = layers.Proposals(
        count,
        iou_threshold=0.7,
        min_size=heads.min_size,
        stride=STRIDE,
        scales=heads.scales,
        ratios=heads.ratios,
        name="proposals",
    )
    boxes, mask = per_frame(propose)([objectness, deltas, frames])
    return {
        "objectness": objectness,
        "anchor_deltas": deltas,
        "proposals": boxes,
        "proposal_mask": mask,
    }


def in_float(x, name):
    """Maps in full precision, under the name of an output (thesis 8.3.2)."""
    return keras.layers.Identity(dtype=in_full(), name=name)(x)


def roi_pooling(values, name, heads):
    """Position-sensitive pooling of every frame: a layer of [maps, RoIs].

    From maps [B, T, H', W', values k^2] and RoIs [B, T, R, 4] in pixels to [B, T, R, k,
    k, values], with the bins of R-FCN's own code.

    Args:
        values: per bin. name: of the layer. heads: the `Heads`.

    Source: Li et al. 2016, eq. 1; thesis 8.3.2.
    """
    pool = layers.PSRoIPooling(
        values, heads.bins, 1 / STRIDE, released=True, name=name, dtype=in_full()
    )
    return per_frame(pool)


def detection(frames, conv5, num_classes, heads, variant, count, proposals=None):
    """Everything of R-FCN on the trunk, as the outputs of a `Detector`.

    Args:
        frames: the input clip. conv5: [B, T, H', W', C].
        num_classes: C. heads: the `Heads`. variant: the `Variant`.
        count: R, proposals per frame. proposals: [B, T, R, 4] in place of the RPN's.

    Source: thesis 8.3.2 and 8.5.2.
    """
    k, values = heads.bins, variant.box_values
    x = new_convolution(heads.reduced, 3, "conv_new_1", 6, "relu")(conv5)
    scores = new_convolution(k * k * (num_classes + 1), 1, "rfcn_cls")(x)
    box_maps = new_convolution(k * k * values, 1, "rfcn_bbox")(x)
    outputs = {
        "score_maps": in_float(scores, "score_maps"),
        "box_maps": in_float(box_maps, "box_maps"),
    }
    if proposals is None:
        outputs |= region_proposals(frames, conv5, heads, count)
    else:
        mask = NotEmpty(name="proposal_mask")(proposals)
        outputs |= {"proposals": proposals, "proposal_mask": mask}
    rois = outputs["proposals"]
    pool_scores = roi_pooling(num_classes + 1, "psroipooled_cls_rois", heads)
    pool_boxes = roi_pooling(values, "psroipooled_loc_rois", heads)
    outputs["class_scores"] = average_bins(pool_scores([outputs["score_maps"], rois]))
    outputs["box_deltas"] = deltas_of(pool_boxes([outputs["box_maps"], rois]))
    moments = (MEANS, STDS) if variant.normalized else ()
    transform = layers.BoxTransform(*moments, released=variant.caffe, name="boxes")
    outputs["boxes"] = per_frame(transform)([rois, outputs["box_deltas"]])
    return outputs


@keras.saving.register_keras_serializable(package="zoo")
class NotEmpty(keras.layers.Layer):
    """Which boxes [..., 4] have an area: [...]; the others pad (thesis 8.5.2)."""

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, boxes):
        return layers.area(boxes) > 0


def inputs_of(variant):
    """The inputs of a detector: frames, and proposals without an RPN (thesis 8.3.1)."""
    inputs = {"rgb": video_input("rgb")}
    if not variant.has_rpn:
        inputs["proposals"] = keras.Input((None, None, 4), name="proposals")
    return inputs


def rfcn(
    name,
    trunk,
    num_classes,
    classifier_activation,
    heads,
    *,
    stem="caffe",
    variant="thesis",
    proposals=300,
    frozen=True,
):
    """R-FCN on every frame.

    Args:
        name: of the model.
        trunk: a function of (clip, stem, variant) to the maps of conv3, conv4 and
            conv5, of strides 8, 16 and 16: a value of `TRUNKS`.
        num_classes: C, background not counted.
        classifier_activation: "softmax", of the pooled scores of a box.
        heads: the `Heads`.
        stem: "caffe" (He's release), "keras" (keras.applications) or "torchvision";
            ResNeXt has the first alone.
        variant: "thesis" or "release", see `VARIANTS`.
        proposals: R, boxes that the RPN keeps per frame.
        frozen: batch normalisation, conv1 and conv2 keep their weights in training,
            as in the thesis, whose batches are too small for statistics; False trains
            from scratch.

    Returns:
        A `Detector`.

    Raises:
        ValueError: unknown stem or variant; another activation than softmax.

    Source: thesis 8.3.2 and 8.5.2.
    """
    require("classifier_activation", classifier_activation, ("softmax",))
    require("variant", variant, VARIANTS)
    inputs = inputs_of(VARIANTS[variant])
    maps = trunk(inputs["rgb"], stem, variant)
    outputs = detection(
        inputs["rgb"],
        maps["res5"],
        require_classes(num_classes),
        heads,
        VARIANTS[variant],
        proposals,
        inputs.get("proposals"),
    )
    return finished(name, inputs, outputs, frozen)


def finished(name, inputs, outputs, frozen):
    """The `Detector` of these inputs and outputs, its statistics frozen on request.

    Source: thesis 8.5.2; the release's solvers freeze normalisation, conv1 and conv2.
    """
    inputs = inputs if len(inputs) > 1 else inputs["rgb"]
    model = Detector(inputs, outputs, name=name)
    for layer in model.layers if frozen else ():
        if STEM.match(layer.name):
            layer.trainable = False
        elif hasattr(layer, "norm"):
            layer.norm.trainable = False
    return model


# In theory, of units at the end of a stage and of conv_new_1: (frames, pixels).
RECEPTIVE_FIELDS = {
    name: {**fields, "conv_new_1": (1, fields["res5"][1] + 192)}
    for name, fields in {**RESNET_FIELDS, "resnext101": RESNEXT_FIELDS}.items()
}
ENDPOINTS = (
    "conv1", "res2", "res3", "res4", "res5", "rpn_conv", "rpn_cls", "rpn_bbox",
    "conv_new_1", "rfcn_cls", "rfcn_bbox",
)  # fmt: skip
FACTS = {
    "architecture": rfcn,
    "task": "detection",
    "section": "8.3.2 (R-FCN)",
    "inputs": {"rgb": DESCRIPTIONS["rgb"]},
    "endpoints": ENDPOINTS,
    "clip": (1, 608, 1008),
    "new_layers": ("rpn_*", "conv_new_1", "rfcn_*"),
    "cut_layers": ("fc", "rfcn_disp"),
}


@register(
    parameters=43_301_694,
    multiply_adds=121.3,
    receptive_field=RECEPTIVE_FIELDS["50"],
    warm_start="resnet50",
    weights=("imagenet",),
    **FACTS,
)
def rfcn_resnet50(num_classes=30, classifier_activation="softmax", **options):
    """R-FCN on ResNet-50, on every frame (thesis 8.3.2)."""
    return rfcn(
        "rfcn_resnet50",
        TRUNKS["50"],
        num_classes,
        classifier_activation,
        HEADS["full"],
        **options,
    )


@register(
    parameters=62_293_822,
    multiply_adds=166.6,
    receptive_field=RECEPTIVE_FIELDS["101"],
    warm_start="resnet101",
    weights=("imagenet",),
    **FACTS,
)
def rfcn_resnet101(num_classes=30, classifier_activation="softmax", **options):
    """R-FCN on ResNet-101, on every frame (thesis 8.3.2)."""
    return rfcn(
        "rfcn_resnet101",
        TRUNKS["101"],
        num_classes,
        classifier_activation,
        HEADS["full"],
        **options,
    )


@register(
    parameters=61_922_366,
    multiply_adds=168.9,
    receptive_field=RECEPTIVE_FIELDS["resnext101"],
    warm_start="resnext101",
    **FACTS,
)
def rfcn_resnext101(num_classes=30, classifier_activation="softmax", **options):
    """R-FCN on ResNeXt-101 32x4d, on every frame (thesis Table 8.1)."""
    return rfcn(
        "rfcn_resnext101",
        TRUNKS["resnext101"],
        num_classes,
        classifier_activation,
        HEADS["full"],
        **options,
    )


@register(
    parameters=956_588,
    multiply_adds=0.09916,
    receptive_field=RECEPTIVE_FIELDS["tiny"],
    warm_start="resnet_tiny",
    **{**FACTS, "clip": (1, 128, 160)},
)
def rfcn_tiny(num_classes=4, classifier_activation="softmax", **options):
    """R-FCN in small, for tests and synthetic video (thesis 8.3.2)."""
    return rfcn(
        "rfcn_tiny",
        TRUNKS["tiny"],
        num_classes,
        classifier_activation,
        HEADS["tiny"],
        **options,
    )
