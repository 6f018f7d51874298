"""Sets of generated files: written once, resumed when interrupted, never mixed up.

A set is a folder with a manifest, ``synthetic.json``: the parameters of the set, and
of every clip the number of frames and the SHA-256 of its files. A file has its name
only when it is complete.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

MANIFEST = "synthetic.json"
SAVE_EVERY = 200  # clips between two savings of the manifest


class Clip(NamedTuple):
    """One clip of a set.

    Attributes:
        files: its files relative to the set's folder, in the order of writing. The
            last is the video, which stands for the clip in the manifest: where it is,
            the others are.
        make: makes the contents of the files, in the same order.
    """

    files: tuple[str, ...]
    make: Callable[[], Sequence[bytes]]

    @property
    def name(self) -> str:
        """The file that stands for the clip."""
        return self.files[-1]


def write_set(
    root: Path,
    what: str,
    parameters: dict,
    clips: Iterable[Clip],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes a set of clips, or completes one begun before.

    Clips all of whose files are there with the contents once written are left alone.

    Args:
        root: folder to write; created if it is missing.
        what: name of this kind of set, for messages.
        parameters: what the clips depend on, as JSON has it; "frames" is among them.
        clips: all clips of the set.
        progress: called as ``progress(done, total)`` after every clip.

    Raises:
        ValueError: the folder holds a set with other parameters, or clips that no
            manifest speaks of.
        OSError: a file could not be written; what was complete stays.
    """
    clips = list(clips)
    records = _open_manifest(root, what, parameters, clips)
    unsaved = 0
    try:
        for done, clip in enumerate(clips, start=1):
            if not _is_complete(root, clip, records.get(clip.name)):
                contents = clip.make()
                for name, data in zip(clip.files, contents, strict=True):
                    _write_whole(root / name, data)
                records[clip.name] = {
                    "frames": parameters["frames"],
                    "sha256": _digest(contents),
                }
                unsaved += 1
            if unsaved == SAVE_EVERY:
                _save_manifest(root, parameters, records)
                unsaved = 0
            if progress is not None:
                progress(done, len(clips))
    finally:
        if unsaved:
            _save_manifest(root, parameters, records)


def seed_of(*parts) -> int:
    """A seed of its own for every clip, unrelated to those of its neighbours.

    Args:
        *parts: what tells the clip from all others, such as numbers and names.

    Returns:
        A whole number of 128 bits.
    """
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def _open_manifest(root, what, parameters, clips):
    """The clips already written; makes the folder and the manifest if there is none."""
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root} is a file; name a folder for the {what}")
    path = root / MANIFEST
    if path.exists():
        return _read_manifest(path, what, parameters)
    for name in sorted({Path(file).parts[0] for clip in clips for file in clip.files}):
        folder = root / name
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(
                f"{folder} holds files, but {root} has no {MANIFEST}, so they are not "
                f"{what}; name another folder"
            )
    root.mkdir(parents=True, exist_ok=True)
    _save_manifest(root, parameters, {})
    return {}


def _read_manifest(path, what, parameters):
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found, records = dict(manifest["parameters"]), dict(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a manifest of {what} ({error!r}); delete the folder or "
            "name another one"
        ) from error
    differences = [
        f"{key} is {found.get(key)!r}, asked for {parameters.get(key)!r}"
        for key in sorted(found.keys() | parameters.keys())
        if found.get(key) != parameters.get(key)
    ]
    if differences:
        raise ValueError(
            f"{path.parent} holds a synthetic set with other parameters: "
            f"{'; '.join(differences)}. Name another folder, or delete this one"
        )
    return records


def _is_complete(root, clip, record):
    """Whether all files are there with the contents that were written."""
    paths = [root / name for name in clip.files]
    if record is None or not all(path.is_file() for path in paths):
        return False
    return _digest(path.read_bytes() for path in paths) == record.get("sha256")


def _digest(contents):
    """SHA-256 of the files' contents one after the other."""
    digest = hashlib.sha256()
    for data in contents:
        digest.update(data)
    return digest.hexdigest()


def _save_manifest(root, parameters, records):
    manifest = {"parameters": parameters, "files": dict(sorted(records.items()))}
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
