"""Where the file of a record is: given, in a folder, in the cache, or fetched.

    ZOO_WEIGHTS   folders of files that are there already, separated as in PATH
    ZOO_CACHE     folder of fetched files; ~/.cache/spacetime_zoo by default
    ZOO_OFFLINE   anything but 0 or nothing: no URL is asked

What is fetched appears under its name only when it is whole and its checksum right. A
file without a published checksum gets one when it is first fetched, in a file beside it
with the ending .sha256, and is held to that from then on.

Source: ours; the checksums are those of FIPS 180-4 and RFC 1321.
"""

import contextlib
import hashlib
import http.client
import os
import re
from pathlib import Path

from absl import logging

from zoo.files import WriteError, explain, locked
from zoo.weights.fetching import (
    SIDECAR,
    SUMS,
    ChecksumError,
    digest,
    download,
    download_folder,
)
from zoo.weights.kinds import check_size, refuse_page
from zoo.weights.records.packaged import FOLDER as PACKAGED
from zoo.weights.records.packaged import RECORD

_NAME = re.compile(r"[A-Za-z0-9_.+-]+")


def locate(record, explicit=None):
    """The file of a record, or the folder of a published one.

    Args:
        record: a `WeightRecord`. explicit: a file, or a folder with it inside; nothing
            else is tried then.

    Returns:
        A Path whose content has the record's checksum, as far as there is one.

    Raises:
        FileNotFoundError: found nowhere; the message says everything that was tried
            and where to put the file by hand.
        ChecksumError: found, but with another content.

    Source: ours.
    """
    if explicit is not None:
        return _explicit(record, Path(explicit).expanduser())
    tried = []
    for what, folder in _folders(record):
        found = _inside(folder, record)
        if found:
            return verified(found, record)
        tried.append(f"{what} {folder}: not there")
    if not os.environ.get("ZOO_WEIGHTS"):
        tried.insert(0, "ZOO_WEIGHTS: not set")
    found = _fetch(record, tried)
    if found:
        return found
    raise FileNotFoundError(_advice(record, tried))


def published(name):
    """The folder of weights that somebody has published, by name; None if absent.

    Args:
        name: "model.tag". Looked for in the folders of ZOO_WEIGHTS and in the cache.

    Source: ours.
    """
    folders = [Path(f).expanduser() for f in _given()]
    found = (folder / name for folder in (*folders, cache_folder()))
    return next((path for path in found if _is_folder(path)), None)


def cache_folder():
    """The folder of fetched files: $ZOO_CACHE, or in the user's cache (XDG)."""
    if os.environ.get("ZOO_CACHE"):
        return Path(os.environ["ZOO_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "spacetime_zoo"


def is_offline():
    """Whether ZOO_OFFLINE forbids to ask the network (ours)."""
    return os.environ.get("ZOO_OFFLINE", "0") not in ("", "0")


def verified(path, record):
    """`path`, after its checksum was compared with the record's or its sidecar's.

    Args:
        path: an existing file; folders are checked file by file when they are read.
        record: a `WeightRecord`.

    Raises:
        ChecksumError: another content.
        ValueError: an empty or too large file.

    Source: FIPS 180-4.
    """
    if path.is_dir():
        return path
    check_size(path)
    expected = record.checksum or _noted(path)
    if expected is None:
        logging.info("%s: nobody has published a checksum of it.", path)
        return path
    found = digest(path, expected.partition(":")[0])
    if not found.startswith(expected):  # some publishers give the beginning
        with open(path, "rb") as file:
            refuse_page(file.read(4096), path)
        raise ChecksumError(
            f"{path} is not the file of {record.name}: its checksum is {found}, not "
            f"{expected}. It is damaged or another version; remove it and load again, "
            f"or, if you trust it, zoo.load({record.model!r}, weights={str(path)!r})."
        )
    return path


def _explicit(record, path):
    if path.is_dir():
        found = _inside(path, record) or (_is_folder(path) and path)
        if not found:
            raise FileNotFoundError(
                f"{path} holds neither {record.name} nor a file called "
                f"{' or '.join(record.files)}."
            )
        path = found
    elif not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; it was to hold {record.name}.")
    return verified(path, record)


def _folders(record):
    """(what it is, folder) of all places on this machine, in order."""
    if record.format == "folder":
        yield "the package", PACKAGED
    for folder in _given():
        yield "ZOO_WEIGHTS", Path(folder).expanduser()
    yield "the cache", _cached(record)
    if record.format == "keras_applications":
        home = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
        yield "Keras' cache", home / "models"


def _cached(record):
    """The folder of the cache in which the file or folder of a record stands."""
    is_folder = record.format == "folder"
    return cache_folder() if is_folder else cache_folder() / record.name


def _given():
    folders = os.environ.get("ZOO_WEIGHTS", "").split(os.pathsep)
    return [folder for folder in folders if folder]


def _inside(folder, record):
    """The file or published folder of a record inside a folder, or None."""
    if record.format == "folder":
        found = folder / record.name
        return found if _is_folder(found) else None
    return next((folder / f for f in record.files if (folder / f).is_file()), None)


def is_url(weights):
    """Whether weights are given by the address of a published folder (RFC 3986)."""
    return isinstance(weights, str) and weights.startswith(("http://", "https://"))


def hosted(url):
    """The published folder at an address, in the cache; fetched once.

    Args:
        url: http or https, of a folder with a SHA256SUMS.

    Raises:
        FileNotFoundError: it cannot be fetched, or ZOO_OFFLINE is set.

    Source: ours.
    """
    key = hashlib.sha256(url.encode()).hexdigest()[:16]
    name = url.rstrip("/").rpartition("/")[2]
    target = cache_folder() / "hosted" / key / name
    if not _NAME.fullmatch(name) or name in (".", ".."):
        raise ValueError(f"{url} does not end in the name of a published folder.")
    if (target / SUMS).is_file():  # whole, since it is renamed; the cache may be fixed
        return target
    with _one_at_a_time(key):
        if (target / SUMS).is_file():
            return target
        if is_offline():
            raise FileNotFoundError(f"{url} was not asked, ZOO_OFFLINE is set.")
        try:
            download_folder(url, target)
        except WriteError:
            raise
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise FileNotFoundError(
                f"No published folder could be fetched from {url}: {error}. Get it "
                "elsewhere and pass its path."
            ) from error
    return target


def _is_folder(path):
    return (path / RECORD).is_file()


def _advice(record, tried):
    lines = [f"The weights {record.name} were not found. Tried:"]
    lines += [f"  {line}" for line in tried]
    what = "folder" if record.format == "folder" else "file"
    file = f'"{record.files[0]}"'
    lines += [
        f"Get the {what} {file} elsewhere and put it into {_cached(record)} "
        f"or a folder that ZOO_WEIGHTS names, or pass its path: zoo.load("
        f"{record.name!r}, weights=PATH)."
    ]
    return "\n".join(lines)


# --- fetching ------------------------------------------------------------------------


def _fetch(record, tried):
    """The file from the first URL that has it, in the cache; None if none has."""
    if is_offline():
        tried += [f"{url}: not asked, ZOO_OFFLINE is set" for url in record.sources]
        return None
    path = _cached(record) / record.files[0]
    for url in record.sources:
        with _one_at_a_time(record.name):
            if path.exists():  # another process was faster
                return verified(path, record)
            try:
                if record.format == "folder":
                    download_folder(url, path)
                else:
                    download(url, path, record.checksum)
            except WriteError:
                raise  # the disk is full; another URL would not help
            except (OSError, ValueError, http.client.HTTPException) as error:
                tried.append(f"{url}: {error}")
                continue
        logging.info("%s, licence: %s", record.name, record.licence)
        return path
    return None


@contextlib.contextmanager
def _one_at_a_time(name):
    """Lets one process at a time fetch what has a name."""
    folder = cache_folder() / ".locks" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain(error, folder) from error
    with locked(folder):
        yield


def _noted(path):
    """The checksum in the file beside a file, or None."""
    note = path.with_name(path.name + SIDECAR)
    if not note.is_file():
        return None
    words = note.read_text("utf-8", "replace").split()
    if not words or len(words[0]) != 64:
        raise ValueError(f"{note} does not begin with a SHA-256; remove it.")
    return f"sha256:{words[0].lower()}"
