"""ResNets of torchvision and timm, in `.pth` and `.safetensors` files.

Their trunk is the same but for what the stem "torchvision" says: stride 2 on the 3x3
convolution of a stage, a pooling that pads both sides, another mean. They also divide
by a deviation per channel, of which the first kernel takes care here: dividing it
instead is exact, since the zeros around a frame stay zeros, and then a first layer for
flow can be made of it as of any other.

Names: layer1.0.conv1 is res2a_branch2a, its bn1 is bn2a_branch2a, downsample is
branch1; kernels [filters, channels, k, k] become [k, k, channels, filters].

Source: He et al. 2015; torchvision (Marcel and Rodriguez 2010); timm (Wightman 2019).
"""

import re

import numpy as np

from zoo.models.resnet import Net, unit_names
from zoo.weights import pickled, safetensors
from zoo.weights.caffe import require_same
from zoo.weights.conversion import Conversion, Table
from zoo.weights.transfer import Weights

STEM = "torchvision"
DEVIATION = (58.395, 57.12, 57.375)  # of R, G, B in 0-255
STATES = ("state_dict", "model", "model_state_dict", "model_state")
"""Keys under which training scripts save the weights, looked for in this order."""
PREFIXES = ("module.", "model.", "_orig_mod.")
COUNTER = "num_batches_tracked"
_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_BLOCK = re.compile(r"layer([1-4])\.(\d+)\.")
# {part of a block: (convolution, normalisation) there}
_BRANCHES = {
    "1": ("downsample.0", "downsample.1"),
    "2a": ("conv1", "bn1"),
    "2b": ("conv2", "bn2"),
    "2c": ("conv3", "bn3"),
}


def convert(path, info, options=None):
    """The weights in a file of PyTorch under the names of the zoo.

    Args:
        path: of a `.pth` or `.safetensors` file; which, is told by its content.
        info: `ModelInfo` of the model that is to have them.
        options: of the architecture, as asked for; those of the file must be the same.

    Returns:
        A `Conversion`; its options are the stem "torchvision".

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, one that would have to be executed, or weights of
            another network than a ResNet of bottlenecks.

    Source: He et al. 2015; torchvision (Marcel and Rodriguez 2010).
    """
    require_same(path, {"stem": STEM}, options or {})
    if safetensors.recognises(path):
        tensors, facts = safetensors.read(path)
    else:
        tensors, facts = _state(pickled.read(path), path)
    tensors = _without_prefix(tensors)
    try:
        table = _ResNet(tensors)
        table.resnet()
    except ValueError as error:
        raise ValueError(f"{path}, for {info.name}: {error}") from error
    weights = Weights(str(path), table.layers, {"stem": STEM})
    known = {"producer": "PyTorch", "num_classes": weights.num_classes}
    return Conversion(weights, tuple(table.rows), table.unused, {**facts, **known})


def _state(content, path):
    """The tensors by name, and plain values saved beside them."""
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, no weights by name. Save them "
            "so: torch.save(model.state_dict(), PATH)."
        )
    for key in STATES:
        if isinstance(content.get(key), dict):
            facts = {k: v for k, v in content.items() if isinstance(v, int | str)}
            return _arrays(content[key]), facts
    return _arrays(content), {}


def _arrays(content):
    return {k: v for k, v in content.items() if isinstance(v, np.ndarray)}


def _without_prefix(tensors):
    """Names without what wrappers put before all of them."""
    for prefix in PREFIXES:
        if tensors and all(str(name).startswith(prefix) for name in tensors):
            shorter = {n.removeprefix(prefix): array for n, array in tensors.items()}
            return _without_prefix(shorter)
    return tensors


class _ResNet(Table):
    """The tensors of a ResNet of torchvision or timm."""

    @property
    def unused(self):
        """Names of tensors that no rule has taken; counters of batches have no use."""
        return tuple(
            name
            for name in self.source
            if name not in self.used and not name.endswith(f".{COUNTER}")
        )

    def take(self, name, dimensions):
        """A tensor of floating-point numbers, as float32."""
        if name not in self.source:
            raise ValueError(f"the tensor {name} is missing")
        array = self.source[name]
        if array.dtype.kind != "f" or array.ndim != dimensions:
            raise ValueError(
                f"{name} is {array.dtype} {array.shape}, expected were floating-point "
                f"numbers of {dimensions} dimensions"
            )
        self.used.add(name)
        return array.astype("float32")

    def resnet(self):
        """The whole network: stem, four stages, and the classifier if there is one."""
        net = self._net()
        self._conv_norm("conv1", "bn1", "conv1", "bn_conv1")
        for stage in (2, 3, 4, 5):
            for number, letter in enumerate(unit_names(stage, net)):
                block, unit = f"layer{stage - 1}.{number}", f"{stage}{letter}"
                for branch, (conv, norm) in _BRANCHES.items():
                    if branch == "1" and number:
                        continue  # the first unit of a stage alone has a projection
                    ours = (f"{k}{unit}_branch{branch}" for k in ("res", "bn"))
                    self._conv_norm(f"{block}.{conv}", f"{block}.{norm}", *ours)
        if "fc.weight" in self.source:
            self.add(
                "fc", "kernel", self.take("fc.weight", 2).T, "fc.weight", "OI -> IO"
            )
            self.add("fc", "bias", self.take("fc.bias", 1), "fc.bias")

    def _net(self):
        """The numbers of units, counted."""
        blocks = {m.groups() for name in self.source if (m := _BLOCK.match(name))}
        counts = tuple(sum(s == str(n) for s, _ in blocks) for n in (1, 2, 3, 4))
        if "conv1.weight" not in self.source or not all(counts):
            raise ValueError(
                f"its tensors, {', '.join(list(self.source)[:3])}, ..., are not those "
                "of a ResNet of torchvision or timm (conv1.weight, layer1.0.conv1 ...)"
            )
        if "layer1.0.conv3.weight" not in self.source:
            raise ValueError(
                "its units have two convolutions, as those of ResNet-18 and 34; the "
                "zoo has bottlenecks of three"
            )
        return Net(counts)

    def _conv_norm(self, conv, norm, our_conv, our_norm):
        kernel = self.take(f"{conv}.weight", 4).transpose(2, 3, 1, 0)
        transform = "OIHW -> HWIO"
        if our_conv == "conv1" and kernel.shape[2] == len(DEVIATION):
            kernel = kernel / np.array(DEVIATION, "float32")[:, None]
            transform += ", / deviation"
        self.add(our_conv, "kernel", kernel, f"{conv}.weight", transform)
        for variable, theirs in _NORM.items():
            name = f"{norm}.{theirs}"
            self.add(our_norm, variable, self.take(name, 1), name)
