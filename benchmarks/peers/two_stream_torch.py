"""ST-MulNet (thesis 5.3 and 5.4, eq. 5.5-5.10) written plainly in PyTorch.

The peer of `zoo.load("st_mulnet50")`: two of He's Caffe ResNets, one on RGB and one on
flow. What the residual branch of the appearance stream's second unit of every stage
reads is the sum of its first unit times the motion stream's output; in the second
units, of both streams, a temporal convolution follows the 3x3 convolution's ReLU. Then
come the maximum over all chunks, a 7x7 average that slides, a classifier per stream,
and the average of their scores. Nothing but torch is imported.

Clips are {"rgb": [B, T, 3, H, W] 0-255, "flow": [B, T, 20, H, W] in pixels}.
"""

import torch
from torch import nn
from torch.nn import functional as F

from peers.resnet_torch import (
    MEAN,
    NETS,
    Copier,
    Stem,
    TemporalConv,
    Unit,
    make_units,
)

BOUND = 20  # of flow, in pixels
WINDOW = 7


class FilteredUnit(Unit):
    """A bottleneck with a temporal convolution after its 3x3 convolution."""

    def __init__(self, channels, width, stride, project):
        super().__init__(channels, width, stride, project)
        self.time = TemporalConv(width)

    def inside(self, x, frames):
        return self.time(super().inside(x, frames), frames)


def make_unit(letter, *arguments):
    """A unit; the second of a stage filters over time."""
    return (FilteredUnit if letter == "b" else Unit)(*arguments)


class Stream(nn.Module):
    """A ResNet without connections: stem, units, classifier."""

    def __init__(self, net, channels, num_classes):
        super().__init__()
        width = NETS[net][1]
        self.stem = Stem(channels, width)
        self.units = make_units(net, make_unit)
        self.fc = nn.Linear(32 * width, num_classes)

    def scores(self, x, frames):
        """[B*T, C, H, W] -> [B, 1, H', W', num_classes]."""
        x = x.unflatten(0, (-1, frames)).amax(1)
        window = [min(WINDOW, size) for size in x.shape[2:]]
        x = F.avg_pool2d(x, window, stride=1)
        return self.fc(x.permute(0, 2, 3, 1))[:, None]


class STMulNet(nn.Module):
    """Clips -> {"appearance", "motion": scores at all positions, "predictions"}.

    Predictions [B, num_classes] are the average of all scores, before the softmax.
    """

    def __init__(self, net="50", num_classes=101):
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.appearance = Stream(net, 3, num_classes)
        self.motion = Stream(net, 20, num_classes)

    def forward(self, clips):
        frames = clips["rgb"].shape[1]
        rgb, flow = (clips[name].flatten(0, 1) for name in ("rgb", "flow"))
        a = self.appearance.stem(rgb - self.mean)
        m = self.motion.stem(flow.clamp(-BOUND, BOUND) * (127.5 / BOUND))
        for name, unit in self.appearance.units.items():
            signal = None
            if name.endswith("a"):
                x_a = unit.sum(a, frames)
                a = F.relu(x_a)
            else:
                signal = x_a * m if name.endswith("b") else None
                a = unit(a, frames, signal)
            m = self.motion.units[name](m, frames)
        return self._answers(a, m, frames)

    def _answers(self, a, m, frames):
        maps = {
            "appearance": self.appearance.scores(a, frames),
            "motion": self.motion.scores(m, frames),
        }
        logits = [scores.mean((1, 2, 3)) for scores in maps.values()]
        return {**maps, "predictions": sum(logits) / len(logits)}


def loss(outputs, labels):
    """Cross-entropies of both towers at all positions, summed; mean over clips."""
    total = 0
    for name in ("appearance", "motion"):
        scores = outputs[name].flatten(1, 3)  # [B, positions, K]
        wanted = labels[:, None].expand(scores.shape[:2])
        total = total + F.cross_entropy(
            scores.flatten(0, 1), wanted.flatten(), reduction="sum"
        )
    return total / len(labels)


@torch.no_grad()
def load(net, variables):
    """Copies the variables of the Keras model, a dict from path to array."""
    copier = Copier(variables)
    for stream in ("appearance", "motion"):
        target, prefix = getattr(net, stream), f"{stream}_"
        copier.stem(target.stem, prefix)
        for name, unit in target.units.items():
            copier.unit(unit, name, prefix)
            if isinstance(unit, FilteredUnit):
                copier.temporal(unit.time, f"{prefix}res{name}_branch2b_time")
        copier.linear(target.fc, f"{prefix}fc")
    copier.finish()
