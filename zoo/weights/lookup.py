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
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from absl import logging

from zoo.files import WriteError, locked, replacing
from zoo.weights.kinds import MAX_BYTES, check_size, refuse_page
from zoo.weights.records.packaged import FOLDER as PACKAGED
from zoo.weights.records.packaged import RECORD

TIMEOUT = 30  # seconds without a byte
_CHUNK = 2**20
_AGENT = "spacetime-zoo"
SIDECAR = ".sha256"


class ChecksumError(ValueError):
    """A file is not the one that its record describes (FIPS 180-4)."""


class FetchError(ValueError):
    """An answer of a server that is of no use (RFC 9110)."""


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


def digest(path, algorithm="sha256"):
    """The checksum of a file as "algorithm:hexadecimal digits" (FIPS 180-4)."""
    with open(path, "rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


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
            "or pass its path as weights= if you trust it."
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
        with _one_at_a_time(record):
            if path.is_file():  # another process was faster
                return verified(path, record)
            try:
                download(url, path, record.checksum)
            except WriteError:
                raise  # the disk is full; another URL would not help
            except (OSError, ValueError, http.client.HTTPException) as error:
                tried.append(f"{url}: {error}")
                continue
        logging.info("%s, licence: %s", record.name, record.licence)
        return path
    return None


def download(url, path, checksum=None, at_most=MAX_BYTES):
    """Fetches a URL into a file, which appears only whole and with its checksum right.

    Without a checksum the one found is noted in a file beside it.

    Args:
        url: http or https. path: of the file. checksum: as in `WeightRecord`.
        at_most: bytes.

    Raises:
        ChecksumError: another content.
        ValueError: a web page, too large, or an answer that breaks off.
        OSError: no answer; a WriteError if the disk is full.

    Source: RFC 9110.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise FetchError(f"only http and https are fetched, got {url!r}")
    path = Path(path)
    algorithm = (checksum or "sha256:").partition(":")[0]
    request = urllib.request.Request(url, headers={"User-Agent": _AGENT})
    logging.info("Fetching %s", url)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        promised = answer.headers.get("Content-Length")
        _require_room(promised, at_most)
        with replacing(path) as temporary:
            found = _copy(answer, temporary, algorithm, at_most)
            size = temporary.stat().st_size
            if promised is not None and size != int(promised):
                raise FetchError(f"broke off after {size} of {promised} bytes")
            if size == 0:
                raise FetchError("the answer is empty")
            if checksum and not found.startswith(checksum):
                raise ChecksumError(f"the file has {found}, not {checksum}")
    if checksum is None:
        with replacing(path.with_name(path.name + SIDECAR)) as note:
            note.write_text(f"{found.partition(':')[2]}  {path.name}\n")


def _require_room(promised, at_most):
    if promised is not None and int(promised) > at_most:
        raise FetchError(f"{promised} bytes are more than the {at_most} that are read")


def _copy(answer, path, algorithm, at_most):
    """Writes an answer to a file; returns its checksum."""
    known, size = hashlib.new(algorithm), 0
    with open(path, "wb") as file:
        while chunk := _read(answer, size):
            if size == 0:
                refuse_page(chunk[:4096], "the answer")
            size += len(chunk)
            if size > at_most:
                raise FetchError(f"more than the {at_most} bytes that are read")
            known.update(chunk)
            file.write(chunk)
    return f"{algorithm}:{known.hexdigest()}"


def _read(answer, size):
    try:
        return answer.read(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise FetchError(f"broke off after {size} bytes: {error}") from error


@contextlib.contextmanager
def _one_at_a_time(record):
    """Lets one process at a time fetch the file of a record."""
    folder = cache_folder() / ".locks" / record.name
    folder.mkdir(parents=True, exist_ok=True)
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
