"""Files from servers: whole, bounded, and with the right checksum, or not at all.

Source: RFC 9110 (HTTP); the checksums are those of FIPS 180-4 and RFC 1321.
"""

import hashlib
import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from absl import logging

from zoo.files import PREFIX, hidden_folder, replacing
from zoo.weights.kinds import MAX_BYTES, check_size, refuse_page

TIMEOUT = 30  # seconds without a byte
SIDECAR = ".sha256"
ANY = "sha256:"  # a checksum that every file has
SUMS = "SHA256SUMS"
MAX_TEXT = 2**20  # bytes of anything but weights
_CHUNK = 2**20
_AGENT = "spacetime-zoo"
_MAX_FILES = 32  # of a published folder; there are six


class ChecksumError(ValueError):
    """A file is not the one that its record describes (FIPS 180-4)."""


class FetchError(ValueError):
    """An answer of a server that is of no use (RFC 9110)."""


def digest(path, algorithm="sha256"):
    """The checksum of a file as "algorithm:hexadecimal digits" (FIPS 180-4)."""
    with open(path, "rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def read_sums(folder):
    """{file: SHA-256} of the SHA256SUMS of a folder (sha256sum(1)).

    Raises:
        ChecksumError: another format, or names of files elsewhere.
    """
    path = Path(folder) / SUMS
    check_size(path, MAX_TEXT)
    sums = {}
    for line in path.read_text("utf-8", "replace").splitlines():
        total, _, file = line.partition("  ")
        if len(total) != 64 or Path(file).name != file or file in ("", "..", SUMS):
            raise ChecksumError(f"{path} has a line that is no checksum: {line[:80]!r}")
        sums[file] = total
    return sums


def download_folder(url, target):
    """Fetches a published folder, which appears only whole.

    Args:
        url: of the folder, on a server that serves its files. target: Path to be.

    Raises:
        ValueError, OSError: as `download`.

    Source: RFC 9110; the format of SHA256SUMS is that of sha256sum(1).
    """
    url = url.rstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    with hidden_folder(target.parent, PREFIX) as hidden:
        folder = hidden / target.name
        download(f"{url}/{SUMS}", folder / SUMS, ANY, MAX_TEXT)
        sums = read_sums(folder)
        if len(sums) > _MAX_FILES:
            raise FetchError(f"{SUMS} has {len(sums)} files, at most {_MAX_FILES}")
        for file, total in sums.items():
            path = folder / file
            download(f"{url}/{urllib.parse.quote(file)}", path, f"sha256:{total}")
        os.rename(folder, target)


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
            right = checksum is None or found.startswith(checksum)
            if size == 0 and (not right or checksum in (None, ANY)):
                raise FetchError("the answer is empty")
            if not right:
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
