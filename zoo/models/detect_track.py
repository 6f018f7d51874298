"""Detect & Track: R-FCN on adjacent frames, and the motion of boxes between them.

Thesis chapter 8. Both frames of a pair pass the same detector (`zoo.models.rfcn`). The
features of conv3, conv4 and conv5 are correlated in a neighbourhood of d = 8 positions
(eq. 8.4); a 1x1 convolution on these correlations and the regression maps of both
frames gives 4 k^2 maps of displacement, whose position-sensitive pooling is the motion
of a box (dx, dy, dw, dh) from the first frame to the second (eq. 8.2-8.3).

A clip [B, T, H, W, 3] of any T is T - 1 pairs, whose frames are computed once. Sizes
in comments are for frames of 608 x 1008.
"""

import keras

from zoo import layers
from zoo.models.classifier import require_classes
from zoo.models.detector import deltas_of
from zoo.models.resnet import require
from zoo.models.rfcn import ENDPOINTS as RFCN_ENDPOINTS
from zoo.models.rfcn import FACTS as RFCN_FACTS
from zoo.models.rfcn import (
    HEADS,
    RECEPTIVE_FIELDS,
    TRUNKS,
    VARIANTS,
    detection,
    finished,
    in_float,
    inputs_of,
    roi_pooling,
)
from zoo.registry import register


def correlations(pairs, heads, variant, prefix=""):
    """Correlation of every pair of frames at three depths: a list of [B, T - 1, ...].

    Both maps of conv4 and conv5 give (2 d + 1)^2 channels; conv3, twice as large, is
    correlated at every second position. Inner products are divided by the number of
    channels, which the 1x1 convolution behind them could do as well: as large sums they
    would drown the regression maps beside them.

    Args:
        pairs: {"res3": (first, second), "res4": ..., "res5": ...}.
        heads: the `Heads`. variant: the `Variant`.
        prefix: of the layers' names, "back_" from second frames to first ones.

    Source: thesis eq. 8.4; order of the release.
    """
    d, step = heads.displacement, variant.conv3_step
    found = []
    for stage, stride, displacement_step in ((5, 1, 1), (3, 2, step), (4, 1, 1)):
        layer = layers.Correlation(
            d, stride, displacement_step, name=f"{prefix}corr{stage}"
        )
        wrapped = layers.PerFrame(layer, name=layer.name)
        found.append(wrapped(list(pairs[f"res{stage}"])))  # 38 x 63
    return found


def displacement_maps(pairs, disp, heads, variant, prefix=""):
    """Maps of displacement, [B, T - 1, H', W', values k^2].

    Args:
        pairs: as of `correlations`, and "bbox": the regression maps.
        disp: the 1x1 convolution. heads, variant, prefix: as of `correlations`.

    Source: thesis 8.3.2 and 8.3.4, "stacking them with the bounding box features".
    """
    found = correlations(pairs, heads, variant, prefix)
    stack = keras.layers.Concatenate(name=f"{prefix}rfcn_bbox_corr")
    maps = disp(stack([*pairs["bbox"], *found]))
    return in_float(maps, f"{prefix}track_maps")


def tracking(outputs, maps, heads, variant, backward):
    """Adds what tracking finds to the outputs of a `Detector`.

    Args:
        outputs: of `zoo.models.rfcn.detection`. maps: {"res3", "res4", "res5"}.
        heads: the `Heads`. variant: the `Variant`.
        backward: also from every second frame to the first, by the same filters.

    Source: thesis 8.3.2 (RoI tracking); backward as in the release's graphs of three
    frames, which track from the middle one to both others.
    """
    sources = {**maps, "bbox": outputs["box_maps"]}
    pairs = {
        key: layers.FramePairs(name=f"{key}_pairs")(x) for key, x in sources.items()
    }
    rois = layers.FramePairs(name="proposal_pairs")(outputs["proposals"])
    # A 1x1 convolution, as a product: TensorFlow convolves no clip without pairs, of
    # one frame.
    disp = keras.layers.Dense(
        heads.bins**2 * variant.box_values,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        name="rfcn_disp",
    )
    pool = roi_pooling(variant.box_values, "psroipooled_rois_disp", heads)
    directions = [("", pairs, rois[0])]
    if backward:
        swapped = {key: pair[::-1] for key, pair in pairs.items()}
        directions.append(("back_", swapped, rois[1]))
    for prefix, pair, boxes in directions:
        found = displacement_maps(pair, disp, heads, variant, prefix)
        outputs[f"{prefix}track_maps"] = found
        outputs[f"{prefix}track_deltas"] = deltas_of(pool([found, boxes]))


def detect_track(
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
    backward=False,
):
    """D&T: detections in every frame, and their motion to the next one.

    Args:
        name, trunk, num_classes, classifier_activation, heads: as of `rfcn`.
        stem, variant, proposals, frozen: likewise.
        backward: tracks go both ways, "back_track_deltas" from every frame to the one
            before it; a clip of three frames is then tracked from its middle.

    Returns:
        A `Detector` with "track_maps" and "track_deltas".

    Raises:
        ValueError: unknown stem or variant; another activation than softmax.

    Source: thesis 8.3.
    """
    require("classifier_activation", classifier_activation, ("softmax",))
    require("variant", variant, VARIANTS)
    row = VARIANTS[variant]
    inputs = inputs_of(row)
    maps = trunk(inputs["rgb"], stem, variant)
    outputs = detection(
        inputs["rgb"],
        maps["res5"],
        require_classes(num_classes),
        heads,
        row,
        proposals,
        inputs.get("proposals"),
    )
    tracking(outputs, maps, heads, row, backward)
    return finished(name, inputs, outputs, frozen)


FACTS = {
    **RFCN_FACTS,
    "architecture": detect_track,
    "section": "8.3 (D&T)",
    "endpoints": (*RFCN_ENDPOINTS, "corr3", "corr4", "corr5", "rfcn_disp"),
    "clip": (2, 608, 1008),
    "new_layers": ("rfcn_disp",),
    "cut_layers": (),
}


@register(
    parameters=43_548_654,
    multiply_adds=243.2,
    receptive_field=RECEPTIVE_FIELDS["50"],
    warm_start="rfcn_resnet50",
    **FACTS,
)
def detect_track_resnet50(num_classes=30, classifier_activation="softmax", **options):
    """Detect & Track on ResNet-50 (thesis 8.3)."""
    return detect_track(
        "detect_track_resnet50",
        TRUNKS["50"],
        num_classes,
        classifier_activation,
        HEADS["full"],
        **options,
    )


@register(
    parameters=62_540_782,
    multiply_adds=333.9,
    receptive_field=RECEPTIVE_FIELDS["101"],
    warm_start="rfcn_resnet101",
    **FACTS,
)
def detect_track_resnet101(num_classes=30, classifier_activation="softmax", **options):
    """Detect & Track on ResNet-101 (thesis 8.3)."""
    return detect_track(
        "detect_track_resnet101",
        TRUNKS["101"],
        num_classes,
        classifier_activation,
        HEADS["full"],
        **options,
    )


@register(
    parameters=62_169_326,
    multiply_adds=338.4,
    receptive_field=RECEPTIVE_FIELDS["resnext101"],
    warm_start="rfcn_resnext101",
    **FACTS,
)
def detect_track_resnext101(num_classes=30, classifier_activation="softmax", **options):
    """Detect & Track on ResNeXt-101 32x4d (thesis Table 8.1)."""
    return detect_track(
        "detect_track_resnext101",
        TRUNKS["resnext101"],
        num_classes,
        classifier_activation,
        HEADS["full"],
        **options,
    )


@register(
    parameters=964_508,
    multiply_adds=0.1989,
    receptive_field=RECEPTIVE_FIELDS["tiny"],
    warm_start="rfcn_tiny",
    **{**FACTS, "clip": (2, 128, 160)},
)
def detect_track_tiny(num_classes=4, classifier_activation="softmax", **options):
    """Detect & Track in small, for tests and synthetic video (thesis 8.3)."""
    return detect_track(
        "detect_track_tiny",
        TRUNKS["tiny"],
        num_classes,
        classifier_activation,
        HEADS["tiny"],
        **options,
    )
