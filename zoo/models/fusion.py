"""Convolutional two-stream network fusion.

Thesis chapter 3 (Feichtenhofer, Pinz, Zisserman, CVPR 2016). Two VGGs, one on RGB and
one on flow, of which the appearance tower takes over the motion tower's map at one or
more layers: fused, it becomes the spatiotemporal tower. The motion tower goes on to a
classifier of its own, or ends at the last fusion. Time is pooled with space ("3-D
pooling"), after a fusion that itself may filter in space and time (Fig. 3.2 and 3.4):

    flow --- motion tower ----- relu5 ---+--- pool5 3-D --- fc6 - fc7 - fc8 ---+
                                         |                                  average
    rgb ---- appearance tower - relu5 - fuse - pool5 3-D --- fc6 - fc7 - fc8 --+

The rows of Tables 3.1, 3.2 and 3.4 are options in `TABLE_3_1`, `TABLE_3_2` and
`TABLE_3_4`, as in zoo.load("fusion_vgg_m", **TABLE_3_1["sum"]). Tensors are clips
[B, T, H, W, C]; T counts chunks, of one RGB frame and ten flow fields each.
"""

from functools import partial
from typing import NamedTuple

from zoo import layers
from zoo.models import vgg
from zoo.models.inputs import STREAMS, normalized
from zoo.models.resnet import require
from zoo.models.towers import towers
from zoo.models.two_stream import TINY, facts, receptive_fields, two_inputs
from zoo.models.vgg import VGGS
from zoo.registry import register

SOFTMAX = "softmax"  # fusion of the scores: no layer, their average
WINDOW, STRIDE = 5, 2  # of 3-D pooling in time; the release, T = 5 of 3.3.5
POOLINGS = ("2d", "3d")


class Variant(NamedTuple):
    """What differs between thesis and release in the fusion convolution (eq. 3.4)."""

    order: str  # of concatenated channels
    activation: str | None
    streams: tuple  # initial weights of appearance and motion, 1x1 convolution


VARIANTS = {
    "thesis": Variant("interleaved", None, (1.0, 1.0)),  # eq. 3.3; 3.4.1
    "release": Variant("block", "relu", (0.25, 0.75)),
}
# "we initialise the temporal identity matrix of w by a factor of 3 higher" (3.3.5).
STREAMS_3D = (0.25, 0.75)

# method: layer of (variant, **keyword arguments), eq. 3.1-3.6.
METHODS = {
    "sum": lambda variant, **kw: layers.SumFusion(**kw),
    "max": lambda variant, **kw: layers.MaxFusion(**kw),
    "concat": lambda variant, **kw: layers.ConcatFusion(variant.order, **kw),
    "conv": lambda variant, **kw: layers.ConvFusion(
        1, 1, variant.streams, variant.order, variant.activation, **kw
    ),
    "conv3d": lambda variant, **kw: layers.ConvFusion(
        3, 3, STREAMS_3D, variant.order, variant.activation, **kw
    ),
    "bilinear": lambda variant, **kw: layers.BilinearFusion(**kw),
}

_SINGLE = {"keep_motion": False, "pooling": "2d"}
TABLE_3_1 = {
    "softmax": {"method": "sum", "fuse_at": SOFTMAX, "pooling": "2d"},
    "max": {"method": "max", **_SINGLE},
    "concat": {"method": "concat", **_SINGLE},
    "bilinear": {"method": "bilinear", **_SINGLE},
    "sum": {"method": "sum", **_SINGLE},
    "conv": {"method": "conv", **_SINGLE},
}
TABLE_3_2 = {
    "+".join(points): {"method": "conv", "fuse_at": points, **_SINGLE}
    for points in (
        ("relu2",), ("relu3",), ("relu4",), ("relu5",), ("relu5", "fc8"),
        ("relu3", "relu5", "fc6"),
    )
}  # fmt: skip
TABLE_3_4 = {
    "2d conv, 2d pooling": {"method": "conv", "pooling": "2d"},
    "2d conv, 3d pooling": {"method": "conv", "pooling": "3d"},
    "3d conv, 3d pooling": {"method": "conv3d", "pooling": "3d"},
}


def fusion(
    name,
    nets,
    num_classes,
    classifier_activation,
    *,
    method="conv3d",
    fuse_at=None,
    keep_motion=True,
    pooling="3d",
    variant="thesis",
    stream_weights=(1.0, 1.0),
    dropout=0.85,
    flow_offset=0.0,
):
    """The network of section 3.3.

    Args:
        name: of the model. nets: keys of `vgg.VGGS`, of appearance and of motion.
        num_classes, classifier_activation: of the classifiers.
        method: a key of `METHODS`, eq. 3.1-3.6. "bilinear" leaves out fc6 and fc7; a
            linear layer trained with the network takes the place of the SVM.
        fuse_at: an endpoint of Table 2.1 that both towers have (relu5, fc6, fc8), a
            list of them, or for towers of different kinds a list of pairs of
            endpoints of equal stride, [["relu5_3", "relu5"]]. None is the last ReLU
            before pool5. "softmax" averages the scores of separate towers.
        keep_motion: let the motion tower go on to scores of its own, averaged with
            those of the fused tower; or end it at the last fusion.
        pooling: of pool5, "3d" (windows of 5 chunks, stride 2: 5 chunks at least) or
            "2d", where time is averaged in the scores.
        variant: of the fusion convolution, a key of `VARIANTS`.
        stream_weights: of appearance and motion in the average of their scores.
        dropout: after fc6 and fc7, in training.
        flow_offset: see `inputs.normalized`.

    Raises:
        ValueError: an unknown method, pooling, variant or endpoint, layers that
            cannot be fused, or a fusion that the method cannot do there.

    Source: thesis 3.3, Tables 3.1, 3.2 and 3.4.
    """
    require("method", method, METHODS)
    require("pooling", pooling, POOLINGS)
    require("variant", variant, VARIANTS)
    if not isinstance(keep_motion, bool):
        raise ValueError(f"keep_motion must be True or False, got {keep_motion!r}.")
    inputs, plans = two_inputs(), {}
    for (stream, kind), net in zip(STREAMS.items(), nets, strict=True):
        plans[stream] = vgg.steps(
            VGGS[net], num_classes, dropout, vgg.without_in(kind), f"{stream}_"
        )
    points = fusion_points(fuse_at, nets, plans)
    require_possible(method, points, pooling, keep_motion)
    if pooling == "3d":
        plans = {k: with_time_pooling(k, plan) for k, plan in plans.items()}
    if not keep_motion:
        plans["motion"] = up_to(points[-1][1], plans["motion"])
    if method == "bilinear":  # its descriptor is classified: no pool5, fc6, fc7
        plan = plans["appearance"]
        plans["appearance"] = [*up_to(points[-1][0], plan), plan[-1]]
    motion = run(inputs["flow"], plans["motion"], "motion", flow_offset=flow_offset)
    fuse = partial(METHODS[method], VARIANTS[variant], pad=nets[0] != nets[1])
    signals = {a: motion[m] for a, m in points}
    appearance = run(inputs["rgb"], plans["appearance"], "appearance", signals, fuse)
    scores = {"appearance": appearance["fc8"]}
    if keep_motion:
        scores["motion"] = motion["fc8"]
    return towers(name, inputs, scores, classifier_activation, stream_weights)


def run(x, plan, stream, signals=None, fuse=None, flow_offset=0.0):
    """Applies a tower's steps: {endpoint: map}, fused where a signal comes in.

    Args:
        x: the input. plan: its `vgg.Step`s. stream: "appearance" or "motion".
        signals: {endpoint: map of the other tower}. fuse: makes the fusion layer.
        flow_offset: see `inputs.normalized`.

    Source: thesis 3.3.2, Fig. 3.1.
    """
    prefix, maps = f"{stream}_", {}
    x = normalized(x, vgg.MEAN, prefix, flow_offset)
    for step in plan:
        x = vgg.apply(x, step, prefix)
        if signals and step.endpoint in signals:
            layer = fuse(name=f"fusion_{step.endpoint}")
            x = layer([x, signals[step.endpoint]])
        maps[step.endpoint] = x
    return maps


def with_time_pooling(stream, plan):
    """The steps with a maximum over time after pool5: 3-D pooling (thesis 3.3.3)."""
    layer = layers.TemporalMaxPooling(WINDOW, STRIDE, name=f"{stream}_pool5_time")
    last = [step.endpoint for step in plan].index("pool5")
    return [*plan[: last + 1], vgg.Step("pool5_time", layer), *plan[last + 1 :]]


def up_to(endpoint, plan):
    """The steps up to an endpoint: a tower cut off (thesis Fig. 3.1, left)."""
    last = [step.endpoint for step in plan].index(endpoint)
    return plan[: last + 1]


def fusion_points(fuse_at, nets, plans):
    """Pairs of endpoints (of appearance, of motion) in order; none for "softmax".

    Args:
        fuse_at: as for `fusion`. nets: keys of `vgg.VGGS`. plans: {stream: steps}.

    Raises:
        ValueError: endpoints that do not exist, are no ReLU and no FC layer, have
            different strides, or are not in ascending order.

    Source: thesis 3.3.2.
    """
    if isinstance(fuse_at, str) and fuse_at == SOFTMAX:
        return ()
    if fuse_at is None:
        return (tuple(VGGS[net].last_relu for net in nets),)
    strides = [strides_of(plans[stream]) for stream in STREAMS]
    points = [fuse_at] if isinstance(fuse_at, str) else fuse_at
    if not isinstance(points, list | tuple):
        raise ValueError(
            "fuse_at must be None, 'softmax', an endpoint or a list of endpoints or of "
            f"pairs of them, got {fuse_at!r}; the appearance tower has "
            f"{', '.join(strides[0])}, the motion tower {', '.join(strides[1])}."
        )
    points = [(p, p) if isinstance(p, str) else p for p in points]
    for point in points:
        require_point(point, strides)
    for names, number in zip(strides, (0, 1), strict=True):
        order = [list(names).index(point[number]) for point in points]
        if not points or order != sorted(set(order)):
            raise ValueError(
                f"fuse_at {fuse_at!r} must name at least one point, each once and in "
                "the order of the network."
            )
    return tuple(map(tuple, points))


def strides_of(plan):
    """{endpoint: pixels between neighbouring units} (thesis 3.3.2)."""
    stride, found = 1, {}
    for step in plan:
        _, (_, own) = getattr(step.layer, "spacetime_window", ((1, 1), (1, 1)))
        stride *= own
        if step.endpoint.startswith(("relu", "fc")):
            found[step.endpoint] = stride
    return found


def require_point(point, strides):
    """Raises ValueError unless both towers can meet at a point (thesis 3.3.2)."""
    pair = isinstance(point, list | tuple) and len(point) == 2
    if not pair or not all(isinstance(name, str) for name in point):
        raise ValueError(
            f"A fusion point is an endpoint, or a pair of endpoints of appearance and "
            f"motion, got {point!r}; appearance has {', '.join(strides[0])}, motion "
            f"{', '.join(strides[1])}."
        )
    for stream, name, known in zip(STREAMS, point, strides, strict=True):
        if name not in known:
            raise ValueError(
                f"Cannot fuse at {name!r}: the {stream} tower has "
                f"{', '.join(known)}, and 'softmax' stands for the scores."
            )
    a, m = (known[name] for name, known in zip(point, strides, strict=True))
    if a != m:
        same = [name for name, stride in strides[1].items() if stride == a]
        raise ValueError(
            f"Cannot fuse {point[0]} of appearance (stride {a} pixels) with {point[1]} "
            f"of motion (stride {m}); equal strides are needed, as at "
            f"{', '.join(same) or 'no layer of this motion tower'}."
        )


def require_possible(method, points, pooling, keep_motion):
    """Raises ValueError where a method does not work (thesis 3.3.1, 3.4.1)."""
    names = [a for a, _ in points]
    if not points and (method != "sum" or not keep_motion):
        raise ValueError(
            "Fusion at the softmax averages the scores of both towers: method must be "
            f"'sum' and keep_motion True, got {method!r} and {keep_motion}."
        )
    if method == "concat" and "fc8" in names:
        raise ValueError(
            "Concatenation at fc8 leaves no scores; use 'sum', 'max' or 'conv' there."
        )
    if method == "bilinear" and (
        len(points) != 1 or names[0].startswith("fc") or pooling != "2d"
    ):
        raise ValueError(
            "Bilinear fusion takes one ReLU layer and pooling='2d', since it sums over "
            f"the pixels of a frame and leaves out pool5 and fc6; got {names} and "
            f"pooling={pooling!r}."
        )


def fusion_fields(appearance, motion):
    """Receptive fields with the default options, from those of separate towers.

    The fusion of 3 x 3 x 3 units widens what comes after it, and the maximum over five
    chunks comes after pool5.

    Args:
        appearance, motion: keys of `vgg.VGGS`.

    Source: thesis Table 2.1 and section 3.3.5.
    """
    stride = 16  # of the last ReLU
    a, m = (dict(vgg.RECEPTIVE_FIELDS[net]) for net in (appearance, motion))
    for name in ("pool5", "fc6", "fc7"):
        after_time = WINDOW - 1 if name != "pool5" else 0
        a[name] = (3 + after_time, a[name][1] + 2 * stride)
        m[name] = (1 + after_time, m[name][1])
    return receptive_fields(a, m)


def fusion_facts(*nets, **others):
    """The common part of the records (thesis 3.3.4)."""
    common = facts(vgg, nets)
    fused = f"fusion_{VGGS[nets[0]].last_relu}"
    return {
        **common,
        "architecture": fusion,
        "section": "3.3.4",
        "endpoints": (*common["endpoints"][:-2], fused, "logits", "predictions"),
        "receptive_field": fusion_fields(*nets),
        "new_layers": ("fusion_*",),
        "cut_layers": ("motion_*", "appearance_fc[67]"),
        **others,
    }


@register(
    parameters=195_491_882,
    multiply_adds=105.0,
    warm_start={"appearance": "vgg_m", "motion": "motion_vgg_m"},
    **fusion_facts("m", "m"),
)
def fusion_vgg_m(num_classes=101, classifier_activation="softmax", **options):
    """Fusion of two VGG-M-2048, the networks of the ablations (thesis 3.4.1-3.4.2)."""
    return fusion(
        "fusion_vgg_m", ("m", "m"), num_classes, classifier_activation, **options
    )


@register(
    parameters=283_514_762,
    multiply_adds=544.8,
    warm_start={"appearance": "vgg16", "motion": "motion_vgg16"},
    **fusion_facts("16", "16"),
)
def fusion_vgg16(num_classes=101, classifier_activation="softmax", **options):
    """Fusion of two VGG-16, the final network of chapter 3 (thesis Table 3.5)."""
    return fusion(
        "fusion_vgg16", ("16", "16"), num_classes, classifier_activation, **options
    )


@register(
    parameters=239_538_410,
    multiply_adds=331.6,
    warm_start={"appearance": "vgg16", "motion": "motion_vgg_m"},
    **fusion_facts("16", "m"),
)
def fusion_vgg16_vgg_m(num_classes=101, classifier_activation="softmax", **options):
    """Fusion of VGG-16 on appearance and VGG-M on motion (thesis 3.4.4, Table 3.4)."""
    return fusion(
        "fusion_vgg16_vgg_m", ("16", "m"), num_classes, classifier_activation, **options
    )


@register(
    parameters=429_488,
    multiply_adds=0.2432,
    warm_start={"appearance": "vgg_tiny", "motion": "motion_vgg_tiny"},
    **fusion_facts("tiny", "tiny", **TINY),
)
def fusion_vgg_tiny(num_classes=8, classifier_activation="softmax", **options):
    """Fusion in small, for tests and synthetic clips (thesis 3.3.4)."""
    return fusion(
        "fusion_vgg_tiny",
        ("tiny", "tiny"),
        num_classes,
        classifier_activation,
        **options,
    )
