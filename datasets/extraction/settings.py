"""How flow is extracted: the method, the size, and the form on disk.

Source: thesis 3.3.5 and the released extractor: 256 pixels, sizes rounded down to even
numbers, OpenCV's JPEG quality of 95.
"""

import dataclasses

import cv2
import numpy as np

from zoo.datasets.camera_motion import CameraMotionRemoval
from zoo.datasets.flow import BOUND, PARAMETERS, ComputedFlow

FORMATS = ("jpeg", "tfrecord")
"""Folders of JPEG files as the thesis', or TFRecord shards of the same JPEGs."""
SIZE = 256
"""Shorter side of what is stored (thesis 3.3.5)."""
QUALITY = 95
"""JPEG quality: OpenCV's default, with which the released flow was written."""


@dataclasses.dataclass(frozen=True)
class OpenCVMethod:
    """A method of OpenCV, described by its name; the description can be pickled.

    Any description with these members serves in its place: ``name``; ``parameters``,
    plain data that says how; ``batch``, how many pairs at once; ``processes``, how
    many are useful, None for one per core; ``open()``, called in the process that
    computes, for an object whose ``between(firsts, seconds)`` turns uint8 RGB
    [N, H, W, 3] twice into float32 [N, H, W, 2] in pixels. Where it removes camera
    motion, ``plain`` is how many of its fields so far are as they were.

    Attributes:
        name: One of ``zoo.datasets.flow.METHODS``.
        camera_motion: Whether the camera's motion is taken out
            (``zoo.datasets.camera_motion``).

    Raises:
        ValueError: If the method is unknown.
    """

    name: str
    camera_motion: bool = False
    batch = 8
    processes = None

    def __post_init__(self):
        ComputedFlow(self.name)

    @property
    def parameters(self):
        """What OpenCV is given, and whether camera motion is removed."""
        removed = {"camera_motion": True} if self.camera_motion else {}
        return {**PARAMETERS[self.name], **removed}

    def open(self):
        """The method, ready to compute."""
        pixels = ComputedFlow(self.name).pixels
        return _OpenCV(CameraMotionRemoval(pixels) if self.camera_motion else pixels)


class _OpenCV:
    def __init__(self, field):
        self._field = field

    @property
    def plain(self):
        return getattr(self._field, "plain", None)

    def between(self, firsts, seconds):
        pairs = zip(firsts, seconds, strict=True)
        return np.stack([self._field(*pair) for pair in pairs])


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that the stored flow of a video depends on besides the video.

    Attributes:
        method: An OpenCVMethod, or a description like it.
        shorter_side: Shorter side that frames are brought to before, larger or
            smaller; None keeps their size.
        quality: JPEG quality, 1-100.
        format: One of FORMATS.
        shards: Number of TFRecord files that videos are spread over.

    Raises:
        ValueError: If one of them is out of its range.
    """

    method: object
    shorter_side: int | None = SIZE
    quality: int = QUALITY
    format: str = "jpeg"
    shards: int = 16

    def __post_init__(self):
        side = self.shorter_side
        if side is not None and (side < 2 or side % 2):
            raise ValueError(
                f"shorter_side must be an even number of pixels, at least 2, got {side}"
                "; None (--size 0) keeps the size of the video."
            )
        if not 1 <= self.quality <= 100:
            raise ValueError(
                f"quality must be between 1 and 100, got {self.quality}; the released "
                f"flow has {QUALITY}."
            )
        if self.format not in FORMATS:
            raise ValueError(
                f"Unknown format {self.format!r}; accepted are {', '.join(FORMATS)}."
            )
        if not 1 <= self.shards <= 99_999:
            raise ValueError(
                f"shards must be between 1 and 99999, got {self.shards}; the default "
                "is 16."
            )

    def record(self):
        """The settings as plain data, for the manifest."""
        record = {
            "method": self.method.name,
            "parameters": dict(self.method.parameters),
            "bound": BOUND,
            "shorter_side": self.shorter_side,
            "quality": self.quality,
            "format": self.format,
        }
        if self.format == "tfrecord":
            record["shards"] = self.shards
        return record

    def size(self, width, height):
        """Size of the stored fields of a video: floored, then made even.

        Source: the released extractor; UCF101's 320x240 becomes 340x256.

        Args:
            width, height: Of the video's frames.
        """
        side = self.shorter_side
        if side is None:
            return width, height
        shorter = min(width, height)
        return tuple(length * side // shorter // 2 * 2 for length in (width, height))

    def jpeg(self, codes):
        """One component of a field as the bytes of a grey JPEG."""
        _, data = cv2.imencode(".jpg", codes, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
        return data.tobytes()
