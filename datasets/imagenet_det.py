"""The still images of ImageNet DET that show a class of VID.

    Data/DET/train/ILSVRC2013_train/n02691156/n02691156_10.JPEG
    Annotations/DET/train/...            the same names, .xml
    ImageSets/DET/train.txt              "image number"
    ImageSets/DET/train_1.txt ...        "image flag", used where train.txt is missing

Source: thesis section 8.5.1: the 30 classes of VID only, at most 2000 images of each;
Russakovsky et al., 2015.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zoo.datasets.imagenet_annotations import (
    AnnotationError,
    Findings,
    class_names,
    read_frame,
)
from zoo.datasets.imagenet_vid import list_lines, required_folder

SUBSETS = ("train", "val")
MAX_PER_CLASS = 2000
MAX_BAD_FRACTION = 0.01
"""Largest share of bad files in a list; those below it are counted and left out."""


class ImageNetDET:
    """The images of one subset that show at least one of the classes.

    All annotations are read at once, which takes about a minute for the training set.
    Boxes of other classes are left out. Where more than ``max_per_class`` images show
    a class, that many of them, equally spaced in the list, are taken; an image is
    kept if any of its classes takes it, as in the author's code.

    Args:
        root: folder with Data, Annotations and ImageSets.
        subset: "train" or "val".
        classes: names or wnids of the classes wanted, in the order of the labels; None
            for all 30 of VID in the official order.
        max_per_class: most images of one class, at least 1, or None for all.

    Attributes:
        root: as given.
        subset: as given.
        class_names: names of the classes, in the order of the labels.
        stills: Frame of every image taken, in the order of the list.
        findings: what was mended or left out.

    Raises:
        ValueError: an argument is out of its range.
        AnnotationError: a folder or list is missing, more than MAX_BAD_FRACTION of the
            images or annotations are bad, or no image shows one of the classes.
    """

    def __init__(
        self,
        root,
        subset: str = "train",
        classes: Sequence | None = None,
        max_per_class: int | None = MAX_PER_CLASS,
    ):
        if subset not in SUBSETS:
            raise ValueError(
                f"subset must be one of {', '.join(SUBSETS)}, got {subset!r}"
            )
        if max_per_class is not None and max_per_class < 1:
            raise ValueError(
                f"max_per_class must be at least 1, or None for all images; got "
                f"{max_per_class}"
            )
        self.root = Path(root)
        self.subset = subset
        self.class_names = class_names(classes)
        self.findings = Findings()
        stills = list(self._read())
        if not stills:
            raise AnnotationError(
                f"{root}: no image of DET's {subset} shows one of "
                f"{', '.join(self.class_names)}; name other classes or another root"
            )
        taken = _balanced([s.labels for s in stills], max_per_class)
        self.stills = tuple(stills[i] for i in taken)

    def __len__(self):
        return len(self.stills)

    def _read(self):
        """Yields the images that show a class, in the order of the list."""
        data = required_folder(self.root, "Data/DET", self.subset)
        annotations = required_folder(self.root, "Annotations/DET", self.subset)
        names = _names(required_folder(self.root, "ImageSets/DET"), self.subset)
        bad = 0
        for name in names:
            annotation = annotations / f"{name}.xml"
            if not annotation.is_file():
                # Those of ILSVRC2013_train_extra, which only show what is absent.
                self.findings.add("image(s) without annotation left out", annotation)
                continue
            try:
                still = read_frame(
                    annotation,
                    data / f"{name}.JPEG",
                    self.class_names,
                    others=True,
                    findings=self.findings,
                )
            except AnnotationError as error:
                self.findings.add("bad image(s) left out", error)
                bad += 1
                if bad > MAX_BAD_FRACTION * len(names):
                    raise AnnotationError(
                        f"{error}. {bad} of {len(names)} images of {self.subset} are "
                        f"bad, accepted is a share of {MAX_BAD_FRACTION}"
                    ) from error
                continue
            if len(still):
                yield still


def _names(lists, subset):
    """Names of the subset's images without ending."""
    whole = lists / f"{subset}.txt"
    if whole.is_file():
        return [name for name, _ in list_lines(whole)]
    parts = sorted(lists.glob(f"{subset}_*.txt"))
    if not parts:
        raise AnnotationError(
            f"{whole}: no such list, nor {subset}_1.txt; unpack the archive of "
            "ImageSets again"
        )
    # 1 marks an image that shows the class; -1 and 0 are not all annotated.
    return sorted({n for part in parts for n, flag in list_lines(part) if flag == 1})


def _balanced(labels, most):
    """Sorted positions of the images that the limit per class leaves."""
    if most is None:
        return range(len(labels))
    taken = set()
    for label in sorted({label for found in labels for label in found.tolist()}):
        shown = [i for i, found in enumerate(labels) if label in found]
        taken.update(shown[i] for i in spaced(len(shown), most))
    return sorted(taken)


def spaced(count: int, most: int) -> list[int]:
    """At most ``most`` positions equally spaced over 0...count-1, ends included.

    Args:
        count: length of the list, at least 1.
        most: at least 1.

    Returns:
        Rising positions, all if there are no more than ``most``.
    """
    if count <= most:
        return list(range(count))
    return np.rint(np.linspace(0, count - 1, most)).astype(int).tolist()
