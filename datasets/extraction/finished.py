"""From finished videos to the places where readers look for them.

Everything here may be cut short by a kill and done again: a video is moved, entered in
the manifest, and only then forgotten.

Source: POSIX rename(2).
"""

import hashlib
import os
import shutil
from pathlib import Path

from zoo.datasets.extraction.one_video import FINISHED, entry_in
from zoo.datasets.video import VideoError
from zoo.files import WriteError, explain, replacing


def publish(out, manifest):
    """Moves all finished videos to their places and enters them in the manifest.

    Args:
        out: Folder of the flow.
        manifest: Its Manifest.

    Raises:
        WriteError: If that can't be written; finished videos stay for the next run.
    """
    records = []
    try:
        for folder, entry in finished(out):
            if entry["verdict"] != "ok":
                fail(out, entry, manifest)
                shutil.rmtree(folder, ignore_errors=True)
            elif entry["settings"]["format"] == "jpeg":
                publish_files(out, folder, entry, manifest)
            else:
                records.append((folder, entry))
        _publish_records(Path(out), records, manifest)
    except WriteError:
        raise
    except OSError as error:
        raise explain(error, Path(out) / "u") from error


def fail(out, entry, manifest):
    """Enters a video that failed, and removes what an earlier run stored of it.

    Args:
        out: Folder of the flow.
        entry: Its entry.
        manifest: The Manifest.

    Raises:
        WriteError: If the manifest can't be written.
    """
    manifest.append(entry)
    for component in "uv":
        shutil.rmtree(Path(out) / component / entry["video"], ignore_errors=True)


def finished(out):
    """The videos that are finished and not published: [(folder, entry)], sorted."""
    found = []
    for folder in sorted((Path(out) / FINISHED).glob("*")):
        if entry := entry_in(folder):
            found.append((folder, entry))
        else:  # published and then not quite removed, or cut short by a power failure
            shutil.rmtree(folder, ignore_errors=True)
    return found


def publish_files(out, folder, entry, manifest):
    """Moves a video's JPEGs to ``u/<class>/<video>`` and ``v/...``.

    Args:
        out: Folder of the flow.
        folder: The finished video.
        entry: Its entry.
        manifest: The Manifest.
    """
    for component in "vu":
        source, target = folder / component, Path(out) / component / entry["video"]
        if source.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            os.rename(source, target)
    manifest.append(entry)
    shutil.rmtree(folder, ignore_errors=True)


def shard_name(video, shards):
    """File that a video's record belongs into, by a hash of its name."""
    number = int(hashlib.sha256(video.encode()).hexdigest()[:12], 16) % shards
    return f"flow-{number:05d}-of-{shards:05d}.tfrecord"


def _publish_records(out, folders, manifest):
    """Merges finished records into their shards, one shard after the other."""
    shards = {}
    for folder, entry in folders:
        name = shard_name(entry["video"], entry["settings"]["shards"])
        shards.setdefault(name, []).append((folder, entry))
    for name, members in sorted(shards.items()):
        _merge(out / name, _records(out, members, manifest), manifest)
        manifest.tidy()
        for folder, _ in members:
            shutil.rmtree(folder, ignore_errors=True)


def _records(out, members, manifest):
    """Writes the JPEGs of finished videos as a record each: [(path, entry)].

    Only here and not by the workers, which so do without TensorFlow.
    """
    from zoo.datasets.flow_records import write_record

    records = []
    for folder, entry in members:
        path = folder / "video.tfrecord"
        images = ([f.read_bytes() for f in jpegs(folder / c)] for c in "uv")
        try:
            write_record(path, entry, *images)
            records.append((path, entry))
        except VideoError as error:
            fail(out, {**entry, "verdict": "failed", "reason": str(error)}, manifest)
    return records


def jpegs(folder):
    """The files of the fields in a folder, in their order."""
    return sorted(Path(folder).glob("frame*.jpg"))


def _merge(shard, records, manifest):
    """Writes a shard anew, with more records or others in place of those there."""
    from zoo.datasets.flow_records import names_in

    # The shard says what it holds: a kill may have come before the manifest did.
    places = {
        video: (shard, offset, length)
        for video, offset, length in names_in(shard)
        if manifest.entries.get(video, {}).get("verdict") != "failed"
    }
    for path, entry in records:
        places[entry["video"]] = (path, 0, path.stat().st_size)
        manifest.entries[entry["video"]] = entry
    # Of a shard that was removed, what isn't written now is not there any more.
    for video, entry in list(manifest.entries.items()):
        if entry.get("shard") == shard.name and video not in places:
            del manifest.entries[video]
    position = 0
    with replacing(shard) as temporary, open(temporary, "wb") as stream:
        for video in sorted(places):
            path, offset, length = places[video]
            with open(path, "rb") as source:
                source.seek(offset)
                stream.write(source.read(length))
            if video in manifest.entries:
                place = {"shard": shard.name, "offset": position, "length": length}
                manifest.entries[video] = {**manifest.entries[video], **place}
            position += length
