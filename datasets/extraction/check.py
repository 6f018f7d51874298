"""Whether a folder of flow holds what its manifest says: numbers and checksums.

Source: our own.
"""

import dataclasses
import hashlib
import os
from pathlib import Path

from zoo.datasets.extraction.finished import finished, jpegs
from zoo.datasets.extraction.manifest import NAME, Manifest
from zoo.datasets.extraction.one_video import digest_image
from zoo.datasets.video import VideoError


@dataclasses.dataclass(frozen=True)
class Report:
    """What ``check`` found.

    Attributes:
        videos: Number of videos whose flow is stored.
        fields: Number of their fields.
        failed: Number of videos that the manifest says failed.
        problems: What is wrong, one text each.
    """

    videos: int
    fields: int
    failed: int
    problems: tuple[str, ...]


def check(out):
    """Reads everything that a folder of flow holds and compares it with its manifest.

    Args:
        out: Folder that ``extract`` has written.

    Returns:
        A Report.

    Raises:
        ValueError: If there is no manifest, or it can't be read.
    """
    out = Path(out)
    if not (out / NAME).is_file():
        raise ValueError(
            f"{out} has no {NAME}, so it wasn't written by zoo flow; there is nothing "
            "to check it against."
        )
    entries = [e for _, e in sorted(Manifest(out).entries.items())]
    good = [e for e in entries if e["verdict"] == "ok"]
    problems = [text for entry in good for text in _problems(out, entry)]
    problems += _strangers(out, good) + _strange_records(out, entries)
    if waiting := finished(out):
        problems.append(
            f"{len(waiting)} finished video(s) are not in their place yet; run the "
            "same zoo flow again"
        )
    fields = sum(entry["fields"] for entry in good)
    return Report(len(good), fields, len(entries) - len(good), tuple(problems))


def _problems(out, entry):
    try:
        u, v = _images(out, entry)
    except (OSError, VideoError) as error:
        return [f"{entry['video']}: {error}"]
    if not len(u) == len(v) == entry["fields"]:
        return [
            f"{entry['video']}: {len(u)} fields of u and {len(v)} of v, the manifest "
            f"says {entry['fields']}"
        ]
    digest = hashlib.sha256()
    for images in zip(u, v, strict=True):
        for data in images:
            digest_image(digest, data)
    if digest.hexdigest() != entry["sha256"]:
        return [f"{entry['video']}: its files have changed since they were written"]
    return []


def _images(out, entry):
    """The JPEG bytes of u and v, two lists in the order of the fields."""
    if entry["settings"]["format"] == "tfrecord":
        # Only here, since it needs TensorFlow.
        from zoo.datasets.flow_records import FlowRecords

        return FlowRecords(out).images(entry)
    folders = (out / component / entry["video"] for component in "uv")
    return [[path.read_bytes() for path in jpegs(folder)] for folder in folders]


def _strangers(out, entries):
    """Folders of fields that no entry tells of."""
    known = {e["video"] for e in entries if e["settings"]["format"] == "jpeg"}
    found = []
    for component in "uv":
        for folder, _, files in os.walk(out / component):
            name = Path(folder).relative_to(out / component).as_posix()
            if name not in known and any(f.endswith(".jpg") for f in files):
                found.append(f"{component}/{name}: not in the manifest")
    return sorted(found)


def _strange_records(out, entries):
    """Records that no entry tells of, as of a manifest that was lost."""
    shards = sorted(out.glob("flow-*-of-*.tfrecord"))
    if not shards:
        return []
    # Only here, since it needs TensorFlow.
    from zoo.datasets.flow_records import names_in

    known = {(e["video"], e.get("shard")) for e in entries}
    # What has failed since it was stored leaves its shard with the next merge.
    failed = {e["video"] for e in entries if e["verdict"] != "ok"}
    shards_of_entries = {e.get("shard") for e in entries}
    found = []
    for shard in shards:
        try:
            names = {name for name, _, _ in names_in(shard)} - failed
        except VideoError as error:
            # Its entries, if it has any, have said so already.
            found += [str(error)] if shard.name not in shards_of_entries else []
            continue
        found += [
            f"{shard.name}: {name} is not in the manifest"
            for name in sorted(names)
            if (name, shard.name) not in known
        ]
    return found
