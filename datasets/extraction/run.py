"""Extraction of many videos: resumed, in many processes, reported.

Source: thesis 3.3.5.
"""

import contextlib
import dataclasses
import os
import shutil
from pathlib import Path

from zoo.datasets.extraction.finished import fail, publish, publish_files
from zoo.datasets.extraction.manifest import Manifest
from zoo.datasets.extraction.one_video import FINISHED, finished_folder
from zoo.datasets.extraction.plan import plan
from zoo.datasets.extraction.pool import in_processes, in_this_process
from zoo.datasets.extraction.progress import Progress
from zoo.datasets.extraction.sources import jobs_of
from zoo.files import PREFIX, alone_in, remove_abandoned, require_writable


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        extracted: Number of videos extracted.
        there: Number of videos that were there already.
        failed: (name, reason) of each that failed.
        fields: Number of fields computed.
        seconds: How long it took.
        plain: Number of fields in which no camera motion was found, of the videos
            extracted; None where none was sought.
    """

    extracted: int
    there: int
    failed: tuple[tuple[str, str], ...]
    fields: int
    seconds: float
    plain: int | None = None

    def __str__(self):
        rate = self.fields / self.seconds if self.seconds else 0.0
        plain = "" if self.plain is None else f"; no camera motion in {self.plain}"
        return (
            f"{self.extracted} videos extracted, {self.there} were there, "
            f"{len(self.failed)} failed; {self.fields} fields in {self.seconds:.1f} s "
            f"({rate:.1f}/s){plain}"
        )


def extract(videos, out, settings, processes=None, overwrite=False, stream=None):
    """Extracts the flow of videos into a folder, or goes on where a run was ended.

    Args:
        videos: Paths as ``jobs_of`` takes them.
        out: Folder of the flow.
        settings: Settings.
        processes: How many; None takes the method's own number, which for OpenCV is
            one per core. With one, everything happens in this process.
        overwrite: Whether to extract again what has changed.
        stream: Text stream for progress and failures; None takes standard error.

    Returns:
        A Summary.

    Raises:
        VideoError: If a path is missing, or there are no videos.
        ValueError: If the folder holds other flow, see ``plan``, or an argument is out
            of its range.
        WriteError: If the folder can't be written, is being written by another
            process, or is full. Finished videos are kept.
        ChildProcessError: If the processes can't start.
    """
    processes = _number(processes, settings.method)
    jobs = jobs_of(videos)
    with opened(out, jobs, settings, overwrite) as (manifest, todo, there):
        progress = Progress({job: _bytes(job) for job in todo}, stream)
        plain = []
        try:
            for job, entry in _entries(todo, settings, out, progress, processes):
                if entry["verdict"] == "ok":
                    accept(out, entry, manifest)
                    plain.append(entry.get("plain_fields"))
                else:
                    fail(out, entry, manifest)
                    progress.warn(f"zoo: failed: {entry['reason']}")
                progress.done(job, entry["verdict"] != "ok")
        finally:
            progress.close()
    # As the manifest has it: a video may also fail when it is put in its place.
    entries = [e for e in (manifest.entries.get(job.name) for job in todo) if e]
    failed = [(e["video"], e["reason"]) for e in entries if e["verdict"] != "ok"]
    extracted = progress.videos - len(failed)
    plain = [count for count in plain if count is not None]
    return Summary(
        extracted,
        len(there),
        tuple(failed),
        progress.fields,
        progress.seconds,
        sum(plain) if plain else None,
    )


@contextlib.contextmanager
def opened(out, jobs, settings, overwrite=False):
    """Opens a folder for extraction, for this process alone, and plans the work.

    What an earlier run has finished is put in its place before, and what this one has
    finished, afterwards.

    Args:
        out: Folder of the flow, made if absent.
        jobs: Jobs.
        settings: Settings.
        overwrite: Whether to extract again what has changed.

    Yields:
        (Manifest, Jobs to extract, Jobs that are there).

    Raises:
        ValueError: If the folder holds other flow, see ``plan``.
        WriteError: If it can't be written or another process does.
    """
    require_writable(out)
    with alone_in(out):
        remove_abandoned(out, PREFIX)
        manifest = Manifest(out)
        publish(out, manifest)
        todo, there = plan(jobs, settings, out, manifest, overwrite)
        try:
            yield manifest, todo, there
        finally:
            remove_abandoned(out, PREFIX)
            # Also when a run is interrupted: what it has finished should be usable.
            publish(out, manifest)
            manifest.tidy()
        shutil.rmtree(Path(out) / FINISHED, ignore_errors=True)


def accept(out, entry, manifest):
    """Puts a finished video in its place, where that can be done one by one.

    Args:
        out: Folder of the flow.
        entry: Of the video.
        manifest: The Manifest.

    Raises:
        WriteError: If it can't be written; the video stays finished.
    """
    if entry["settings"]["format"] == "jpeg":
        publish_files(out, finished_folder(out, entry["video"]), entry, manifest)


def _entries(todo, settings, out, progress, processes):
    if min(processes, len(todo)) <= 1:
        return in_this_process(todo, settings, out, progress.tick)
    return in_processes(todo, settings, out, progress.tick, processes, progress.warn)


def _number(processes, method):
    if processes is None:
        return method.processes or len(os.sched_getaffinity(0))
    if processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}.")
    return processes


def _bytes(job):
    try:
        return os.path.getsize(job.path)
    except OSError:
        return 0  # its failure comes later, with a reason
