"""Writes synthetic dynamic scenes as video files in the layout of YUP++.

The folders are those of the YUP++ dynamic scenes (thesis section 7.4), so a synthetic
set is read back, split and evaluated as the real one:

    <root>/camera_stationary/<class>/<class>_stationary_c01.mp4
    <root>/camera_moving/<class>/<class>_moving_c01.mp4
    <root>/synthetic.json            parameters, and frames and SHA-256 per file

`zoo.datasets.scenes` renders the clips and explains why no single frame tells the
class. The encoding keeps that true: every frame is coded by itself (H.264, key frames
only, constant quantiser), so a decoded frame is a function of the rendered frame alone
and carries no trace of the motion. The files play in browsers and players.
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from zoo.datasets.scenes import (
    CLASSES,
    check_class,
    check_shape,
    is_int,
    render_clip,
)

SUBSETS = ("stationary", "moving")
MANIFEST = "synthetic.json"
VERSION = 1  # of the appearance; raised whenever equal parameters give other clips
QUANTISER = 8  # of H.264, 0-51; errors of about one grey level
SAVE_EVERY = 200  # clips between two savings of the manifest


def write_dynamic_scenes(
    root,
    videos_per_class: int = 30,
    size: tuple[int, int] = (64, 64),
    frames: int = 16,
    seed: int = 0,
    classes: Sequence[str] = CLASSES,
    fps: float = 25,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes a set of synthetic dynamic scenes, or completes one begun before.

    A clip depends on seed, class, camera and number only, not on the order of writing.
    Files appear under their names only when complete; a run that was interrupted goes
    on where it stopped, and a file changed since is written anew.

    Source: layout and the two camera conditions of thesis section 7.4.

    Args:
        root: folder to write; created if it is missing.
        videos_per_class: clips of each class for each of the two cameras; YUP++ has 30.
        size: frame height and width in pixels, even and at least 16.
        frames: frames per clip, at least 2.
        seed: whole number of at least 0.
        classes: names from ``scenes.CLASSES`` and ``scenes.EXTRA_CLASSES``.
        fps: frames per second written to the files, above 0.
        progress: called as ``progress(done, total)`` after every clip.

    Returns:
        The folder.

    Raises:
        ValueError: an argument is out of its range, the folder holds a set with other
            parameters, or clips that this generator did not write.
        OSError: a file could not be written; what was complete stays.
    """
    root = Path(root)
    classes = _checked_classes(classes)
    _check_numbers(videos_per_class, size, frames, seed, fps)
    parameters = {
        "version": VERSION,
        "videos_per_class": int(videos_per_class),
        "size": [int(s) for s in size],
        "frames": int(frames),
        "seed": int(seed),
        "classes": list(classes),
        "fps": float(fps),
    }
    files = _open_manifest(root, parameters)
    clips = list(_clips(classes, int(videos_per_class)))
    unsaved = 0
    try:
        for done, (name, class_name, subset, number) in enumerate(clips, start=1):
            if not _is_complete(root / name, files.get(name)):
                key = _clip_seed(seed, class_name, subset, number)
                clip = render_clip(class_name, subset == "moving", key, size, frames)
                data = encode(clip, fps)
                _write_whole(root / name, data)
                files[name] = {"frames": len(clip), "sha256": _digest(data)}
                unsaved += 1
            if unsaved == SAVE_EVERY:
                _save_manifest(root, parameters, files)
                unsaved = 0
            if progress is not None:
                progress(done, len(clips))
    finally:
        if unsaved:
            _save_manifest(root, parameters, files)
    return root


def encode(clip: np.ndarray, fps: float = 25) -> bytes:
    """Encodes frames as H.264 in MP4, every frame by itself.

    Args:
        clip: RGB frames, uint8 [T, H, W, 3], H and W even.
        fps: frames per second.

    Returns:
        The contents of the file.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1  # clips are small, and bytes do not depend on cores
        stream.options = {"preset": "ultrafast", "qp": str(QUANTISER), "g": "1"}
        for frame in clip:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _clips(classes, videos_per_class):
    """(file name, class, subset, number) of every clip, cameras and classes in turn."""
    digits = max(2, len(str(videos_per_class)))
    for subset in SUBSETS:
        for class_name in classes:
            folder = f"camera_{subset}/{class_name}"
            for number in range(1, videos_per_class + 1):
                name = f"{folder}/{class_name}_{subset}_c{number:0{digits}d}.mp4"
                yield name, class_name, subset, number


def _clip_seed(seed, class_name, subset, number):
    """A seed of its own for every clip, unrelated to those of its neighbours."""
    text = f"{int(seed)}/{class_name}/{subset}/{number}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def _checked_classes(classes):
    if isinstance(classes, str) or not len(classes):
        raise ValueError(
            f"classes must be a sequence of class names, such as {CLASSES[:2]!r}; "
            f"got {classes!r}"
        )
    for class_name in classes:
        check_class(class_name)
    repeated = sorted({name for name in classes if list(classes).count(name) > 1})
    if repeated:
        raise ValueError(f"classes names {', '.join(repeated)} more than once")
    return tuple(classes)


def _check_numbers(videos_per_class, size, frames, seed, fps):
    check_shape(size, frames)
    if any(s % 2 for s in size):
        raise ValueError(f"size must be even for H.264 (4:2:0); got {tuple(size)!r}")
    if not is_int(videos_per_class) or videos_per_class < 1:
        raise ValueError(
            f"videos_per_class must be a whole number of at least 1; "
            f"got {videos_per_class!r}"
        )
    if not is_int(seed) or seed < 0:
        raise ValueError(f"seed must be a whole number of at least 0; got {seed!r}")
    number = isinstance(fps, int | float | Fraction) and not isinstance(fps, bool)
    if not number or not 0 < fps <= 1000:
        raise ValueError(f"fps must be a number above 0 and up to 1000; got {fps!r}")


def _open_manifest(root, parameters):
    """The files already written; makes the folder and the manifest if there is none."""
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root} is a file; name a folder for the synthetic scenes")
    path = root / MANIFEST
    if path.exists():
        return _read_manifest(path, parameters)
    for subset in SUBSETS:
        folder = root / f"camera_{subset}"
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(
                f"{folder} holds files, but {root} has no {MANIFEST}, so they are not "
                "synthetic scenes; name another folder"
            )
    root.mkdir(parents=True, exist_ok=True)
    _save_manifest(root, parameters, {})
    return {}


def _read_manifest(path, parameters):
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found, files = dict(manifest["parameters"]), dict(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a manifest of synthetic scenes ({error!r}); delete the "
            "folder or name another one"
        ) from error
    differences = [
        f"{key} is {found.get(key)!r}, asked for {parameters.get(key)!r}"
        for key in sorted(found.keys() | parameters.keys())
        if found.get(key) != parameters.get(key)
    ]
    if differences:
        raise ValueError(
            f"{path.parent} holds synthetic scenes with other parameters: "
            f"{'; '.join(differences)}. Name another folder, or delete this one"
        )
    return files


def _is_complete(path, record):
    """Whether the file is there with the contents that were written."""
    if record is None or not path.is_file():
        return False
    return _digest(path.read_bytes()) == record.get("sha256")


def _digest(data):
    return hashlib.sha256(data).hexdigest()


def _save_manifest(root, parameters, files):
    manifest = {"parameters": parameters, "files": dict(sorted(files.items()))}
    text = json.dumps(manifest, indent=1) + "\n"
    _write_whole(root / MANIFEST, text.encode())


def _write_whole(path, data):
    """Writes under a temporary name first: a half-written file never has the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
