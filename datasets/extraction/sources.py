"""Which videos: files, folders of videos and list files, each under a name of its own.

Source: the layout ``<class>/<video>`` of UCF101, HMDB51 and YUP++ (thesis 3.4, 7.4).
"""

import dataclasses
import hashlib
import os
from pathlib import Path

from zoo.datasets.flow import video_name
from zoo.datasets.listing import EXTENSIONS, VideoList
from zoo.datasets.video import VideoError


@dataclasses.dataclass(frozen=True)
class Job:
    """A video to extract.

    Attributes:
        name: ``<class>/<video>``, under which its flow is stored and found.
        path: Of the video file, absolute.
    """

    name: str
    path: str


def jobs_of(arguments):
    """The videos that files, folders and lists stand for.

    Args:
        arguments: Paths of video files; of folders, in which every file with one of
            ``EXTENSIONS`` counts, at any depth; and of list files as
            ``VideoList.from_list`` reads them.

    Returns:
        Tuple of Jobs sorted by name, each video once.

    Raises:
        VideoError: If a path is missing, there are no videos, or two videos have the
            same folder name and stem, which name their flow.
    """
    found = {}
    for argument in arguments:
        for path in _paths(Path(argument)):
            path = os.path.abspath(path)
            job = found.setdefault(video_name(path), Job(video_name(path), path))
            if os.path.realpath(job.path) != os.path.realpath(path):
                raise VideoError(
                    f"{job.path} and {path} would both be stored as {job.name}; rename "
                    "one of them, or extract them to two folders."
                )
    if not found:
        raise VideoError(
            f"no videos in {', '.join(map(str, arguments)) or 'nothing'}; accepted are "
            f"video files, folders of files ending in {', '.join(EXTENSIONS)}, and "
            "list files."
        )
    return tuple(found[name] for name in sorted(found))


def fingerprint(path):
    """What tells a changed file: {"bytes", "mtime_ns", "sha256"}.

    Args:
        path: Of a file.

    Raises:
        VideoError: If it can't be read.
    """
    try:
        stat = os.stat(path)
        with open(path, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise VideoError(f"{path}: cannot be read ({error.strerror}).") from error
    return {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": digest}


def is_unchanged(path, before):
    """Whether a file is the one of a fingerprint; its contents decide, not its date."""
    try:
        stat = os.stat(path)
    except OSError:
        return False
    if stat.st_size != before["bytes"]:
        return False
    if stat.st_mtime_ns == before["mtime_ns"]:
        return True
    return fingerprint(path)["sha256"] == before["sha256"]


def _paths(path):
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if _is_video(p, path))
    if not path.exists():
        raise VideoError(f"{path}: no such file or folder.")
    if path.suffix.lower() in EXTENSIONS or not _is_text(path):
        return [path]
    return VideoList.from_list(path).paths


def _is_video(path, root):
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return path.suffix.lower() in EXTENSIONS and not hidden and path.is_file()


def _is_text(path):
    """Whether a file of another ending is a list; videos hold bytes of zero."""
    with open(path, "rb") as stream:
        return b"\0" not in stream.read(4096)
