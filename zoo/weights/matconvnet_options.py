"""Options of the architecture, read off the wiring of a network of MatConvNet.

Source: thesis chapters 3 to 5 and 7 in the author's MATLAB code, whose scripts build
each variant from two trained networks by moving inputs and inserting layers.
"""

import re

import numpy as np

from zoo.models.st_mulnet import CONNECTIONS, Connection
from zoo.weights.matconvnet_wiring import fail

_UNIT = re.compile(r"res(\d)([a-z]\d*)_branch2(.)")
_SECOND = ("b", "b1")
INTERACTIONS = {"Sum": "add", "Mul": "multiply"}


def options_of(wiring, info):
    """The options under which a network was trained, as far as they are not defaults.

    Args:
        wiring: a `Wiring`. info: `ModelInfo` of the model it is for.

    Returns:
        {option: value}, of a successor's predecessor nothing but the dropout.

    Raises:
        ValueError: a wiring that no option gives.

    Source: thesis chapters 3 to 5 and 7; the author's MATLAB code.
    """
    _require_joints(wiring)
    if not wiring.resnet:
        found = _fusion(wiring) if wiring.two_streams else {}
    elif wiring.two_streams:
        found = _connected(wiring, info)
    else:
        found = _over_time(wiring)
    rates = {
        rate
        for layer in _layers(wiring, "DropOut")
        for rate in wiring.network.setting(layer, "rate", 0)
    } - {0.0}
    if len(rates) == 1 and "dropout" in info.options:
        found["dropout"] = rates.pop()
    return found


def _require_joints(wiring):
    """Products, and concatenations of VGGs, join two streams; others have no place."""
    for layer in _layers(wiring, "Mul", "Concat"):
        sources = wiring.network.sources(layer)
        streams = {wiring.stream(source) for source in sources if source}
        if len(streams) < 2 or (layer.kind == "Concat" and wiring.resnet):
            fail(
                wiring.network,
                f"a layer {layer.name} of kind {layer.kind} that joins "
                f"{', '.join(layer.inputs)}; no network of the zoo does",
            )


def _layers(wiring, *kinds):
    return [layer for layer in wiring.network.layers if layer.kind in kinds]


def _one(wiring, values, what):
    """The one value that all have; `what` names it in the message."""
    found = set(values)
    if len(found) != 1:
        fail(
            wiring.network, f"{what} that differ: {', '.join(sorted(map(str, found)))}"
        )
    return found.pop()


def _averages(wiring):
    """Whether any maximum over time is an average."""
    return any(map(wiring.network.is_average, _layers(wiring, "PoolTime")))


# --- T-ResNet, chapter 7 -------------------------------------------------------------


def _over_time(wiring):
    pools, filters = _layers(wiring, "PoolTime"), _layers(wiring, "ConvTime")
    windows = [wiring.network.setting(p, "poolSize", 0)[-1:] for p in pools]
    if any(window != [np.inf] for window in windows):
        fail(wiring.network, f"a maximum over {windows} frames; accepted is over all")
    found = {}
    if pools or filters:
        is_average = not pools or _averages(wiring)
        found["temporal_pooling"] = "average" if is_average else "max"
    if filters:
        padded = _one(
            wiring,
            [any(wiring.network.setting(f, "pad", 0)) for f in filters],
            "paddings of filters over time",
        )
        found["temporal_padding"] = "same" if padded else "valid"
        found["unit"] = "release"
    return found


# --- ST-ResNet and ST-MulNet, chapters 4 and 5 ---------------------------------------


def _connected(wiring, info):
    connection, filters = _connection(wiring), _filters(wiring)
    pools = _layers(wiring, "PoolTime")
    if _averages(wiring):
        fail(wiring.network, "an average over time before the classifier")
    if connection is None and not filters and not pools:
        return {}
    places = set(filters.values())
    if places <= {"inflated"} and connection in (None, "residual_add"):
        if "temporal_pooling" in info.options:
            _require_all_inflated(wiring, filters)
            return {"temporal_pooling": _pooled(wiring, pools)}
    if "inflated" in places:
        fail(
            wiring.network,
            f"1x1 convolutions over three frames (chapter 4), which {info.name} "
            f"has not, or beside {connection}",
        )
    pool = "_pool" if pools else ""
    place = _place(wiring, filters)
    temporal = f"{place}_centre{pool}" if place else pool.strip("_") or "none"
    return {
        "connection": connection or "none",
        "temporal": temporal,
        "variant": "release",
    }


def _connection(wiring):
    """The row of Table 5.2 that a network is, None without connections."""
    found = {}
    for layer in _layers(wiring, *INTERACTIONS):
        sources = wiring.network.sources(layer)
        if len({wiring.stream(source) for source in sources if source}) > 1:
            into, stage, place = _meeting(wiring, layer, sources)
            found.setdefault((INTERACTIONS[layer.kind], into, place), set()).add(stage)
    if not found:
        return None
    if any(stages != set("2345") for stages in found.values()):
        fail(wiring.network, f"streams that connect in some stages only, {found}")
    places = {into: place for _, into, place in found}
    interaction = _one(wiring, [i for i, _, _ in found], "connections of streams")
    wanted = Connection(interaction, places.get("appearance_"), places.get("motion_"))
    for name, known in CONNECTIONS.items():
        if known == wanted and len(places) == len(found):
            return name
    return fail(wiring.network, f"a connection {wanted}; accepted are the zoo's rows")


def _meeting(wiring, layer, sources):
    """(prefix of the stream that takes the signal in, stage, "residual" or "direct").

    The stream's own part is the sum before its nonlinearity, the other's comes after.
    """
    readers = wiring.network.readers(layer)
    own = [x for x in sources if x and x.kind == "Sum"]
    others = [x for x in sources if x and x.kind == "ReLU"]
    unit = own and re.fullmatch(r"res(\d)a", wiring.base(own[0]))
    if len(own) != 1 or len(others) != 1 or not unit or not readers:
        names = ", ".join(x.name for x in sources if x)
        fail(wiring.network, f"a connection {layer.name} of {names} that is no row")
    stream, stage = wiring.stream(own[0]), unit[1]
    if {x.kind for x in readers} == {"ReLU"}:
        return stream, stage, "direct"
    second = [_UNIT.fullmatch(wiring.base(x)) for x in readers]
    if all(u and u[1] == stage and u[2] in _SECOND and u[3] == "a" for u in second):
        return stream, stage, "residual"
    names = ", ".join(x.name for x in readers)
    return fail(wiring.network, f"a connection {layer.name} into {names}, not a row")


def _filters(wiring):
    """{our name of a filter over time: where it stands}."""
    found = {}
    for layer in _layers(wiring, "ConvTime"):
        name = wiring.name(layer)
        if name is None:
            fail(wiring.network, f"a filter over time {layer.name} in no known place")
        inside = name.endswith("_branch2b_time")
        place = "residual" if inside else "skip" if "_time" in name else "inflated"
        found[name] = place
    return found


def _second_units(wiring, names=_SECOND):
    """{(prefix, stage, unit)} of the second units of both streams."""
    found = set()
    for layer in _layers(wiring, "Conv", "ConvTime"):
        unit = _UNIT.fullmatch(wiring.base(layer))
        if unit and unit[2] in names:
            found.add((wiring.stream(layer), unit[1], unit[2]))
    return found


def _require_all_inflated(wiring, filters):
    wanted = {
        f"{prefix}res{stage}{unit}_branch2{branch}"
        for prefix, stage, unit in _second_units(wiring)
        for branch in "ac"
    }
    if filters and set(filters) != wanted:
        missing = ", ".join(sorted(wanted - set(filters))[:3])
        fail(wiring.network, f"filters over time, but none at {missing}")


def _pooled(wiring, pools):
    """Where ST-ResNet* takes its maximum over time (thesis 4.3.5)."""
    if not pools:
        return "none"
    sources = [wiring.network.source(pool) for pool in pools]
    kinds = [source.kind if source else "input" for source in sources]
    after = _one(wiring, kinds, "layers before the maximum over time")
    return {"ReLU": "res5", "Pooling": "pool5"}.get(after) or fail(
        wiring.network, f"a maximum over time after a layer of kind {after}"
    )


def _place(wiring, filters):
    """The place of Table 5.3 of all filters, None without any."""
    if not filters:
        return None
    place = _one(wiring, filters.values(), "places of filters over time")
    if place == "skip":
        return place
    # By name, as the author's code does: in deep networks units b1 do not count.
    by_name = {f"{p}res{s}b_branch2b_time" for p, s, _ in _second_units(wiring, ("b",))}
    last = {name for name in by_name if "res5" in name}
    for place, wanted in (("residual", by_name), ("last", last)):
        if set(filters) == wanted:
            return place
    return fail(wiring.network, f"filters over time at {', '.join(sorted(filters))}")


# --- fusion, chapter 3 ---------------------------------------------------------------


def _fusion(wiring):
    joined = [
        layer
        for layer in _layers(wiring, "Concat", "Sum")
        if len({wiring.stream(s) for s in wiring.network.sources(layer) if s}) > 1
    ]
    if not joined:
        return {}
    method = _one(wiring, [_method(wiring, x) for x in joined], "methods of fusion")
    points = [
        tuple(wiring.point(layer, stream) for stream in ("appearance_", "motion_"))
        for layer in joined
    ]
    points.sort(key=lambda point: _depth(point[0]))
    classifiers = [
        wiring.stream(x) for x in _layers(wiring, "Conv") if wiring.is_classifier(x)
    ]
    return {
        "method": method,
        "fuse_at": [a if a == m else [a, m] for a, m in points],
        "keep_motion": "motion_" in classifiers,
        "pooling": "3d" if _layers(wiring, "Pooling3D") else "2d",
        "variant": "release",
    }


def _depth(endpoint):
    """Place of an endpoint in the order of a VGG, by its number."""
    return re.sub(r"\D", "", endpoint).ljust(2, "0")


def _method(wiring, layer):
    """The method of fusion that a Concat or Sum begins."""
    network = wiring.network
    sources = network.sources(layer)
    if [wiring.stream(s) for s in sources] != ["appearance_", "motion_"]:
        fail(network, f"a fusion {layer.name} of {', '.join(layer.inputs)}")
    readers = network.readers(layer)
    if layer.kind == "Sum":
        method, after = "sum", readers
    else:
        kinds = _one(wiring, [x.kind for x in readers], f"layers after {layer.name}")
        method = {"Conv": "conv", "Conv3D": "conv3d"}.get(kinds)
        after = [y for x in readers for y in network.readers(x)]
        if method is None or {x.kind for x in after} != {"ReLU"}:
            fail(network, f"a fusion {layer.name} without convolution and ReLU")
        after = [y for x in after for y in network.readers(x)]
    if "motion_" in {wiring.stream(x) for x in after}:
        fail(
            network,
            f"a fusion {layer.name} into the motion tower; the zoo's is into "
            "that of appearance",
        )
    return method
