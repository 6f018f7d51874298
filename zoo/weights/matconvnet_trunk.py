"""Whether the residual units of a network of MatConvNet are wired as those of the zoo.

Networks of the same names and shapes exist whose normalisations stand before the
convolutions, or whose shortcuts start elsewhere. Their weights would fit, and their
scores would be noise.

Source: thesis eq. 4.2, 5.5, 7.1 and 7.6, Table 5.1, in the author's MATLAB code.
"""

import re

from zoo.weights.matconvnet_wiring import fail

_CONV = re.compile(r"res(\d[a-z]\d*)_branch(1|2[abc])")
BEFORE = {"2b": "2a", "2c": "2b"}
PASSED = ("BatchNorm", "ConvTime", "DropOut", "Pooling", "ReLU")


def require_residual(wiring):
    """Raises ValueError unless all units are f(x + W3 f(W2 f(W1 x))), normalised.

    Args:
        wiring: a `Wiring` of a ResNet, of one stream or two.

    Source: thesis eq. 7.1; He et al. 2015.
    """
    before = _predecessors(wiring)
    for layer in wiring.network.layers:
        conv = _CONV.fullmatch(wiring.base(layer))
        if conv:
            _require_input(wiring, layer, conv[1], conv[2], before)
        unit = re.fullmatch(r"res(\d[a-z]\d*)", wiring.base(layer))
        if unit and layer.kind == "Sum":
            _require_sum(wiring, layer, unit[1], before)


def _predecessors(wiring):
    """{(stream, unit): the unit before it, None of the first}, in the file's order.

    (stream, "3a projected") is in it if the shortcut of unit 3a is a projection.
    """
    before, last = {}, {}
    for layer in wiring.network.layers:
        conv, stream = _CONV.fullmatch(wiring.base(layer)), wiring.stream(layer)
        if conv and (stream, conv[1]) not in before:
            before[stream, conv[1]] = last.get(stream)
            last[stream] = conv[1]
        if conv and conv[2] == "1":
            before[stream, f"{conv[1]} projected"] = None
    return before


def _back(wiring, layer):
    """(kinds passed, the convolution, sum or product reached) going up from a layer."""
    passed = []
    layer = wiring.network.source(layer)
    while layer is not None and layer.kind in PASSED and not _is_conv(wiring, layer):
        passed.append(layer.kind)
        layer = wiring.network.source(layer)
    if layer is not None and layer.kind == "Sum":  # W2 x and what is filtered over time
        convs = [x for x in wiring.network.sources(layer) if _is_conv(wiring, x)]
        layer = convs[0] if convs else layer
    return [kind for kind in passed if kind not in ("ConvTime", "DropOut")], layer


def _is_conv(wiring, layer):
    return layer is not None and wiring.is_residual(layer)


def _require_input(wiring, layer, unit, branch, before):
    passed, source = _back(wiring, layer)
    name = source and wiring.base(source)
    if branch in BEFORE:
        wanted = f"res{unit}_branch{BEFORE[branch]}"
        right = name == wanted and passed == ["ReLU", "BatchNorm"]
    else:
        right = _is_output(wiring, source, passed, before[wiring.stream(layer), unit])
        right = right or _is_connection(wiring, source, passed)
    if not right:
        _say(wiring, layer, passed, name)


def _is_output(wiring, source, passed, unit):
    """Whether a layer is the output of a unit, or of pool1 before the first."""
    if source is None:
        return False
    if unit is None:
        stem = ["Pooling", "ReLU", "BatchNorm"]
        return wiring.base(source) == "conv1" and passed == stem
    name = re.match(rf"res{unit}(_|$)", wiring.base(source))
    return name is not None and passed == ["ReLU"] and source.kind in ("Sum", "Mul")


def _is_connection(wiring, source, passed):
    """Whether the other stream comes in here; its row is found elsewhere."""
    if source is None or passed or source.kind not in ("Sum", "Mul"):
        return False
    streams = {wiring.stream(x) for x in wiring.network.sources(source)}
    return len(streams) > 1


def _require_sum(wiring, layer, unit, before):
    """A unit's sum is of its last convolution and of its input or its projection."""
    stream, branches = wiring.stream(layer), {}
    for source in wiring.network.sources(layer):
        if source is not None and source.kind == "BatchNorm":
            conv = wiring.network.source(source)
            branches[conv and wiring.base(conv)] = source
    rest = [x for x in wiring.network.sources(layer) if x not in branches.values()]
    wanted, right = {f"res{unit}_branch2c"}, not rest
    if (stream, f"{unit} projected") in before:
        wanted.add(f"res{unit}_branch1")
    elif len(rest) == 1:
        passed, source = _shortcut(wiring, rest[0])
        right = _is_output(wiring, source, passed, before[stream, unit])
    if set(branches) != wanted or not right:
        names = [x.name if x else "an input" for x in wiring.network.sources(layer)]
        fail(
            wiring.network,
            f"a residual unit {layer.name} of {' and '.join(names)}, which is none of "
            f"{' and '.join(sorted(wanted))} and the unit before",
        )


def _shortcut(wiring, layer):
    """`_back` from a variable that a sum reads, the layer that makes it included."""
    if layer is None or layer.kind not in PASSED:
        return [], layer
    passed, source = _back(wiring, layer)
    kinds = [] if layer.kind in ("ConvTime", "DropOut") else [layer.kind]
    return kinds + passed, source


def _say(wiring, layer, passed, name):
    between = ", ".join(passed) or "nothing"
    fail(
        wiring.network,
        f"a residual unit whose {layer.name} reads {name or 'an input'}, {between} in "
        "between: not the order of He et al. 2015 that the zoo has",
    )
