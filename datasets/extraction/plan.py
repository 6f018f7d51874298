"""What a run has to do: what is there already, and what contradicts it.

Source: our own.
"""

import os
from pathlib import Path

from zoo.datasets.extraction.sources import is_unchanged


def plan(jobs, settings, out, manifest, overwrite=False):
    """Parts the videos into those to extract and those that are there.

    A video is there if its last verdict is "ok", neither the file nor the settings
    have changed since, and its files are complete in number. Failed ones are tried
    again.

    Args:
        jobs: Jobs.
        settings: Settings.
        out: Folder of the flow.
        manifest: Its Manifest.
        overwrite: Whether to extract again what has changed.

    Returns:
        (Jobs to extract, Jobs that are there).

    Raises:
        ValueError: If the folder holds flow by other settings, of another file of the
            same name, or from elsewhere, and that may not be overwritten.
    """
    _refuse_other_settings(jobs, settings, out, manifest)
    todo, there, contradictions = [], [], []
    for job in jobs:
        entry = manifest.entries.get(job.name)
        difference = _difference(job, entry, settings, out)
        if difference:
            contradictions.append(f"{job.name}: {difference}")
        done = not difference and entry is not None and _is_complete(out, entry)
        (there if done else todo).append(job)
    if contradictions and not overwrite:
        shown = "\n  ".join(contradictions[:5])
        more = len(contradictions) - 5
        raise ValueError(
            f"{out} holds other flow than this command would write:\n  {shown}"
            + (f"\n  and {more} more" if more > 0 else "")
            + "\nGive another --out, or --overwrite to extract these videos again."
        )
    return todo, there


def _refuse_other_settings(jobs, settings, out, manifest):
    """Two kinds of flow in one folder would train a network on a mixture.

    Files of another layout would stay beside the new ones, whatever is overwritten.
    """
    names = {job.name for job in jobs}
    record = settings.record()
    others = [
        entry
        for name, entry in sorted(manifest.entries.items())
        if entry["verdict"] == "ok"
        and entry["settings"] != record
        and (name not in names or _layout(entry["settings"]) != _layout(record))
    ]
    if others:
        raise ValueError(
            f"{out} holds the flow of {len(others)} video(s), such as "
            f"{others[0]['video']}, by other settings: "
            f"{_changes(others[0]['settings'], record)}. Give another --out."
        )


def _layout(record):
    return record["format"], record.get("shards")


def _difference(job, entry, settings, out):
    """What contradicts the extraction of a video; "" for nothing."""
    if entry is None:
        for component in "uv":
            target = Path(out) / component / job.name
            if settings.format == "jpeg" and target.exists():
                return (
                    f"{target} was not written by zoo flow (no entry in its manifest)"
                )
        return ""
    if entry["verdict"] != "ok":
        return ""
    if entry["settings"] != settings.record():
        return _changes(entry["settings"], settings.record())
    source = entry["source"]
    if is_unchanged(job.path, source):
        return ""
    if source["path"] != job.path:
        return f"stored is the flow of {source['path']}, asked for is {job.path}"
    return f"{job.path} has changed since its flow was extracted"


def _changes(before, now):
    """The settings that differ, in words."""
    before, now = dict(before), dict(now)
    parameters = [record.pop("parameters", {}) for record in (before, now)]
    if before.get("method") == now["method"]:  # those of two methods say nothing
        before, now = parameters[0] | before, parameters[1] | now
    keys = [key for key in now if before.get(key) != now[key]]
    keys += [key for key in before if key not in now]
    changes = [f"{k} was {before.get(k)!r} and is now {now.get(k)!r}" for k in keys]
    return ", ".join(changes)


def _is_complete(out, entry):
    """Whether a video's fields are there, by number; their contents: ``check``."""
    if entry["verdict"] != "ok":
        return False
    if entry["settings"]["format"] == "tfrecord":
        shard = Path(out) / entry.get("shard", "-")
        end = entry.get("offset", 0) + entry.get("length", 0)
        return shard.is_file() and shard.stat().st_size >= end
    folders = [Path(out) / component / entry["video"] for component in "uv"]
    return all(
        folder.is_dir() and len(os.listdir(folder)) == entry["fields"]
        for folder in folders
    )
