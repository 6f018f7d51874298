"""What the layers of a network of MatConvNet are: our name for each.

Source: thesis chapters 3 to 5 and 7 in the author's MATLAB code, which joins trained
networks by giving their layers the endings _spatial and _temporal, and inserts layers.
"""

import functools
import re

STREAMS = {"spatial": "appearance_", "temporal": "motion_"}
_STREAM = re.compile(r"_(spatial|temporal)(?=_|\d*$)")
_RESIDUAL = re.compile(r"res\d[a-z]\d*_branch(1|2[abc])")
_VGG = re.compile(r"conv\d(_\d)?|fc[67]")
_STAGE = re.compile(r"(?:res|conv)(\d)")


def fail(network, found):
    """Raises ValueError: the network of a file has something the zoo has not (ours)."""
    raise ValueError(f"{network.path} holds {found}.")


class Wiring:
    """The roles of the layers of a `Network` (thesis chapters 3 to 5 and 7).

    Args:
        network: a `zoo.weights.matconvnet_network.Network`.
    """

    def __init__(self, network):
        self.network = network
        self.two_streams = any(map(self.stream, network.layers))
        self.resnet = any(x.kind == "BatchNorm" for x in network.layers)

    def stream(self, layer):
        """Prefix of a layer's stream: "appearance_", "motion_", or "" (ours)."""
        found = _STREAM.search(layer.name) if layer else None
        return STREAMS[found[1]] if found else ""

    def base(self, layer):
        """A layer's name without its stream (ours)."""
        return _STREAM.sub("", layer.name)

    def name(self, layer):
        """Our name of a layer, None of one that has no place (ours)."""
        finder = getattr(self, f"_name_{layer.kind.lower()}", None)
        return finder(layer) if finder else None

    def _name_conv(self, layer):
        base, prefix = self.base(layer), self.stream(layer)
        if self.is_fusion(layer):
            return self.fusion_name(layer)
        if _RESIDUAL.fullmatch(base) or _VGG.fullmatch(base):
            return f"{prefix}{base}"
        if self.is_classifier(layer):
            return f"{prefix}{'fc' if self.resnet else 'fc8'}"
        return None

    def is_residual(self, layer):
        """Whether a convolution is one of a residual unit (thesis Table 5.1)."""
        return _RESIDUAL.fullmatch(self.base(layer)) is not None

    def is_fusion(self, layer):
        """Whether a convolution reads the concatenated streams (thesis eq. 3.4)."""
        return self._kinds(self.network.sources(layer)) == {"Concat"}

    def is_classifier(self, layer):
        """Whether a convolution gives scores: the last with weights (thesis 2.1)."""
        return layer in self._classifiers

    @functools.cached_property
    def _classifiers(self):
        """Convolutions after which nothing has weights, whatever their names.

        With a fusion of scores the convolution before it is one, too.
        """
        layers = [x for x in self.network.layers if x.kind == "Conv"]
        last = [x for x in layers if not self._weighted_after(x)]
        fused = [x for x in last if self.is_fusion(x)]
        before = [
            source
            for x in fused
            for joined in self.network.sources(x)
            for source in self.network.sources(joined)
            if source and source.kind == "Conv"
        ]
        known = (_RESIDUAL, _VGG)
        return [
            x
            for x in [*last, *before]
            if x not in fused and not any(k.fullmatch(self.base(x)) for k in known)
        ]

    def _weighted_after(self, layer):
        todo, seen = [layer], set()
        while todo:
            for reader in self.network.readers(todo.pop()):
                if reader.params:
                    return True
                if reader.name not in seen:
                    seen.add(reader.name)
                    todo.append(reader)
        return False

    def fusion_name(self, layer):
        """Our name of a fusion: where the appearance tower is met (thesis 3.3.2)."""
        joined = layer if layer.kind == "Sum" else self.network.source(layer)
        return f"fusion_{self.point(joined, 'appearance_')}"

    def point(self, joined, stream):
        """The endpoint of one stream at which a Concat or Sum joins both (3.3.2)."""
        for source in self.network.sources(joined):
            if self.stream(source) == stream:
                return self._endpoint(source)
        return fail(
            self.network,
            f"{joined.name}, which does not join two streams but "
            f"{', '.join(joined.inputs)}",
        )

    def _endpoint(self, layer):
        base = self.base(layer)
        if layer.kind == "Conv":
            return "fc8" if self.is_classifier(layer) else base
        return {"relu6": "fc6", "relu7": "fc7"}.get(base, base)

    def _name_conv3d(self, layer):
        return self.fusion_name(layer) if self.is_fusion(layer) else None

    def _name_batchnorm(self, layer):
        """By the convolution before it, directly or in a sum, or over time after it."""
        source = self.network.source(layer)
        if source and source.kind == "Sum":  # W2 and the filter over time (chapter 7)
            convs = [x for x in self.network.sources(source) if x and x.kind == "Conv"]
            source = convs[0] if convs else None
        if source and source.kind in ("Conv", "ConvTime"):
            return self._norm_of(source)
        for reader in self.network.readers(layer):
            for filter in self.network.readers(reader):
                if filter.kind == "ConvTime":
                    name = self.name(filter)
                    return name and f"{name}_bn"
        return None

    def _norm_of(self, conv):
        base, prefix = self.base(conv), self.stream(conv)
        if base == "conv1":
            return f"{prefix}bn_conv1"
        if _RESIDUAL.fullmatch(base):
            return f"{prefix}bn{base.removeprefix('res')}"
        return None

    def norm_after(self, layer):
        """Our name of the normalisation that a convolution's bias goes into (ours)."""
        readers = self.network.readers(layer)
        norms = [x for x in readers if x.kind == "BatchNorm"]
        return self.name(norms[0]) if norms and len(readers) == 1 else None

    def _name_convtime(self, layer):
        base, prefix = self.base(layer), self.stream(layer)
        if _RESIDUAL.fullmatch(base):  # an inflated one (chapter 4)
            return f"{prefix}{base}"
        for scale in self.network.readers(layer):
            if scale.kind == "Scale":  # chapter 7
                return self._name_beside(scale)
        source = self.network.source(layer)
        if source is None or source.kind != "ReLU":
            return None
        return self._name_after_relu(self.network.source(source), prefix)

    def _name_beside(self, scale):
        """Name of a filter over time by the convolution its signal is added to."""
        for total in self.network.readers(scale):
            for conv in self.network.sources(total):
                if conv and conv.kind == "Conv":
                    return f"{self.stream(conv)}conv_time_{self.base(conv)}"
        return None

    def _name_after_relu(self, layer, prefix):
        """Name of a filter over time by what it filters (thesis Fig. 5.3)."""
        if layer is None:
            return None
        if layer.kind == "BatchNorm":  # inside a unit
            conv = self.network.source(layer)
            return conv and f"{prefix}{self.base(conv)}_time"
        stage = _STAGE.match(self.base(layer))  # the sum of a unit
        return f"{prefix}res{stage[1]}_time" if stage else None

    def _name_scale(self, layer):
        name = self._name_beside(layer)
        return name and f"{name}_scale"

    def _name_pooling(self, layer):
        number = 5 if self.network.is_average(layer) else self._stage(layer)
        return f"{self.stream(layer)}pool{number}"

    _name_pooling3d = _name_pooling

    def _name_lrn(self, layer):
        return f"{self.stream(layer)}norm{self._stage(layer)}"

    def _name_pooltime(self, layer):
        prefix = self.stream(layer)
        return f"{prefix}pool_time" if prefix else "pool5_time"

    def _stage(self, layer):
        """Stage of the last convolution of a layer's own stream before it."""
        while layer is not None:
            found = _STAGE.match(self.base(layer))
            if layer.kind in ("Conv", "ConvTime", "Conv3D") and found:
                return int(found[1])
            layer = self.network.source(layer)
        return 0

    def _kinds(self, layers):
        return {layer.kind for layer in layers if layer}
