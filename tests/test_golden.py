"""Raw scores of every tiny model under fixed weights, as first recorded.

Silent changes of the numbers fail here. If a change is meant, record anew and say why
in the commit:

    ZOO_RECORD_GOLDEN=1 python -m pytest tests/test_golden.py
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import zoo
from zoo.models.testing import alone_or_all, inputs_of

FILE = Path(__file__).with_name("golden_scores.json")
RECORD = "ZOO_RECORD_GOLDEN"
CASES = {
    "resnet_tiny": ("resnet_tiny", {}),
    "resnet_tiny keras stem": ("resnet_tiny", {"stem": "keras"}),
    "resnet_tiny torchvision stem": ("resnet_tiny", {"stem": "torchvision"}),
    "t_resnet_tiny torchvision stem": (
        "t_resnet_tiny",
        {"stem": "torchvision", "temporal_scale": 1.0},
    ),
    "t_resnet_tiny": ("t_resnet_tiny", {"temporal_scale": 1.0}),
    "t_resnet_tiny release": ("t_resnet_tiny", {"unit": "release"}),
    "motion_resnet26_tiny": ("motion_resnet26_tiny", {}),
    "vgg_tiny": ("vgg_tiny", {}),
    "two_stream_vgg_tiny": ("two_stream_vgg_tiny", {"stream_weights": (1, 3)}),
    "fusion_vgg_tiny": ("fusion_vgg_tiny", {}),
    "fusion_vgg_tiny bilinear": (
        "fusion_vgg_tiny",
        {"method": "bilinear", "keep_motion": False, "pooling": "2d"},
    ),
    "st_resnet26_tiny": ("st_resnet26_tiny", {}),
    "st_resnet26_tiny star": ("st_resnet26_tiny", {"temporal_pooling": "res5"}),
    "st_mulnet26_tiny": ("st_mulnet26_tiny", {}),
    "st_mulnet26_tiny both": (
        "st_mulnet26_tiny",
        {"connection": "residual_multiply_both", "temporal": "skip_average"},
    ),
}


def wave(shape, phase):
    """Numbers in -1 to 1 that need no random generator."""
    return np.sin(0.7 * np.arange(np.prod(shape)) + phase).reshape(shape)


def scores(name, options):
    """Raw scores of two clips under weights made of waves."""
    model = zoo.load(name, **options)
    for phase, variable in enumerate(model.weights):
        kind, shape = variable.path.split("/")[-1], variable.shape
        value = wave(shape, phase)
        if kind == "kernel":
            value *= np.sqrt((12 if "vgg" in name else 3) / np.prod(shape[:-1]))
        elif kind in ("gamma", "moving_variance", "scale"):
            value = 1 + 0.2 * value
            if kind == "gamma" and "mulnet" in name:
                value *= 0.75  # products of streams grow with every stage
        elif kind == "bias" and "vgg" in name:
            value *= 0.1  # or biases drown the input
        variable.assign(value)
    size = (2, 5, 64, 64) if "26" in name or "vgg" in name else (2, 3, 40, 48)
    clips = {
        "rgb": np.arange(np.prod(size) * 3).reshape(*size, 3) * 7 % 251,
        "flow": 9 * wave((*size, 20), 0).astype("float32"),
    }
    if size[2] == 64:  # such regular clips would look alike
        clips["rgb"][1] //= 3
        clips["flow"][1] *= -0.3
    x = alone_or_all({kind: clips[kind] for kind in inputs_of(model)})
    return zoo.features(model, ["logits"])(x)["logits"].numpy()


@pytest.mark.parametrize("case", CASES)
def test_scores_are_those_recorded(case):
    found = scores(*CASES[case])
    recorded = json.loads(FILE.read_text()) if FILE.exists() else {}
    if os.environ.get(RECORD):
        recorded[case] = np.round(found.astype(float), 6).tolist()
        FILE.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")
    hint = f"If that is meant: {RECORD}=1 python -m pytest {__file__}"
    assert case in recorded, hint
    np.testing.assert_allclose(
        found, recorded[case], rtol=1e-3, atol=1e-3, err_msg=hint
    )


def test_recorded_scores_tell_inputs_and_models_apart():
    recorded = json.loads(FILE.read_text())
    assert set(recorded) == set(CASES)
    rows = np.concatenate([recorded[case] for case in CASES])
    distances = np.abs(rows[:, None] - rows[None]).max(axis=-1)
    assert distances[~np.eye(len(rows), dtype=bool)].min() > 0.01
