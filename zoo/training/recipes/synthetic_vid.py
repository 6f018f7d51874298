"""Tiny detectors on synthetic videos: the whole path of chapter 8 in minutes.

    zoo train rfcn_synthetic --data SYNTHETIC --classes bus,turtle,whale,zebra \\
        --out runs/rfcn
    zoo train detect_track_synthetic --data SYNTHETIC --weights runs/rfcn/last \\
        --classes bus,turtle,whale,zebra --out runs/dt

SYNTHETIC is what `zoo.datasets.synthetic_vid.write_synthetic_vid` writes. The promise:
`benchmarks/experiments/tubes.py` prints the table of the thesis on it. Unlike the
thesis', this training begins at random weights, so batch normalisation learns, too,
with Adam.
"""

import dataclasses

from zoo.training.detection_recipe import DetectionRecipe

RFCN = DetectionRecipe(
    model="rfcn_tiny",
    options={"frozen": False},
    frames=1,
    shorter_side=128,
    longer_side=160,
    padded_size=(128, 160),
    max_objects=8,
    batch_size=8,
    optimizer="adam",
    learning_rate=((1e-3, 1500), (1e-4, 500)),
    updates_per_epoch=250,
)
DETECT_TRACK = dataclasses.replace(
    RFCN,
    model="detect_track_tiny",
    frames=2,
    batch_size=4,
    learning_rate=((5e-4, 500), (5e-5, 250)),
)
RECIPES = {"rfcn_synthetic": RFCN, "detect_track_synthetic": DETECT_TRACK}
