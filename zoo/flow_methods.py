"""Methods of optical flow for `zoo flow`, OpenCV's and our own layer; its answers.

Source: Zach et al. 2007 for TV-L1; thesis 3.3.5 for what is stored.
"""

import dataclasses
import sys

import numpy as np

from zoo.datasets.extraction import OpenCVMethod
from zoo.datasets.flow import METHODS

PRESETS = ("default", "fast")


@dataclasses.dataclass(frozen=True)
class LayerMethod:
    """TV-L1 as a Keras layer, `zoo.layers.TVL1Flow`: on a GPU where there is one.

    A description that can be pickled, as `OpenCVMethod` is; the layer is made in the
    process that computes.

    Attributes:
        preset: of the layer, one of PRESETS.

    Source: Zach et al. 2007.
    """

    preset: str = "default"
    name = "layer"
    batch = 8
    processes = 1  # TensorFlow takes all cores, or the GPU, by itself

    def __post_init__(self):
        if self.preset not in PRESETS:
            raise ValueError(
                f"Unknown preset {self.preset!r}; accepted are {', '.join(PRESETS)}."
            )

    @property
    def parameters(self):
        """What the layer is given."""
        return {"preset": self.preset}

    def open(self):
        """The layer, ready to compute."""
        from zoo import layers

        if not hasattr(layers, "TVL1Flow"):
            raise ValueError(
                "--method layer needs zoo.layers.TVL1Flow, which this version lacks; "
                f"accepted are {', '.join(METHODS)}."
            )
        return Batches(layers.TVL1Flow(preset=self.preset), self.batch)


class Batches:
    """A layer of [first, second] as a function of whole batches of one size.

    A last batch that is shorter is filled up, so that a video's frames have one shape
    and the graph is traced once for it.

    Source: our own.
    """

    def __init__(self, layer, batch):
        """Compiles the layer.

        Args:
            layer: from two uint8 [B, H, W, 3] to float32 [B, H, W, 2] in pixels.
            batch: B.
        """
        import keras

        frames = [keras.Input((None, None, 3), dtype="uint8") for _ in range(2)]
        self._model = keras.Model(frames, layer(frames))
        self._batch = batch

    def between(self, firsts, seconds):
        """Fields from frames to frames, uint8 [N, H, W, 3] -> float32 [N, H, W, 2]."""
        missing = self._batch - len(firsts)
        if missing > 0:
            firsts, seconds = (
                np.concatenate([x, np.repeat(x[-1:], missing, axis=0)])
                for x in (firsts, seconds)
            )
        found = self._model.predict_on_batch([firsts, seconds])
        return found[: len(found) - max(missing, 0)]


def find(name, preset="default"):
    """The method of a name.

    Args:
        name: one of `zoo.datasets.flow.METHODS` or "layer". preset: of the layer.

    Raises:
        ValueError: unknown name or preset.

    Source: Zach et al. 2007.
    """
    if name == "layer":
        return LayerMethod(preset)
    if preset != "default":
        raise ValueError(f"--preset is for --method layer; got --method {name}.")
    if name not in METHODS:
        raise ValueError(
            f"Unknown flow method {name!r}; accepted are {', '.join(METHODS)}, layer."
        )
    return OpenCVMethod(name)


def verdict(summary):
    """Names the videos that failed; returns the exit code, 1 if there are any."""
    if not summary.failed:
        return 0
    print(f"zoo: {len(summary.failed)} videos failed:", file=sys.stderr)
    for name, reason in summary.failed:
        print(f"zoo:   {name}: {reason}", file=sys.stderr)
    print("zoo: the same command tries them again", file=sys.stderr)
    return 1


def check(folder):
    """Compares a folder of flow with its manifest, prints what differs.

    Args:
        folder: that `zoo flow` has written.

    Returns:
        Exit code, 1 if something differs.

    Raises:
        ValueError: there is no manifest.
    """
    from zoo.datasets.extraction import check as compare

    report = compare(folder)
    for problem in report.problems:
        print(f"zoo: {problem}", file=sys.stderr)
    print(
        f"{report.videos} videos, {report.fields} fields, {report.failed} videos had "
        f"failed, {len(report.problems)} problems"
    )
    return 1 if report.problems else 0
