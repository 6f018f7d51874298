"""Optical flow of videos: stacks around a frame, stored as JPEGs or computed.

Field i of a video is the motion from frame i to frame i + 1 in pixels, u to the right
and v down. A motion network sees, for the frame t, the ten fields t - 5 ... t + 4 as 20
channels, u and v in turn. Fields are held in 8 bits, as the thesis stores them:
displacements of -20 to 20 pixels as 0 to 255.

Source: thesis 2.3 and 3.3.5; released code for the names of the files.
"""

import functools
import os
from pathlib import Path

import cv2
import numpy as np

from zoo.datasets.video import VideoError

BOUND = 20.0
"""Largest displacement kept, in pixels (thesis 3.3.5)."""
BEFORE, FIELDS = 5, 10
"""Fields of a stack before its frame, and in all (L of thesis 2.3)."""
METHODS = ("tvl1", "dis", "farneback")
"""Ways to compute flow: Zach et al. 2007 (the thesis'), and two fast ones."""
PARAMETERS = {
    "tvl1": {
        "tau": 0.25, "lambda_": 0.15, "theta": 0.3, "nscales": 5, "warps": 5,
        "epsilon": 0.01, "innnerIterations": 30, "outerIterations": 10,
        "scaleStep": 0.8, "gamma": 0.0, "medianFiltering": 5,
    },
    "dis": {"preset": "medium"},
    "farneback": {
        "pyr_scale": 0.5, "levels": 5, "winsize": 15, "iterations": 3, "poly_n": 5,
        "poly_sigma": 1.2, "flags": 0,
    },
}  # fmt: skip
"""What OpenCV is given, under its own names; of TV-L1 these are its defaults."""


def to_codes(flow):
    """Displacements in pixels -> 8 bits, round(255 (d + 20) / 40) (thesis 3.3.5).

    Args:
        flow: float array of any shape; values beyond 20 pixels are clipped.

    Returns:
        uint8 array of the same shape; zero motion is 128.

    Raises:
        ValueError: If a value isn't finite.
    """
    flow = np.asarray(flow, np.float32)
    if not np.isfinite(flow).all():
        raise ValueError("flow holds NaN or infinite values; compute it again.")
    scaled = (np.clip(flow, -BOUND, BOUND) + BOUND) * (255 / (2 * BOUND))
    return np.rint(scaled).astype(np.uint8)


def to_pixels(codes):
    """8-bit codes -> displacements in pixels, float32 (inverse of to_codes)."""
    return codes.astype(np.float32) * np.float32(2 * BOUND / 255) - np.float32(BOUND)


def centres(num_frames):
    """Which frames have a whole stack around them: (first, how many).

    A video too short for that, with fewer than 11 frames, has a stack at every frame,
    whose fields at the ends are repeated.

    Args:
        num_frames: Frames of the video, at least 2.

    Raises:
        ValueError: If there are fewer than two frames, between which there's no flow.
    """
    if num_frames < 2:
        raise ValueError(
            f"optical flow needs at least 2 frames, the video has {num_frames}"
        )
    whole = num_frames - FIELDS
    return (BEFORE, whole) if whole > 0 else (0, num_frames)


def stack_fields(frames, num_fields):
    """Fields of the stack around every frame (thesis 2.3).

    Args:
        frames: Frame numbers t, int [T].
        num_fields: Fields of the video.

    Returns:
        int64 [T, 10], t - 5 ... t + 4, clipped to 0...num_fields - 1.
    """
    around = np.arange(-BEFORE, FIELDS - BEFORE)
    fields = np.asarray(frames, np.int64)[:, None] + around
    return np.clip(fields, 0, num_fields - 1)


def stack(fields):
    """Fields of every stack, [T, 10, H, W, 2] -> [T, H, W, 20], u and v in turn."""
    count, length, height, width, _ = fields.shape
    ordered = np.transpose(fields, (0, 2, 3, 1, 4))
    return ordered.reshape(count, height, width, 2 * length)


def video_name(path):
    """The name of a video's flow, ``<class>/<video>``: its folder and its stem.

    Args:
        path: Of the video file, absolute or relative.
    """
    path = Path(os.path.abspath(path))
    return f"{path.parent.name}/{path.stem}".lstrip("/")


def flow_source(name):
    """The source of flow that a word or a folder stands for.

    Args:
        name: One of METHODS, a folder with ``u`` and ``v`` in it, or one with the
            TFRecords of ``zoo flow --format tfrecord``.

    Returns:
        A ComputedFlow, a FlowFolder or a FlowRecords.

    Raises:
        ValueError: If it's none of these.
    """
    if name in METHODS:
        return ComputedFlow(name)
    if any(Path(name).glob("flow-*-of-*.tfrecord")):
        # Only here, since it needs TensorFlow.
        from zoo.datasets.flow_records import FlowRecords

        return FlowRecords(name)
    return FlowFolder(name)


class FlowFolder:
    """Fields stored as grey JPEGs, ``u/<video>/frame000001.jpg`` and ``v/...`` beside.

    ``<video>`` is the name of the video file without its ending, or its folder and
    name where names occur in several classes: ``<class>/<video>``. File i + 1 holds
    field i; numbers start at 1.

    Source: the released code's folders ``tvl1_flow``.

    Attributes:
        name: What a record of training says of it.
    """

    needs_frames = False
    name = "folder"

    def __init__(self, root):
        """Opens a folder.

        Args:
            root: Folder that holds ``u`` and ``v``.

        Raises:
            ValueError: If it doesn't; the methods that compute flow are named.
        """
        self.root = Path(root)
        missing = [d for d in ("u", "v") if not (self.root / d).is_dir()]
        if missing:
            raise ValueError(
                f"{root} is no folder of optical flow: it has no "
                f"{' and no '.join(repr(d) for d in missing)}. Give a folder with u/"
                "<video>/frame000001.jpg and v/..., one that zoo flow has written, or "
                f"a method: {', '.join(METHODS)}."
            )

    def __str__(self):
        return str(self.root)

    def count(self, video):
        """Number of fields stored for a video.

        Args:
            video: Path of the video file.

        Raises:
            VideoError: If there are none, or u and v have different numbers.
        """
        counts = [len(self._files(folder)) for folder in self._folders(video)]
        if not counts[0] or counts[0] != counts[1]:
            raise VideoError(
                f"{video}: {self.root} holds {counts[0]} fields of u and {counts[1]} "
                "of v for it; extract its flow again."
            )
        return counts[0]

    def fields(self, video, indices):
        """Reads fields as codes, uint8 [N, H, W, 2].

        Args:
            video: Path of the video file.
            indices: Field numbers from 0, [N].

        Raises:
            VideoError: If a file is missing, unreadable or of another size.
        """
        u, v = (
            [self._read(video, folder / f"frame{i + 1:06d}.jpg") for i in indices]
            for folder in self._folders(video)
        )
        sizes = {image.shape for image in u + v}
        if len(sizes) > 1:
            raise VideoError(
                f"{video}: its flow in {self.root} has several sizes, "
                f"{sorted(sizes)}; extract it again."
            )
        return np.stack([np.stack(u), np.stack(v)], axis=-1)

    def _folders(self, video):
        stem = Path(video).stem
        names = video_name(video), stem, self._spellings.get(stem.lower(), stem)
        for name in names:
            folders = [self.root / component / name for component in ("u", "v")]
            if all(folder.is_dir() for folder in folders):
                return folders
        raise VideoError(
            f"{video}: no flow in {self.root}: neither u/{video_name(video)} nor "
            f"u/{stem} is there; extract it (zoo flow), or give another folder."
        )

    @functools.cached_property
    def _spellings(self):
        """Folders of videos by their names in lower case.

        UCF101 spells v_HandStandPushups in its files and v_HandstandPushups in its
        lists, after which the released folders go.
        """
        return {name.lower(): name for name in os.listdir(self.root / "u")}

    @staticmethod
    def _files(folder):
        # Not every JPEG: archives made on a Mac bring a ._frame000001.jpg for each.
        names = os.listdir(folder)
        return [n for n in names if n.startswith("frame") and n.endswith(".jpg")]

    @staticmethod
    def _read(video, path):
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if image is None:
            raise VideoError(
                f"{video}: {path} is missing or no image; extract its flow again."
            )
        return image


class ComputedFlow:
    """Fields computed from frames by OpenCV, the moment they are asked for.

    Attributes:
        name: The method, one of METHODS.
    """

    needs_frames = True

    def __init__(self, method="tvl1"):
        """Chooses a method.

        Args:
            method: "tvl1" (TV-L1 of Zach et al. 2007, the thesis'; about a second per
                field of 340x256), "dis" (dense inverse search, a hundred times
                faster) or "farneback".

        Raises:
            ValueError: If the method is unknown.
        """
        if method not in METHODS:
            raise ValueError(
                f"Unknown flow method {method!r}; accepted are {', '.join(METHODS)}."
            )
        self.name = method

    def __str__(self):
        return self.name

    def between(self, first, second):
        """The field between two frames as codes.

        Args:
            first, second: RGB frames, uint8 [H, W, 3].

        Returns:
            uint8 [H, W, 2].

        Raises:
            VideoError: If the frames are too small for the method.
        """
        return to_codes(self.pixels(first, second))

    def pixels(self, first, second):
        """The field between two frames, float32 [H, W, 2]; see ``between``."""
        pair = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second)]
        try:
            return self._flow(pair)
        except cv2.error as error:
            raise VideoError(
                f"OpenCV's {self.name} cannot compute flow of frames of "
                f"{first.shape[1]}x{first.shape[0]}: {error.err}"
            ) from error

    def _flow(self, pair):
        # Made anew: these objects keep buffers and aren't safe to share by threads.
        parameters = PARAMETERS[self.name]
        if self.name == "farneback":
            return cv2.calcOpticalFlowFarneback(*pair, None, *parameters.values())
        if self.name == "dis":
            preset = cv2.DISOPTICAL_FLOW_PRESET_MEDIUM
            return cv2.DISOpticalFlow_create(preset).calc(*pair, None)
        return cv2.optflow.DualTVL1OpticalFlow_create(**parameters).calc(*pair, None)
