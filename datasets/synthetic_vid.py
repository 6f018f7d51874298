"""Writes synthetic videos in the folders and files of ImageNet VID and DET.

`zoo.datasets.tracked_scenes` renders the videos, and says what they are for. The
folder is read back by `ImageNetVID` and `ImageNetDET` as the real one is:

    <root>/Data/VID/{train,val}/...         frames, JPEG
    <root>/Annotations/VID/{train,val}/...  boxes, tracks, occlusion
    <root>/Data/DET/train/..., Annotations/DET/train/...   stills
    <root>/ImageSets/{VID,DET}/...          lists
    <root>/conditions.json                  numbers of each video's blurred frames
    <root>/synthetic.json                   parameters, and SHA-256 per video

Four of the 30 classes occur; ``tracked_scenes.CLASSES`` are the ones to ask the
readers for. In stills the distractors are annotated, too, as a class of DET that is not
in VID. Videos come first and lists last, so that no reader takes an unfinished set for
a small one.

Source: layout of Russakovsky et al., 2015, as thesis section 8.5.1 uses it.
"""

import functools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from zoo.datasets.generated import Clip, seed_of, write_set
from zoo.datasets.imagenet_annotations import CLASSES, WNIDS
from zoo.datasets.scenes import check_shape, is_int
from zoo.datasets.tracked_scenes import (
    DISTRACTOR,
    SMALLEST,
    blurred_frames,
    check_difficulty,
    render_tracked,
)

VERSION = 1  # of the appearance; raised whenever equal parameters give other files
CONDITIONS = "conditions.json"
JPEG_QUALITY = 92  # 0-100
_WNID = {name: wnid for wnid, name in WNIDS.items()} | {
    DISTRACTOR: "n02672831"  # accordion, the first class of DET
}


def write_synthetic_vid(
    root,
    videos: tuple[int, int] = (200, 40),
    stills: int = 200,
    frames: int = 24,
    size: tuple[int, int] = (128, 160),
    seed: int = 0,
    difficulty: float = 0.5,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes a set of synthetic videos and stills, or completes one begun before.

    A video depends on seed, subset and number only, not on the order of writing, nor
    on how many there are. Files appear under their names only when complete; a run
    that was interrupted goes on where it stopped, and a video of which a file is
    missing or was changed since is written anew.

    Source: thesis section 8.5.1.

    Args:
        root: folder to write; created if it is missing.
        videos: how many for training and for validation, each at least 1.
        stills: images of DET for training, always sharp; 0 writes no DET.
        frames: frames per video, at least 2.
        size: frame height and width in pixels, each at least 64.
        seed: whole number of at least 0.
        difficulty: in [0, 1], see `zoo.datasets.tracked_scenes.render_tracked`.
        progress: called as ``progress(done, total)`` after every video and still.

    Returns:
        The folder.

    Raises:
        ValueError: an argument is out of its range, the folder holds a set with other
            parameters, or files that this generator did not write.
        OSError: a file could not be written; what was complete stays.
    """
    root = Path(root)
    check_shape(size, frames, SMALLEST)
    check_difficulty(difficulty)
    _check_counts(videos, stills, seed)
    parameters = {
        "set": "synthetic VID",
        "version": VERSION,
        "videos": [int(count) for count in videos],
        "stills": int(stills),
        "frames": int(frames),
        "size": [int(side) for side in size],
        "seed": int(seed),
        "difficulty": float(difficulty),
    }
    look = {"size": tuple(size), "frames": int(frames)}
    subsets = dict(zip(("train", "val"), map(int, videos), strict=True))
    clips = [
        _video(subset, number, int(seed), look | {"difficulty": difficulty})
        for subset, count in subsets.items()
        for number in range(count)
    ]
    clips += [_still(number, int(seed), look) for number in range(int(stills))]
    clips.append(_lists(root, subsets, parameters))
    write_set(root, "synthetic VID", parameters, clips, progress)
    return root


def _video(subset, number, seed, look):
    """The Clip of one video: its frames and their annotations."""
    name = _video_name(subset, number)
    count = look["frames"]
    files = [f"Data/VID/{subset}/{name}/{t:06d}.JPEG" for t in range(count)]
    files += [f"Annotations/VID/{subset}/{name}/{t:06d}.xml" for t in range(count)]
    key = seed_of(seed, subset, number)
    return Clip(tuple(files), functools.partial(_video_files, name, key, look))


def _video_name(subset, number):
    if subset == "val":
        return f"ILSVRC2015_val_{number:08d}"
    return f"ILSVRC2015_VID_train_{number // 1000:04d}/ILSVRC2015_train_{number:08d}"


def _video_files(name, key, look):
    clip = render_tracked(key, **look)
    pictures = [_jpeg(frame) for frame in clip.frames]
    texts = []
    for time, sightings in enumerate(clip.sightings):
        objects = [s for s in sightings if s.class_name != DISTRACTOR]
        nodes = [_vid_object(seen, look["size"]) for seen in objects]
        texts.append(_annotation(name, f"{time:06d}", "2015", look["size"], nodes))
    return [*pictures, *texts]


def _still(number, seed, look):
    """The Clip of one still: a frame of a video of its own."""
    folder = f"ILSVRC2014_train_{number // 10000:04d}"
    name = f"ILSVRC2014_train_{number:08d}"
    files = (
        f"Data/DET/train/{folder}/{name}.JPEG",
        f"Annotations/DET/train/{folder}/{name}.xml",
    )
    key = seed_of(seed, "still", number)
    return Clip(files, functools.partial(_still_files, folder, name, key, look["size"]))


def _still_files(folder, name, key, size):
    clip = render_tracked(key, size, frames=2, difficulty=0)
    nodes = [_det_object(seen, size) for seen in clip.sightings[0]]
    return [_jpeg(clip.frames[0]), _annotation(folder, name, "2014", size, nodes)]


def _lists(root, subsets, parameters):
    """The Clip of all lists, made of the annotations in the folder."""
    vid = [f"train_{number}" for number in range(1, len(CLASSES) + 1)] + ["val"]
    files = [f"ImageSets/VID/{name}.txt" for name in vid]
    if parameters["stills"]:
        files.append("ImageSets/DET/train.txt")
    files.append(CONDITIONS)
    return Clip(tuple(files), lambda: _list_files(root, subsets, parameters))


def _list_files(root, subsets, parameters):
    frames, seed = parameters["frames"], parameters["seed"]
    names = {
        subset: [_video_name(subset, number) for number in range(count)]
        for subset, count in subsets.items()
    }
    shown = {name: _classes_shown(root, name) for name in names["train"]}
    # A video that never shows an object is in the first list, so that it is in one.
    texts = [
        [f"{n} 1" for n in names["train"] if c in (shown[n] or {CLASSES[0]})]
        for c in CLASSES
    ]
    stems = [f"{name}/{t:06d}" for name in names["val"] for t in range(frames)]
    texts.append([f"{stem} {number}" for number, stem in enumerate(stems, start=1)])
    if parameters["stills"]:
        texts.append(
            [
                f"ILSVRC2014_train_{n // 10000:04d}/ILSVRC2014_train_{n:08d} {n + 1}"
                for n in range(parameters["stills"])
            ]
        )
    blurred = {
        subset: {
            name: np.flatnonzero(
                blurred_frames(
                    seed_of(seed, subset, number), frames, parameters["difficulty"]
                )
            ).tolist()
            for number, name in enumerate(found)
        }
        for subset, found in names.items()
    }
    lists = ["".join(f"{line}\n" for line in lines).encode() for lines in texts]
    return [*lists, (json.dumps({"blurred": blurred}, indent=1) + "\n").encode()]


def _classes_shown(root, name):
    """Names of the classes in a training video's annotations."""
    folder = root / "Annotations/VID/train" / name
    wnids = {
        wnid
        for path in folder.glob("*.xml")
        for wnid in re.findall("<name>(n[0-9]+)</name>", path.read_text("utf-8"))
    }
    return {WNIDS[wnid] for wnid in wnids}


def _annotation(folder, name, year, size, nodes):
    """The text of an annotation, elements and tabs as in the official files."""
    height, width = size
    return (
        f"<annotation>\n\t<folder>{folder}</folder>\n\t<filename>{name}</filename>\n"
        f"\t<source>\n\t\t<database>ILSVRC_{year}</database>\n\t</source>\n"
        f"\t<size>\n\t\t<width>{width}</width>\n\t\t<height>{height}</height>\n"
        f"\t</size>\n{''.join(nodes)}</annotation>\n"
    ).encode()


def _vid_object(seen, size):
    edges = _edges(seen.box, size)
    return (
        f"\t<object>\n\t\t<trackid>{seen.track}</trackid>\n"
        f"\t\t<name>{_WNID[seen.class_name]}</name>\n\t\t<bndbox>\n"
        + "".join(
            f"\t\t\t<{edge}>{edges[edge]}</{edge}>\n"
            for edge in ("xmax", "xmin", "ymax", "ymin")
        )
        + f"\t\t</bndbox>\n\t\t<occluded>{int(seen.occluded)}</occluded>\n"
        "\t\t<generated>0</generated>\n\t</object>\n"
    )


def _det_object(seen, size):
    edges = _edges(seen.box, size)
    return (
        f"\t<object>\n\t\t<name>{_WNID[seen.class_name]}</name>\n\t\t<bndbox>\n"
        + "".join(
            f"\t\t\t<{edge}>{edges[edge]}</{edge}>\n"
            for edge in ("xmin", "xmax", "ymin", "ymax")
        )
        + "\t\t</bndbox>\n\t</object>\n"
    )


def _edges(box, size):
    """First and last pixels that a box touches, counted from 0."""
    x1, y1, x2, y2 = box
    return {
        "xmin": min(math.floor(x1), size[1] - 1),
        "ymin": min(math.floor(y1), size[0] - 1),
        "xmax": max(math.ceil(x2) - 1, 0),
        "ymax": max(math.ceil(y2) - 1, 0),
    }


def _jpeg(frame):
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    _, data = cv2.imencode(".jpg", frame[..., ::-1], quality)
    return data.tobytes()


def _check_counts(videos, stills, seed):
    pair = isinstance(videos, tuple | list) and len(videos) == 2
    if not pair or not all(is_int(count) and count >= 1 for count in videos):
        raise ValueError(
            "videos must be two whole numbers of at least 1, for training and for "
            f"validation; got {videos!r}"
        )
    for name, value in (("stills", stills), ("seed", seed)):
        if not is_int(value) or value < 0:
            raise ValueError(
                f"{name} must be a whole number of at least 0; got {value!r}"
            )
