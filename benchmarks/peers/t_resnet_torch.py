"""T-ResNet-50 (thesis 7.3, eq. 7.4-7.7) written plainly in PyTorch.

The peer of `zoo.load("t_resnet50")`: He's Caffe ResNet-50 on every frame (stride 2 on
the first 1x1 convolution of a stage, a pooling window that may hang over the border),
a temporal convolution in the first and third unit of every stage, the average over
space, the maximum over time, a linear classifier. Nothing but torch is imported.

Clips are [B, T, 3, H, W], RGB 0-255; attributes carry the names of He's release, so
`load` copies the variables of the Keras model by name.
"""

import torch
from torch import nn
from torch.nn import functional as F

MEAN = (123.1516, 115.9029, 103.0626)
# units and width of the stages 2 to 5
STAGES = {2: (3, 64), 3: (4, 128), 4: (6, 256), 5: (3, 512)}
UNITS_WITH_TIME = "ac"


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


class TemporalBranch(nn.Module):
    """S_l f(W_t x_1 + b) of eq. 7.6: convolution over three frames, then a scale."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 0.01))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x, frames):
        clips = x.unflatten(0, (-1, frames)).transpose(1, 2)  # [B, C, T, H, W]
        x = self.conv(clips).transpose(1, 2).flatten(0, 1)
        return F.relu(x) * self.scale + self.bias


class Unit(nn.Module):
    """One bottleneck, with a temporal branch or without."""

    def __init__(self, channels, width, stride, project, with_time):
        super().__init__()
        self.branch2a = ConvNorm(channels, width, 1, stride)
        self.branch2b = ConvNorm(width, width, 3)
        self.branch2c = ConvNorm(width, 4 * width, 1)
        self.branch1 = ConvNorm(channels, 4 * width, 1, stride) if project else None
        self.time = TemporalBranch(width) if with_time else None

    def forward(self, x, frames):
        shortcut = x if self.branch1 is None else self.branch1(x)
        x = F.relu(self.branch2a(x))
        y = F.relu(self.branch2b(x))
        if self.time is not None:
            y = y + self.time(x, frames)
        return F.relu(shortcut + self.branch2c(y))


class TResNet50(nn.Module):
    """Clips [B, T, 3, H, W] of RGB 0-255 -> scores [B, num_classes] before softmax."""

    def __init__(self, num_classes=20):
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.conv1 = ConvNorm(3, 64, 7, 2)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.units = nn.ModuleDict()
        channels = 64
        for stage, (count, width) in STAGES.items():
            for letter in "abcdef"[:count]:
                first = letter == "a"
                stride = 2 if first and stage > 2 else 1
                with_time = letter in UNITS_WITH_TIME
                unit = Unit(channels, width, stride, first, with_time)
                self.units[f"{stage}{letter}"] = unit
                channels = 4 * width
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, clips):
        frames = clips.shape[1]
        x = clips.flatten(0, 1) - self.mean
        x = self.pool1(F.relu(self.conv1(x)))
        for unit in self.units.values():
            x = unit(x, frames)
        x = x.mean((2, 3)).unflatten(0, (-1, frames))
        return self.fc(x.amax(1))


def channels_last(net):
    """The same network with its kernels in PyTorch's channels-last layout."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
        elif isinstance(module, nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)
    return net


@torch.no_grad()
def load(net, variables):
    """Copies the variables of the Keras model, a dict from path to array."""
    variables = {path: torch.from_numpy(value) for path, value in variables.items()}

    def conv_norm(target, name, norm):
        target.conv.weight.copy_(variables.pop(f"{name}/kernel").permute(3, 2, 0, 1))
        for ours, theirs in (
            ("weight", "gamma"),
            ("bias", "beta"),
            ("running_mean", "moving_mean"),
            ("running_var", "moving_variance"),
        ):
            getattr(target.norm, ours).copy_(variables.pop(f"{name}/{norm}/{theirs}"))

    def temporal(target, name):
        kernel = variables.pop(f"{name}/kernel").permute(2, 1, 0)
        target.conv.weight.copy_(kernel[..., None, None])
        target.conv.bias.copy_(variables.pop(f"{name}/bias"))
        target.scale.copy_(variables.pop(f"{name}_scale/scale")[:, None, None])
        target.bias.copy_(variables.pop(f"{name}_scale/bias")[:, None, None])

    conv_norm(net.conv1, "conv1", "bn_conv1")
    for name, unit in net.units.items():
        for branch in ("2a", "2b", "2c", "1"):
            target = getattr(unit, f"branch{branch}")
            if target is not None:
                norm = f"bn{name}_branch{branch}"
                conv_norm(target, f"res{name}_branch{branch}", norm)
        if unit.time is not None:
            temporal(unit.time, f"conv_time_res{name}_branch2b")
    net.fc.weight.copy_(variables.pop("fc/kernel").T)
    net.fc.bias.copy_(variables.pop("fc/bias"))
    if variables:
        raise ValueError(f"no place for {', '.join(sorted(variables))}")
