"""The videos of ImageNet VID in their official folders.

The root is the folder that the archive of 2015 or 2017 unpacks to:

    Data/VID/train/ILSVRC2015_VID_train_0000/ILSVRC2015_train_00139005/000000.JPEG
    Data/VID/val/ILSVRC2015_val_00000000/000000.JPEG
    Annotations/VID/...                         the same names, .xml
    ImageSets/VID/train_1.txt ... train_30.txt  "folder/video 1", a list per class
    ImageSets/VID/val.txt                       "video/frame number"

Source: thesis section 8.5.1; Russakovsky et al., 2015.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.datasets.imagenet_annotations import (
    CLASSES,
    AnnotationError,
    Findings,
    Frame,
    class_names,
    read_frame,
)

SUBSETS = ("train", "val", "test")


@dataclass(frozen=True)
class FrameFolder:
    """One video of VID: a folder of frames.

    Attributes:
        name: folder relative to that of the subset, such as
            "ILSVRC2015_VID_train_0000/ILSVRC2015_train_00139005".
        stems: names of the frames without ending, in order of time.
        numbers: the frames' numbers in the list of the subset, by which the official
            kit identifies them; empty in "train", which lists videos only.
    """

    name: str
    stems: tuple[str, ...]
    numbers: tuple[int, ...] = ()

    def __len__(self):
        return len(self.stems)


@dataclass(frozen=True, eq=False)
class AnnotatedVideo:
    """One video with all its annotations, for evaluation.

    Attributes:
        name: as in `FrameFolder`.
        paths: JPEG files, in order of time.
        frames: the Frame of each.
        numbers: the frames' numbers, as in `FrameFolder`.
    """

    name: str
    paths: tuple[str, ...]
    frames: tuple[Frame, ...]
    numbers: tuple[int, ...]

    def __len__(self):
        return len(self.paths)


class ImageNetVID:
    """The videos of one subset, in the order of their lists.

    Only lists and folders are read at first, an annotation when it is asked for.

    Args:
        root: folder with Data, Annotations and ImageSets.
        subset: "train", "val" or "test"; the last has no annotations.
        classes: names or wnids of the classes wanted, in the order of the labels; None
            for all 30 in the official order. Boxes of other classes are left out and
            counted; no video is left out.

    Attributes:
        root: as given.
        subset: as given.
        class_names: names of the classes, in the order of the labels.
        videos: FrameFolder of every video; those of "train" sorted by name.
        findings: what was mended or left out in annotations read so far.

    Raises:
        ValueError: the subset or a class is unknown.
        AnnotationError: a folder or a list is missing, empty or not in its format.
    """

    def __init__(self, root, subset: str = "train", classes: Sequence | None = None):
        if subset not in SUBSETS:
            raise ValueError(
                f"subset must be one of {', '.join(SUBSETS)}, got {subset!r}"
            )
        self.root = Path(root)
        self.subset = subset
        self.class_names = class_names(classes)
        self.findings = Findings()
        self._data = required_folder(self.root, "Data/VID", subset)
        self._annotations = self.root / "Annotations/VID" / subset
        if subset != "test":
            required_folder(self.root, "Annotations/VID", subset)
        lists = required_folder(self.root, "ImageSets/VID")
        if subset == "train":
            names = _training_videos(lists)
            self.videos = tuple(
                FrameFolder(name, _stems(self._data / name, lists)) for name in names
            )
        else:
            self.videos = tuple(_listed_frames(lists / f"{subset}.txt"))

    def __len__(self):
        return len(self.videos)

    def path(self, video: FrameFolder, index: int) -> str:
        """The JPEG file of frame ``index`` of a video."""
        return str(self._data / video.name / f"{video.stems[index]}.JPEG")

    def read(self, video: FrameFolder, index: int) -> Frame:
        """Reads the annotation of frame ``index`` of a video.

        Raises:
            AnnotationError: see `zoo.datasets.imagenet_annotations.read_frame`.
        """
        if self.subset == "test":
            raise AnnotationError(
                f"{self.path(video, index)}: the annotations of test are not public; "
                "read those of train or val"
            )
        return read_frame(
            self._annotations / video.name / f"{video.stems[index]}.xml",
            self.path(video, index),
            self.class_names,
            findings=self.findings,
        )

    def annotated(self) -> Iterator[AnnotatedVideo]:
        """Yields every video with all its annotations, in order.

        Raises:
            AnnotationError: while iterating, for the first bad frame.
        """
        for video in self.videos:
            frames = tuple(self.read(video, i) for i in range(len(video)))
            paths = tuple(frame.path for frame in frames)
            yield AnnotatedVideo(video.name, paths, frames, video.numbers)


def required_folder(root, *parts: str) -> Path:
    """A folder of the official layout.

    Args:
        root: folder with Data, Annotations and ImageSets.
        *parts: the way from there.

    Returns:
        The folder.

    Raises:
        AnnotationError: it is missing.
    """
    folder = Path(root, *parts)
    if not folder.is_dir():
        raise AnnotationError(
            f"{folder}: no such folder; name the one that the archive of ILSVRC2015 or "
            "ILSVRC2017 unpacks to, with Data, Annotations and ImageSets in it"
        )
    return folder


def list_lines(path) -> list[tuple[str, int]]:
    """Reads a list: a name and a whole number per line.

    Args:
        path: a text file of ImageSets.

    Returns:
        (name, number) of each line.

    Raises:
        AnnotationError: the list is missing or a line isn't of this form.
    """
    path = Path(path)
    if not path.is_file():
        raise AnnotationError(
            f"{path}: no such list; unpack the archive of ImageSets again"
        )
    lines = path.read_text(encoding="utf-8").splitlines()
    result = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        fields = line.split()
        if len(fields) != 2 or not re.fullmatch(r"-?\d+", fields[1]):
            raise AnnotationError(
                f"{path}, line {number}: must be a name and a whole number, got "
                f"{line!r}"
            )
        result.append((fields[0], int(fields[1])))
    return result


def _training_videos(lists):
    """Sorted names of all videos in the lists of the 30 classes."""
    names = set()
    for number in range(1, len(CLASSES) + 1):
        # 1 marks a video that shows the class.
        lines = list_lines(lists / f"train_{number}.txt")
        names.update(name for name, flag in lines if flag == 1)
    if not names:
        raise AnnotationError(f"{lists}: train_1.txt ... train_30.txt list no video")
    return sorted(names)


def _stems(folder, lists):
    """Names of a folder's frames without ending, sorted."""
    try:
        entries = os.listdir(folder)
    except OSError as error:
        raise AnnotationError(
            f"{folder}: no such folder, but {lists} lists this video; unpack the "
            "archive of Data again"
        ) from error
    stems = sorted(name[:-5] for name in entries if name.endswith(".JPEG"))
    if not stems:
        raise AnnotationError(
            f"{folder}: holds no .JPEG file; unpack the archive of Data again"
        )
    return tuple(stems)


def _listed_frames(path):
    """FrameFolders of a list of frames, in its order."""
    frames = {}
    for name, number in list_lines(path):
        video, _, stem = name.rpartition("/")
        if not video:
            raise AnnotationError(f"{path}: {name!r} must be video/frame")
        frames.setdefault(video, []).append((stem, number))
    if not frames:
        raise AnnotationError(f"{path}: lists no frame")
    for video, rows in frames.items():
        stems, numbers = zip(*rows, strict=True)
        yield FrameFolder(video, stems, numbers)
