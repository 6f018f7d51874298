"""Miniature folders of ImageNet VID and DET, written by hand as the real ones are."""

import cv2
import numpy as np

BEAR, ZEBRA = "n02131653", "n02391049"
ACCORDION = "n02672831"  # of DET alone


def vid_object(track, wnid, xmin, ymin, xmax, ymax, occluded=0):
    """An object of VID, elements in the order of the real files."""
    return (
        f"<object><trackid>{track}</trackid><name>{wnid}</name><bndbox>"
        f"<xmax>{xmax}</xmax><xmin>{xmin}</xmin><ymax>{ymax}</ymax><ymin>{ymin}</ymin>"
        f"</bndbox><occluded>{occluded}</occluded><generated>0</generated></object>"
    )


def det_object(wnid, xmin, ymin, xmax, ymax):
    """An object of DET, which has no track."""
    return (
        f"<object><name>{wnid}</name><bndbox><xmin>{xmin}</xmin><xmax>{xmax}</xmax>"
        f"<ymin>{ymin}</ymin><ymax>{ymax}</ymax></bndbox></object>"
    )


def annotation(objects, width=60, height=40):
    """The text of an annotation."""
    return (
        "<annotation><folder>f</folder><filename>000000</filename><source><database>"
        f"ILSVRC_2015</database></source><size><width>{width}</width><height>{height}"
        f"</height></size>{''.join(objects)}</annotation>"
    )


def write_image(path, picture):
    """Writes RGB uint8 [H, W, 3] as a JPEG of the best quality."""
    path.parent.mkdir(parents=True, exist_ok=True)
    good = [
        cv2.IMWRITE_JPEG_QUALITY,
        100,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    assert cv2.imwrite(f"{path}.jpg", picture[..., ::-1], good)
    path.with_name(f"{path.name}.jpg").rename(path)


def write_frame(root, kind, name, objects, picture=None):
    """Writes an image and its annotation; kind is "VID/train" and the like."""
    picture = np.zeros((40, 60, 3), np.uint8) if picture is None else picture
    write_image(root / "Data" / kind / f"{name}.JPEG", picture)
    path = root / "Annotations" / kind / f"{name}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(annotation(objects, picture.shape[1], picture.shape[0]))
    return path


def write_lists(root, train=(), val=(), det=None):
    """Writes the lists: names of videos, of frames, and of stills."""
    folder = root / "ImageSets/VID"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, 31):
        lines = [f"{name} 1\n" for name in train] if number == 3 else []
        (folder / f"train_{number}.txt").write_text("".join(lines))
    lines = [f"{name} {number}\n" for number, name in enumerate(val, start=1)]
    (folder / "val.txt").write_text("".join(lines))
    if det is not None:
        folder = root / "ImageSets/DET"
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{name} {number}\n" for number, name in enumerate(det, start=1)]
        (folder / "train.txt").write_text("".join(lines))
