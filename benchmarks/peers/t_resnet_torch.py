"""T-ResNet-50 (thesis 7.3, eq. 7.4-7.7) written plainly in PyTorch.

The peer of `zoo.load("t_resnet50")`: He's Caffe ResNet-50 on every frame, a temporal
convolution in the first and third unit of every stage, the average over space, the
maximum over time, a linear classifier. Nothing but torch is imported.

Clips are [B, T, 3, H, W], RGB 0-255.
"""

import torch
from torch import nn
from torch.nn import functional as F

from peers.resnet_torch import MEAN, Copier, Stem, TemporalConv, Unit, make_units

UNITS_WITH_TIME = "ac"


class TemporalBranch(TemporalConv):
    """S_l f(W_t x_1 + b) of eq. 7.6: convolution over three frames, then a scale."""

    def __init__(self, channels):
        super().__init__(channels)
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 0.01))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x, frames):
        return F.relu(super().forward(x, frames)) * self.scale + self.bias


class TemporalUnit(Unit):
    """A bottleneck with a temporal branch beside its 3x3 convolution."""

    def __init__(self, channels, width, stride, project):
        super().__init__(channels, width, stride, project)
        self.time = TemporalBranch(width)

    def inside(self, x, frames):
        x = F.relu(self.branch2a(x))
        return F.relu(self.branch2b(x)) + self.time(x, frames)


def make_unit(letter, *arguments):
    """A unit, with a temporal branch or without."""
    kind = TemporalUnit if letter in UNITS_WITH_TIME else Unit
    return kind(*arguments)


class TResNet50(nn.Module):
    """Clips [B, T, 3, H, W] of RGB 0-255 -> scores [B, num_classes] before softmax."""

    def __init__(self, num_classes=20):
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.stem = Stem(3, 64)
        self.units = make_units("50", make_unit)
        self.fc = nn.Linear(2048, num_classes)

    def forward(self, clips):
        frames = clips.shape[1]
        x = self.stem(clips.flatten(0, 1) - self.mean)
        for unit in self.units.values():
            x = unit(x, frames)
        x = x.mean((2, 3)).unflatten(0, (-1, frames))
        return self.fc(x.amax(1))


@torch.no_grad()
def load(net, variables):
    """Copies the variables of the Keras model, a dict from path to array."""
    copier = Copier(variables)
    copier.stem(net.stem)
    for name, unit in net.units.items():
        copier.unit(unit, name)
        if isinstance(unit, TemporalUnit):
            time = f"conv_time_res{name}_branch2b"
            copier.temporal(unit.time, time)
            for kind in ("scale", "bias"):
                value = copier.take(f"{time}_scale/{kind}")[:, None, None]
                getattr(unit.time, kind).copy_(value)
    copier.linear(net.fc, "fc")
    copier.finish()
