"""What the annotations of ImageNet VID and DET say: classes, boxes, tracks.

Both sets describe an image by one XML file. The 30 classes of VID are among DET's 200
and have the same WordNet number (wnid) there, so that boxes are matched by it and
DET's others are left out (thesis section 8.5.1).

Boxes. The files give the first and the last pixel of an object, counted from 0:
``xmin, ymin, xmax, ymax``. The official kit takes ``xmax - xmin + 1`` for the width.
Here boxes are continuous, pixel i reaching from i to i + 1, so the same box is
``[xmin, ymin, xmax + 1, ymax + 1]``: its width is the plain difference, and area and
overlap are the kit's. `from_pixels` and `to_pixels` go there and back.
"""

import collections
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from zoo.datasets.video import VideoError

WNIDS = {
    "n02691156": "airplane",
    "n02419796": "antelope",
    "n02131653": "bear",
    "n02834778": "bicycle",
    "n01503061": "bird",
    "n02924116": "bus",
    "n02958343": "car",
    "n02402425": "cattle",
    "n02084071": "dog",
    "n02121808": "domestic_cat",
    "n02503517": "elephant",
    "n02118333": "fox",
    "n02510455": "giant_panda",
    "n02342885": "hamster",
    "n02374451": "horse",
    "n02129165": "lion",
    "n01674464": "lizard",
    "n02484322": "monkey",
    "n03790512": "motorcycle",
    "n02324045": "rabbit",
    "n02509815": "red_panda",
    "n02411705": "sheep",
    "n01726692": "snake",
    "n02355227": "squirrel",
    "n02129604": "tiger",
    "n04468005": "train",
    "n01662784": "turtle",
    "n04530566": "watercraft",
    "n02062744": "whale",
    "n02391049": "zebra",
}
"""The 30 classes by their WordNet number, in the official order (thesis table 8.1)."""

CLASSES = tuple(WNIDS.values())
"""Names of the 30 classes, in the official order."""

_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0...SOF15
_END = b"\xff\xd9"


class AnnotationError(VideoError):
    """A list, annotation or image of VID or DET is missing or says nonsense."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One annotated image; the n objects are in the order of the file.

    Attributes:
        path: the JPEG file.
        width: in pixels, as the annotation has it.
        height: likewise.
        boxes: float32 [n, 4], x1, y1, x2, y2, continuous and within the image.
        labels: int32 [n], positions in the class names of the set.
        tracks: int32 [n], at least 0: the same object of a video has the same number
            in all its frames. In DET, 0...n-1.
        occluded: bool [n], whether something hides a part of the object.
    """

    path: str
    width: int
    height: int
    boxes: np.ndarray
    labels: np.ndarray
    tracks: np.ndarray
    occluded: np.ndarray

    def __len__(self):
        return len(self.boxes)


class Findings:
    """Account of what was mended or left out while annotations were read.

    A file that is read again counts again.

    Attributes:
        counts: how often each kind of thing was found.
        examples: the first file of each kind.
    """

    def __init__(self):
        self.counts = collections.Counter()
        self.examples = {}

    def add(self, kind: str, path, count: int = 1) -> None:
        """Counts ``count`` findings of a kind in a file."""
        if count:
            self.counts[kind] += count
            self.examples.setdefault(kind, str(path))

    def __str__(self):
        if not self.counts:
            return "Nothing was mended or left out."
        return "\n".join(
            f"{count} {kind}, first in {self.examples[kind]}"
            for kind, count in sorted(self.counts.items())
        )


def from_pixels(boxes: np.ndarray) -> np.ndarray:
    """Continuous boxes of first and last pixels: x2 and y2 plus one.

    Args:
        boxes: [..., 4], xmin, ymin, xmax, ymax, counted from 0.

    Returns:
        float32 [..., 4], x1, y1, x2, y2.
    """
    return np.asarray(boxes, np.float32) + np.array([0, 0, 1, 1], np.float32)


def to_pixels(boxes: np.ndarray) -> np.ndarray:
    """First and last pixels of continuous boxes, as the official kit takes them.

    Args:
        boxes: [..., 4], x1, y1, x2, y2.

    Returns:
        float32 [..., 4], xmin, ymin, xmax, ymax, counted from 0.
    """
    return np.asarray(boxes, np.float32) - np.array([0, 0, 1, 1], np.float32)


def class_names(classes: Sequence[str] | None = None) -> tuple[str, ...]:
    """Checks a choice of classes.

    Args:
        classes: names or wnids of some of the 30 classes; None for all of them.

    Returns:
        Their names, in the given order, which is that of the labels.

    Raises:
        ValueError: a class is unknown or named twice, or there is none.
    """
    if classes is None:
        return CLASSES
    if isinstance(classes, str) or not classes:
        raise ValueError(
            f"classes must be a sequence of class names, such as {CLASSES[:2]}, or "
            f"None for all 30; got {classes!r}"
        )
    names = tuple(WNIDS.get(name, name) for name in classes)
    for name in names:
        if name not in CLASSES:
            raise ValueError(
                f"unknown class {name!r}; the classes are {', '.join(CLASSES)}"
            )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"classes has {', '.join(repeated)} more than once")
    return names


def read_frame(
    annotation,
    image,
    names: Sequence[str] = CLASSES,
    others: bool = False,
    findings: Findings | None = None,
) -> Frame:
    """Reads the annotation of one image, and the image's size for comparison.

    Boxes that reach out of the image are clipped, those of zero area dropped; both are
    counted in ``findings``, as are boxes of classes that are not wanted. An image
    without objects is a good one.

    Args:
        annotation: the XML file.
        image: the JPEG file it describes.
        names: class names, in the order of the labels.
        others: whether names of no VID class are expected, as in DET. Their boxes are
            left out; otherwise they are an error.
        findings: counts what was mended or left out.

    Returns:
        The Frame.

    Raises:
        AnnotationError: a file is missing, cut off or not what it should be, a class
            is unknown, an object has no track or that of another, or the image has
            another size than the annotation says.
    """
    findings = Findings() if findings is None else findings
    root = _parse(annotation)
    width, height = (_whole(root, f"size/{side}", annotation) for side in _SIDES)
    found = jpeg_size(image)
    if (width, height) != found:
        raise AnnotationError(
            f"{annotation}: says {width} x {height}, but {image} has {found[0]} x "
            f"{found[1]} pixels; they do not belong together, restore both from the "
            "archives"
        )
    rows = []
    for number, node in enumerate(root.findall("object")):
        label = _label(node, annotation, names, others)
        if label is None:
            findings.add("box(es) of other classes left out", annotation)
            continue
        track = number if others else _whole(node, "trackid", annotation)
        box = from_pixels([_whole(node, f"bndbox/{s}", annotation) for s in _EDGES])
        rows.append((box, label, track, node.findtext("occluded", "0").strip() == "1"))
    return _frame(rows, annotation, image, (width, height), findings)


_SIDES = ("width", "height")
_EDGES = ("xmin", "ymin", "xmax", "ymax")


def _frame(rows, annotation, image, size, findings):
    """The Frame of rows of box, label, track and occlusion."""
    boxes, labels, tracks, occluded = zip(*rows, strict=True) if rows else [()] * 4
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    tracks = np.array(tracks, np.int32)
    if len(np.unique(tracks)) < len(tracks) or (tracks < 0).any():
        raise AnnotationError(
            f"{annotation}: trackid must be at least 0 and another one for every "
            f"object of a frame, got {tracks.tolist()}; correct the file"
        )
    inside = np.clip(boxes, 0, np.tile(np.array(size, np.float32), 2))
    clipped = (inside != boxes).any(1)
    kept = (inside[:, 2:] > inside[:, :2]).all(1)
    findings.add(
        "box(es) clipped to the image", annotation, int((clipped & kept).sum())
    )
    findings.add("box(es) without area left out", annotation, int((~kept).sum()))
    return Frame(
        str(image),
        *size,
        inside[kept],
        np.array(labels, np.int32)[kept],
        tracks[kept],
        np.array(occluded, bool)[kept],
    )


def _parse(path):
    """The root element of an annotation."""
    try:
        root = ElementTree.fromstring(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise AnnotationError(
            f"{path}: no such annotation; unpack the archive of Annotations again"
        ) from error
    except ElementTree.ParseError as error:
        raise AnnotationError(
            f"{path}: not complete XML ({error}); unpack the archive again"
        ) from error
    if root.tag != "annotation":
        raise AnnotationError(
            f"{path}: the outermost element is <{root.tag}>, must be <annotation>"
        )
    return root


def _whole(node, name, path):
    """The whole number in an element."""
    text = node.findtext(name)
    try:
        return int(text)
    except (TypeError, ValueError) as error:
        raise AnnotationError(
            f"{path}: <{name}> of <{node.tag}> must be a whole number, got {text!r}"
        ) from error


def _label(node, path, names, others):
    """Position of an object's class in ``names``, None for a class not wanted."""
    wnid = (node.findtext("name") or "").strip()
    name = WNIDS.get(wnid)
    if name is None and not (others and re.fullmatch(r"n\d{8}", wnid)):
        accepted = ", ".join(f"{w} ({n})" for w, n in WNIDS.items())
        raise AnnotationError(
            f"{path}: unknown class {wnid!r}; accepted are {accepted}"
            + (" and the other wnids of DET" if others else "")
        )
    return _positions(tuple(names)).get(name)


@functools.lru_cache(maxsize=8)
def _positions(names):
    return {name: position for position, name in enumerate(names)}


def jpeg_size(path) -> tuple[int, int]:
    """Width and height of a JPEG file by its header; also looks at its end.

    Args:
        path: the file.

    Returns:
        (width, height) in pixels.

    Raises:
        AnnotationError: the file is missing, no JPEG, or ends before its end marker.
    """
    try:
        with open(path, "rb") as file:
            size = _size_in_header(file)
            complete = size is not None and _has_end(file)
    except FileNotFoundError as error:
        raise AnnotationError(
            f"{path}: no such image; unpack the archive of Data again"
        ) from error
    if size is None or not complete:
        what = "no JPEG file" if size is None else "the JPEG file is cut off"
        raise AnnotationError(f"{path}: {what}; unpack the archive of Data again")
    return size


def _size_in_header(file):
    """(width, height) in the frame header of an open JPEG, None if there is none.

    Leaves the file behind that header.
    """
    if file.read(2) != b"\xff\xd8":
        return None
    while file.read(1) == b"\xff":
        while (marker := file.read(1)) == b"\xff":
            pass  # bytes that fill up to a marker
        length = int.from_bytes(file.read(2), "big")
        if marker and marker[0] in _FRAME_HEADERS:
            fields = file.read(5)
            height, width = (int.from_bytes(fields[i : i + 2], "big") for i in (1, 3))
            return width, height
        file.seek(max(length - 2, 0), 1)
    return None


def _has_end(file):
    """Whether the end marker follows, in an open JPEG behind its frame header."""
    header = file.tell()
    end = file.seek(0, 2)
    file.seek(max(header, end - 64))
    if _END in file.read():
        return True
    # Some cameras write more behind it. A thumbnail's end is before the header.
    file.seek(header)
    return _END in file.read()
