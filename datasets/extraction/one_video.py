"""The flow of one video, from its frames to files that are complete or absent.

The fields are written into a hidden folder, which one rename makes finished: a kill at
any moment leaves either nothing or a whole video.

Source: thesis 3.3.5 (what is stored), POSIX rename(2).
"""

import contextlib
import hashlib
import itertools
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np

from zoo.datasets.extraction.sources import fingerprint
from zoo.datasets.flow import to_codes
from zoo.datasets.video import VideoError, stream_frames
from zoo.files import PREFIX, WriteError, explain, hidden_folder

FINISHED = ".finished"
ENTRY = "entry.json"


def finished_folder(out, name):
    """Where a finished video lies until it is published."""
    return Path(out) / FINISHED / hashlib.sha256(name.encode()).hexdigest()[:24]


def entry_in(folder):
    """The entry of a finished video; None if a power failure has cut it, or none is."""
    try:
        return json.loads((folder / ENTRY).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def attempt(job, settings, flow, out, tick=None):
    """Extracts one video; what is wrong with it becomes its verdict.

    Args:
        job: The Job.
        settings: The Settings.
        flow: What ``settings.method.open()`` gave.
        out: Folder of the flow.
        tick: Called with the number of fields computed since the last call.

    Returns:
        The entry for the manifest. With verdict "ok" the fields are on disk, in the
        folder of ``finished_folder``.

    Raises:
        WriteError: If the output can't be written: no fault of the video.
    """
    try:
        return _extract(job, settings, flow, out, tick)
    except WriteError:
        raise
    except VideoError as error:
        return failure(job, settings, str(error))
    except Exception as error:  # the method's own, such as memory of the device
        return failure(job, settings, f"{job.path}: {type(error).__name__}: {error}")


def failure(job, settings, reason):
    """The entry of a video that failed."""
    return {
        "video": job.name,
        "verdict": "failed",
        "reason": reason,
        "source": {"path": job.path},
        "settings": settings.record(),
    }


def keep_failure(out, entry):
    """Writes the entry of a video that failed where ``publish`` finds it.

    Args:
        out: Folder of the flow.
        entry: The entry.

    Raises:
        WriteError: If it can't be written.
    """
    with _explained(out, entry["video"]), _hidden(out) as folder:
        (folder / ENTRY).write_text(json.dumps(entry))
        _finish(folder, finished_folder(out, entry["video"]), entry)


def _extract(job, settings, flow, out, tick):
    source = {"path": job.path, **fingerprint(job.path)}
    plain = getattr(flow, "plain", None)
    with _explained(out, job.name), _hidden(out) as folder:
        files = _Files(folder)
        for codes in _fields(job, settings, flow):
            for field in codes:
                files.add(*(settings.jpeg(np.ascontiguousarray(c)) for c in field))
            if tick:
                tick(len(codes))
        height, width = codes.shape[2:]
        entry = {
            "video": job.name,
            "verdict": "ok",
            "reason": None,
            "source": source,
            "settings": settings.record(),
            "opencv": cv2.__version__,
            "frames": files.count + 1,
            "fields": files.count,
            "width": width,
            "height": height,
            "sha256": files.digest.hexdigest(),
        }
        if plain is not None:
            entry["plain_fields"] = flow.plain - plain
        (folder / ENTRY).write_text(json.dumps(entry))
        return _finish(folder, finished_folder(out, job.name), entry)


def _hidden(out):
    return hidden_folder(Path(out), PREFIX)


@contextlib.contextmanager
def _explained(out, video):
    """Turns errors of writing into such that say what to do."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise explain(error, Path(out) / video) from error


def _finish(folder, target, entry):
    target.parent.mkdir(exist_ok=True)
    try:
        os.rename(folder, target)
    except OSError:
        if not target.is_dir():
            raise
        # Finished before: by a process whose parent was killed, or a worker of Beam
        # whose bundle is tried again. What was good stays, anything else is replaced.
        earlier = entry_in(target)
        if earlier and earlier["verdict"] == "ok":
            return earlier
        shutil.rmtree(target)
        os.rename(folder, target)
    return entry


def _fields(job, settings, flow):
    """Yields the codes of the fields, uint8 [N, 2, H, W], N up to the batch."""
    frames = stream_frames(job.path, settings.size)
    last = next(frames)
    count = 1
    while batch := list(itertools.islice(frames, settings.method.batch)):
        images = np.stack([last, *batch])
        found = np.asarray(flow.between(images[:-1], images[1:]))
        if found.shape != (len(batch), *last.shape[:2], 2):
            raise ValueError(
                f"{settings.method.name} gave flow of shape {found.shape} for "
                f"{len(batch)} pairs of {last.shape[1]}x{last.shape[0]}"
            )
        yield to_codes(found).transpose(0, 3, 1, 2)
        last = batch[-1]
        count += len(batch)
    if count < 2:
        raise VideoError(
            f"{job.path}: optical flow needs at least 2 frames, the video has {count}."
        )


class _Files:
    """Fields as ``u/frame000001.jpg`` and ``v/...`` in a folder."""

    def __init__(self, folder):
        self.count = 0
        self.digest = hashlib.sha256()
        self._folders = [folder / component for component in "uv"]
        for path in self._folders:
            path.mkdir()

    def add(self, *images):
        self.count += 1
        for folder, data in zip(self._folders, images, strict=True):
            (folder / f"frame{self.count:06d}.jpg").write_bytes(data)
            digest_image(self.digest, data)


def digest_image(digest, data):
    """Adds one JPEG to the checksum of a video: u and v of each field in turn."""
    digest.update(len(data).to_bytes(8, "little"))
    digest.update(data)
