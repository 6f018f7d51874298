"""The record of a registered model.

Source: the thesis section that each record names.
"""

import dataclasses
import types


@dataclasses.dataclass(frozen=True, eq=False)
class ModelInfo:
    """What a registered model is; `str()` of it is a readable card.

    Attributes:
        name: public name. summary: one line. task: e.g. "classification".
        section: of the thesis.
        inputs: {name: description with shape and range}.
        endpoints: names for `zoo.features`, in order of depth.
        clip: (frames, height, width) to which `multiply_adds` refers.
        parameters: number of weights with `num_classes` classes, moving statistics
            of batch normalisation left out.
        multiply_adds: of one clip, in units of 10^9; a FLOP count is twice that.
        receptive_field: {endpoint: (frames, pixels)} in theory; None frames means all.
        weights: names of ImageNet weights for `zoo.load(..., weights=)`; there are
            others, by name, of single models: `zoo.weights.records`.
        warm_start: the model whose weights start this one, a dict {stream: model} for
            a network of several streams, or None.
        new_layers: wildcards of layers that its predecessor does not have, which
            start so that they do not disturb it.
        cut_layers: wildcards of layers of its predecessor that it may lack, where
            options cut a tower off.
        options: {option: default} of this architecture.
        num_classes: default size of the classifier.

    Source: the thesis' tables of architectures (2.1, 4.1, 5.1) and section 7.3.
    """

    name: str
    summary: str
    task: str
    section: str
    inputs: dict = dataclasses.field(default_factory=dict)
    endpoints: tuple = ()
    clip: tuple = ()
    parameters: int | None = None
    multiply_adds: float | None = None
    receptive_field: dict = dataclasses.field(default_factory=dict)
    weights: tuple = ()
    warm_start: str | dict | None = None
    new_layers: tuple = ()
    cut_layers: tuple = ()
    options: dict = dataclasses.field(default_factory=dict)
    num_classes: int | None = None

    def __post_init__(self):
        for field in ("inputs", "receptive_field", "options"):
            view = types.MappingProxyType(dict(getattr(self, field)))
            object.__setattr__(self, field, view)

    def __str__(self):
        lines = [f"{self.name}: {self.summary}", f"  thesis section  {self.section}"]
        for name, description in self.inputs.items():
            lines.append(f"  input {name:9} {description}")
        clip = " x ".join(map(str, self.clip))
        rows = {
            "task": self.task,
            "parameters": self.parameters and f"{self.parameters / 1e6:.2f} M",
            "multiply-adds": self.multiply_adds
            and f"{self.multiply_adds:.3g} G for one clip of {clip}",
            "endpoints": ", ".join(self.endpoints),
            "receptive field": "; ".join(
                f"{endpoint} {_frames(t)} x {s} pixels"
                for endpoint, (t, s) in self.receptive_field.items()
            ),
            "weights": ", ".join(self.weights) or "none of ImageNet",
            "starts from": _predecessors(self.warm_start),
            "classes": self.num_classes,
            "options": ", ".join(f"{k}={v!r}" for k, v in self.options.items()),
        }
        lines += [f"  {key:15} {value}" for key, value in rows.items() if value]
        return "\n".join(lines)


def _frames(count):
    return {None: "all frames", 1: "1 frame"}.get(count, f"{count} frames")


def _predecessors(warm_start):
    if isinstance(warm_start, dict):
        return ", ".join(f"{stream}: {name}" for stream, name in warm_start.items())
    return warm_start
