"""Methods of optical flow for `zoo flow`, OpenCV's and our layer; flags and answers.

Source: Zach et al. 2007 for TV-L1; thesis 3.3.5 for what is stored.
"""

import dataclasses
import sys

import numpy as np

from zoo.datasets.extraction import OpenCVMethod
from zoo.datasets.flow import METHODS, flow_source

_STORING = ("out", "size", "quality", "format", "shards", "processes", "overwrite")
_DRAWING = ("show", "flow", "encoding", "bound")
_COMPUTING = ("method", "preset", "camera_motion")


@dataclasses.dataclass(frozen=True)
class LayerMethod:
    """TV-L1 as a Keras layer, `zoo.layers.TVL1Flow`: on a GPU where there is one.

    A description that can be pickled, as `OpenCVMethod` is; the layer is made in the
    process that computes.

    Attributes:
        preset: of the layer, one of `zoo.layers.tv_l1.PRESETS`.
        camera_motion: whether `zoo.layers.RemoveCameraMotion` takes the camera's motion
            out of its flow.
        batch: pairs at once.

    Source: Zach et al. 2007; Wang and Schmid 2013 for the camera's motion.
    """

    preset: str = "default"
    camera_motion: bool = False
    batch: int = 8
    name = "layer"
    processes = 1  # TensorFlow takes all cores, or the GPU, by itself

    def __post_init__(self):
        known = _presets()
        if self.preset not in known:
            raise ValueError(
                f"Unknown preset {self.preset!r}; accepted are {', '.join(known)}."
            )

    @property
    def parameters(self):
        """What the layer is given, and whether camera motion is removed."""
        removed = {"camera_motion": True} if self.camera_motion else {}
        return {"preset": self.preset, **_presets()[self.preset], **removed}

    def open(self):
        """The layer, ready to compute."""
        from zoo import layers

        removal = (
            layers.RemoveCameraMotion(dtype="float32") if self.camera_motion else None
        )
        return Batches(layers.TVL1Flow(preset=self.preset), self.batch, removal)


def _presets():
    """{name: settings} of the layer, which takes Keras; OpenCV's methods don't."""
    from zoo.layers.tv_l1 import PRESETS

    return PRESETS


class Batches:
    """A layer of [first, second] as a function of whole batches of one size.

    A last batch that is shorter is filled up, so that a video's frames have one shape
    and the graph is traced once for it.

    Attributes:
        plain: fields so far that the second layer left as they were; None without it.

    Source: our own.
    """

    def __init__(self, layer, batch, removal=None):
        """Compiles the layers.

        Args:
            layer: from two uint8 [B, H, W, 3] to float32 [B, H, W, 2] in pixels.
            batch: B.
            removal: None, or a layer from such flow to flow that is applied to it, and
                leaves it alone to the last bit where it finds no camera motion.
        """
        import keras

        frames = [keras.Input((None, None, 3), dtype="uint8") for _ in range(2)]
        flow = layer(frames)
        self._model = keras.Model(frames, flow)
        self.plain = None
        if removal:
            left = removal(flow)
            same = keras.ops.all(keras.ops.equal(left, flow), axis=(1, 2, 3))
            self._model = keras.Model(frames, [left, same])
            self.plain = 0
        self._batch = batch

    def between(self, firsts, seconds):
        """Fields from frames to frames, uint8 [N, H, W, 3] -> float32 [N, H, W, 2]."""
        count = len(firsts)
        if missing := max(self._batch - count, 0):
            firsts, seconds = (
                np.concatenate([x, np.repeat(x[-1:], missing, axis=0)])
                for x in (firsts, seconds)
            )
        found = self._model.predict_on_batch([firsts, seconds])
        if self.plain is not None:
            found, same = found
            self.plain += int(same[:count].sum())
        return found[:count]


def source(method, folder=None):
    """Where `zoo.understanding.flow_video` takes the flow of frames one by one from.

    Args:
        method: as `find` gives it.
        folder: of flow that is stored, read instead: as `zoo flow` writes it, or in the
            authors' layout.

    Returns:
        (source, open method): a function of two uint8 [H, W, 3] to float32 [H, W, 2] in
        pixels, and what counts as `plain` the fields without camera motion; of a
        folder its reader and None.

    Raises:
        ValueError: there's no flow in the folder.

    Source: our own.
    """
    if folder in METHODS:
        raise ValueError(f"--flow is a folder here; to compute it: --method {folder}.")
    if folder is not None:
        return flow_source(folder), None
    if isinstance(method, LayerMethod):
        method = dataclasses.replace(method, batch=1)
    opened = method.open()
    return lambda *pair: opened.between(*(x[None] for x in pair))[0], opened


def find(name, preset="default", camera_motion=False):
    """The method of a name.

    Args:
        name: one of `zoo.datasets.flow.METHODS` or "layer". preset: of the layer.
        camera_motion: whether to remove the camera's motion.

    Raises:
        ValueError: unknown name or preset.

    Source: Zach et al. 2007.
    """
    if name == "layer":
        return LayerMethod(preset, camera_motion)
    if preset != "default":
        raise ValueError(f"--preset is for --method layer; got --method {name}.")
    if name not in METHODS:
        raise ValueError(
            f"Unknown flow method {name!r}; accepted are {', '.join(METHODS)}, layer."
        )
    return OpenCVMethod(name, camera_motion)


def refuse(given):
    """Refuses flags of `zoo flow` that contradict each other.

    Args:
        given: the names of those on the command line.

    Raises:
        ValueError: some do; it says which to leave out.

    Source: our own.
    """
    for mode, others, reason in (
        ("check", _STORING + _DRAWING + _COMPUTING, "reads a folder as it is"),
        ("show", _STORING, "draws a video in its own size and stores no flow"),
        ("flow", _COMPUTING, "shows flow as it was stored"),
    ):
        wrong = [f"--{flag}" for flag in others if flag in given]
        if mode in given and wrong:
            raise ValueError(f"--{mode} {reason}; leave out {', '.join(wrong)}.")
    wrong = [f"--{flag}" for flag in _DRAWING[1:] if flag in given]
    if wrong and "show" not in given:
        raise ValueError(f"Only with --show OUT.mp4 or OUT.png: {', '.join(wrong)}.")


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
