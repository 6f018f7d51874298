"""What the peers share: He's Caffe ResNets (arXiv:1512.03385) in plain PyTorch.

Stride 2 stands on the first 1x1 convolution of a stage, and the pooling window may
hang over the border. Attributes carry the names of He's release, so the variables of
the Keras models are copied by name. Nothing but torch is imported.
"""

import torch
from torch import nn
from torch.nn import functional as F

MEAN = (123.1516, 115.9029, 103.0626)
# units of the stages 2 to 5, and width of stage 2
NETS = {"50": ((3, 4, 6, 3), 64), "26": ((2, 2, 2, 2), 8)}


class ConvNorm(nn.Module):
    """Convolution without bias, then batch normalisation."""

    def __init__(self, channels, filters, kernel_size, stride=1):
        super().__init__()
        padding = kernel_size // 2
        self.conv = nn.Conv2d(
            channels, filters, kernel_size, stride, padding, bias=False
        )
        self.norm = nn.BatchNorm2d(filters, eps=1e-5, momentum=0.05)

    def forward(self, x):
        return self.norm(self.conv(x))


class TemporalConv(nn.Module):
    """Convolution over three frames, with a bias: [B*T, C, H, W] -> the same."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, x, frames):
        clips = x.unflatten(0, (-1, frames)).transpose(1, 2)  # [B, C, T, H, W]
        return self.conv(clips).transpose(1, 2).flatten(0, 1)


class Unit(nn.Module):
    """One bottleneck; `inside` is what stands before its last convolution."""

    def __init__(self, channels, width, stride, project):
        super().__init__()
        self.branch2a = ConvNorm(channels, width, 1, stride)
        self.branch2b = ConvNorm(width, width, 3)
        self.branch2c = ConvNorm(width, 4 * width, 1)
        self.branch1 = ConvNorm(channels, 4 * width, 1, stride) if project else None

    def inside(self, x, frames):
        return F.relu(self.branch2b(F.relu(self.branch2a(x))))

    def sum(self, x, frames, signal=None):
        """The sum before the last nonlinearity; the branch may read another signal."""
        shortcut = x if self.branch1 is None else self.branch1(x)
        return shortcut + self.branch2c(
            self.inside(x if signal is None else signal, frames)
        )

    def forward(self, x, frames, signal=None):
        return F.relu(self.sum(x, frames, signal))


class Stem(nn.Module):
    """conv1 and pool1."""

    def __init__(self, channels, width):
        super().__init__()
        self.conv1 = ConvNorm(channels, width, 7, 2)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)

    def forward(self, x):
        return self.pool1(F.relu(self.conv1(x)))


def make_units(net, make):
    """The units "2a", "2b", ... by name.

    Args:
        net: a key of `NETS`.
        make: function of (letter, channels, width, stride, project).
    """
    counts, width = NETS[net]
    units, channels = nn.ModuleDict(), width
    for stage, count in enumerate(counts, start=2):
        for letter in "abcdef"[:count]:
            first = letter == "a"
            stride = 2 if first and stage > 2 else 1
            units[f"{stage}{letter}"] = make(letter, channels, width, stride, first)
            channels = 4 * width
        width *= 2
    return units


def channels_last(net):
    """The same network with its kernels in PyTorch's channels-last layout."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
        elif isinstance(module, nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)
    return net


class Copier:
    """Copies the variables of a Keras model, a dict from path to array, by name."""

    def __init__(self, variables):
        self.left = {name: torch.from_numpy(x) for name, x in variables.items()}

    def take(self, path):
        """The variable of this path, once."""
        return self.left.pop(path)

    def conv_norm(self, target, name, norm):
        """Into a `ConvNorm`, from the convolution and normalisation of these names."""
        target.conv.weight.copy_(self.take(f"{name}/kernel").permute(3, 2, 0, 1))
        for ours, theirs in (
            ("weight", "gamma"),
            ("bias", "beta"),
            ("running_mean", "moving_mean"),
            ("running_var", "moving_variance"),
        ):
            getattr(target.norm, ours).copy_(self.take(f"{name}/{norm}/{theirs}"))

    def stem(self, target, prefix=""):
        """Into a `Stem`."""
        self.conv_norm(target.conv1, f"{prefix}conv1", f"{prefix}bn_conv1")

    def unit(self, target, name, prefix=""):
        """Into the convolutions of a `Unit`."""
        for branch in ("2a", "2b", "2c", "1"):
            part = getattr(target, f"branch{branch}")
            if part is not None:
                names = (
                    f"{prefix}{kind}{name}_branch{branch}" for kind in ("res", "bn")
                )
                self.conv_norm(part, *names)

    def temporal(self, target, name):
        """Into a `TemporalConv`."""
        kernel = self.take(f"{name}/kernel").permute(2, 1, 0)
        target.conv.weight.copy_(kernel[..., None, None])
        target.conv.bias.copy_(self.take(f"{name}/bias"))

    def linear(self, target, name):
        """Into an nn.Linear."""
        target.weight.copy_(self.take(f"{name}/kernel").T)
        target.bias.copy_(self.take(f"{name}/bias"))

    def finish(self):
        """Raises ValueError if variables are left."""
        if self.left:
            raise ValueError(f"no place for {', '.join(sorted(self.left))}")
