"""Records what torchvision's position-sensitive layers and its nms answer.

    /usr/bin/python3 tests/record_torchvision_ps_roi.py tests/torchvision_ps_roi.npz

with an interpreter that has torchvision (Debian: python3-torchvision). The file holds
maps, RoIs, a random weight of every output (`probe`), outputs, and the gradient of
sum(probe x output) with respect to the maps, all channels last; and boxes with scores
and the indices that nms keeps at several thresholds.
"""

import sys

import numpy as np
import torch
import torchvision

SCALE = 1 / 16
# name: (items, outputs, bins, rows, columns)
CASES = {"k7": (1, 2, 7, 10, 8), "k3": (2, 3, 3, 9, 6)}


def rois_of(rng, rows, columns, count):
    """Boxes of all sizes: inside, across the border, outside, empty, on half cells."""
    size = np.array([columns, rows, columns, rows]) / SCALE
    first = rng.uniform(-0.2, 0.9, (count, 2))
    boxes = np.concatenate([first, first + rng.uniform(0, 0.8, (count, 2))], -1) * size
    special = [
        (0, 0, size[0], size[1]),
        (-500, -500, 2 * size[0], 3 * size[1]),
        (size[0] + 40, 10, size[0] + 90, 60),
        (40, 40, 40, 40),
        (60, 70, 50, 20),
        (8, 24, 72, 88),  # halves of cells
        (-8, -24, 104, 136),
        (16, 16, 128, 112),
    ]
    boxes[: len(special)] = special
    return boxes.astype(np.float32)


def record(function, maps, rois, outputs, bins, *options):
    """Probe, output and gradient of one layer, channels last."""
    x = torch.tensor(np.moveaxis(maps, -1, 1).copy(), requires_grad=True)
    per_item = [torch.tensor(r) for r in rois]
    y = function(x, per_item, bins, SCALE, *options)
    y = y.reshape(*rois.shape[:2], outputs, bins, bins).permute(0, 1, 3, 4, 2)
    probe = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    (y * probe).sum().backward()
    gradient = np.moveaxis(x.grad.numpy(), 1, -1)
    return {"probe": probe.numpy(), "output": y.detach().numpy(), "gradient": gradient}


def main(path):
    """Writes the file."""
    rng, found = np.random.default_rng(0), {"torchvision": torchvision.__version__}
    for name, (items, outputs, bins, rows, columns) in CASES.items():
        maps = rng.normal(size=(items, rows, columns, outputs * bins**2))
        maps = maps.astype(np.float32)
        rois = np.stack([rois_of(rng, rows, columns, 18) for _ in range(items)])
        found |= {f"{name}/maps": maps, f"{name}/rois": rois}
        runs = {
            "pool": (torchvision.ops.ps_roi_pool,),
            "align": (torchvision.ops.ps_roi_align, 2),
        }
        for kind, (function, *options) in runs.items():
            arrays = record(function, maps, rois, outputs, bins, *options)
            found |= {f"{name}/{kind}/{key}": a for key, a in arrays.items()}
    boxes = rng.uniform(0, 100, (600, 4)).astype(np.float32)
    boxes[:, 2:] = boxes[:, :2] + rng.uniform(1, 60, (600, 2)).astype(np.float32)
    scores = rng.permutation(600).astype(np.float32)
    found |= {"nms/boxes": boxes, "nms/scores": scores}
    for threshold in (0.3, 0.5, 0.7):
        kept = torchvision.ops.nms(torch.tensor(boxes), torch.tensor(scores), threshold)
        found[f"nms/{threshold}"] = kept.numpy().astype(np.int16)
    np.savez_compressed(path, **found)


if __name__ == "__main__":
    main(sys.argv[1])
