"""Frames with objects in them, for the tests of detectors."""

import numpy as np

import zoo

SIZE = (96, 128)


def frames(batch=2, length=2, size=SIZE, seed=0):
    """Random colours, uint8 [B, T, H, W, 3]."""
    shape = (batch, length, *size, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype="uint8")


def targets(batch=2, length=2, objects=3, classes=4, seed=0):
    """Objects that move by some pixels; the last of every frame is padding."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 50, (batch, 1, objects, 2))
    corners = corners + np.arange(length)[None, :, None, None] * rng.uniform(-4, 8)
    sizes = rng.uniform(16, 44, (batch, 1, objects, 2)) * np.ones((1, length, 1, 1))
    sizes = sizes * rng.uniform(0.9, 1.1, sizes.shape)
    boxes = np.concatenate([corners, corners + sizes], -1).astype("float32")
    labels = rng.integers(0, classes, (batch, 1, objects)) * np.ones((1, length, 1))
    tracks = np.arange(objects) * np.ones((batch, length, 1))
    labels, tracks = labels.astype("int32"), tracks.astype("int32")
    boxes[:, :, -1], labels[:, :, -1], tracks[:, :, -1] = 0, -1, -1
    return {"boxes": boxes, "labels": labels, "tracks": tracks}


def calibrated(name, **options):
    """A detector whose normalisation fits random frames, as after training.

    Without, the values of a random network grow from layer to layer.
    """
    model = zoo.load(name, frozen=False, **options)
    norms = [layer.norm for layer in model.layers if hasattr(layer, "norm")]
    for norm in norms:
        norm.momentum = 0.0
    model(frames(), training=True)
    return zoo.load(name, weights=model, **options)


def iou(a, b):
    """Overlap of two boxes, plainly."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return shared / (sum(areas) - shared)


def encoded(reference, box):
    """Eq. 8.2-8.3 of two boxes, plainly."""
    (x, y, w, h), (x2, y2, w2, h2) = (
        ((b[0] + b[2]) / 2, (b[1] + b[3]) / 2, b[2] - b[0], b[3] - b[1])
        for b in (reference, box)
    )
    return np.array([(x2 - x) / w, (y2 - y) / h, np.log(w2 / w), np.log(h2 / h)])


def smooth_l1(errors, beta=1.0):
    """Girshick's loss of four values, plainly."""
    return sum(
        0.5 * e * e / beta if abs(e) < beta else abs(e) - beta / 2 for e in errors
    )
