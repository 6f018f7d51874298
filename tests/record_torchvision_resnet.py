"""Records a narrow ResNet of torchvision: its files, a picture, and its answer.

    /usr/bin/python3 tests/record_torchvision_resnet.py tests/torchvision_resnet.npz

with an interpreter that has torchvision (Debian: python3-torchvision). The network is
torchvision's own class, of two channels where ResNet-50 has 64. The file holds what
torch.save writes, as bytes: `archive`, the form since PyTorch 1.6, of float32;
`stream`, the older one, of float16 within a checkpoint of a training; `other`, a file
with all kinds of values, and `other stream`, the same in the older form.
"""

import io
import sys

import numpy as np
import torch
import torchvision
from torchvision.models.resnet import Bottleneck, ResNet

WIDTH, UNITS, CLASSES = 2, (2, 1, 1, 1), 5


class Narrow(ResNet):
    """torchvision's ResNet with fewer channels; its forward pass is untouched."""

    def __init__(self):
        self.narrowed = False
        super().__init__(Bottleneck, list(UNITS), num_classes=CLASSES)
        self.fc = torch.nn.Linear(8 * WIDTH * 4, CLASSES)

    def _make_layer(self, block, planes, *arguments, **options):
        if not self.narrowed:
            self.narrowed = True
            self.conv1 = torch.nn.Conv2d(3, WIDTH, 7, 2, 3, bias=False)
            self.bn1 = torch.nn.BatchNorm2d(WIDTH)
            self.inplanes = WIDTH
        return super()._make_layer(block, planes * WIDTH // 64, *arguments, **options)


def drawn(model):
    """Random numbers everywhere; statistics, too."""
    draw = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.7, 1.3),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 1.5),
            ):
                tensor.data.uniform_(low, high, generator=draw)
            module.num_batches_tracked.fill_(7)
    return model.eval()


def answer(model, images):
    """Scores of pictures [N, H, W, 3], 0-255, normalised as torchvision does."""
    x = torch.tensor(images).permute(0, 3, 1, 2).float() / 255
    normalize = torchvision.transforms.Normalize(
        mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]
    )
    with torch.no_grad():
        return model(normalize(x)).numpy()


def saved(content, **options):
    """What torch.save writes, as bytes."""
    file = io.BytesIO()
    torch.save(content, file, **options)
    return np.frombuffer(file.getvalue(), "u1")


def main(path):
    """Writes the file."""
    torch.manual_seed(0)
    model = drawn(Narrow())
    images = np.random.default_rng(0).integers(0, 256, (1, 97, 85, 3), "uint8")
    found = {"torchvision": torchvision.__version__, "images": images}
    found["archive"] = saved(model.state_dict())
    found["archive/scores"] = answer(model, images)
    half = model.half()
    wrapped = {f"module.{k}": v for k, v in half.state_dict().items()}
    found["stream"] = saved(
        {"epoch": 3, "arch": "resnet50", "state_dict": wrapped},
        _use_new_zipfile_serialization=False,
    )
    found["stream/scores"] = answer(half.float(), images)
    plain = torch.arange(24.0).reshape(2, 3, 4)
    other = {
        "part": plain[1:, ::2, 1:3].transpose(0, 2),
        "shared": [plain, plain],
        "parameter": torch.nn.Parameter(plain[0]),
        "bfloat16": plain.bfloat16() / 7,
        "double": plain.double() / 7,
        "integers": torch.tensor([-(2**40), 5]),
        "bytes": torch.tensor([0, 255], dtype=torch.uint8),
        "flags": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "size": plain.shape,
        "values": (1, -2.5, 2**70, None, True, "text", [1, (2, 3), {"a": 4}]),
    }
    found["other"] = saved(other)
    found["other stream"] = saved(other, _use_new_zipfile_serialization=False)
    np.savez_compressed(path, **found)


if __name__ == "__main__":
    main(sys.argv[1])
