"""Files and folders that are either complete or absent.

Source: POSIX rename(2): replacing a file by name is atomic within a file system; and
flock(2), by which a later write knows what a killed process has left behind.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = ".writing-"
"""Of the names of folders that hold what is being written."""


class WriteError(OSError):
    """A file could not be written and the earlier one is intact (errno of write(2))."""


@contextlib.contextmanager
def replacing(path):
    """Yields a temporary path beside `path` that takes its place on success.

    On an exception the temporary file is removed and an earlier `path` stays as it
    was. A killed process leaves its temporary file behind; the next write in the same
    folder removes it. The temporary name ends like `path`, since Keras goes by the
    ending.

    Args:
        path: file to write.

    Raises:
        WriteError: the disk is full or the folder cannot be written; the message names
            the file, the room left and what to do.

    Source: POSIX rename(2), flock(2).
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with hidden_folder(path.parent, PREFIX) as folder:
            temporary = folder / path.name
            yield temporary
            to_disk(temporary)
            os.replace(temporary, path)
            to_disk(path.parent)
    except OSError as error:
        raise explain(error, path) from error


def require_writable(folder):
    """Makes a folder and tries it, for results that take long to compute.

    Args:
        folder: created if absent.

    Raises:
        WriteError: files cannot be written there.

    Source: errno of POSIX open(2).
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise explain(error, folder) from error


def explain(error, path):
    """A `WriteError` with the same errno that names `path` and the room left.

    Args:
        error: OSError met while writing. path: the file or folder.

    Source: errno of POSIX write(2).
    """
    folder = next((p for p in Path(path).parents if p.is_dir()), Path(path))
    full = error.errno == errno.ENOSPC or "No space left" in str(error)
    cause = "the disk is full" if full else (error.strerror or str(error))
    if folder.is_dir():
        cause += f" ({shutil.disk_usage(folder).free / 2**20:.0f} MiB free)"
    return WriteError(
        errno.ENOSPC if full else error.errno,
        f"Could not write {path}: {cause}. Nothing was replaced; "
        "free some room or choose another folder and run the same command again",
    )


@contextlib.contextmanager
def hidden_folder(parent, prefix):
    """Yields a temporary folder, locked while this process lives and then removed.

    Those that killed processes have left in `parent` under the same prefix are removed
    first. Whoever wants to keep the folder renames it.

    Args:
        parent: an existing folder. prefix: of the name; a dot hides it.

    Source: flock(2).
    """
    with locked(parent):
        _sweep(parent, prefix)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        lock = _try_lock(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def remove_abandoned(parent, prefix):
    """Removes the temporary folders that killed processes have left.

    Args:
        parent: an existing folder. prefix: as given to `hidden_folder`.

    Source: flock(2).
    """
    with locked(parent):
        _sweep(Path(parent), prefix)


@contextlib.contextmanager
def locked(folder):
    """Keeps other processes out of a folder, as far as they ask for the same.

    Some network file systems lock no folders; there nothing is kept out, and nothing
    that killed processes left is ever removed.

    Args:
        folder: an existing folder.

    Source: flock(2).
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def alone_in(folder):
    """Lets one process at a time write to a folder; a second one is refused.

    The system frees the lock of a process that dies, however it does. Some network
    file systems have no locks; there nobody is refused.

    Args:
        folder: an existing folder; a hidden file `.lock` appears in it and stays.

    Raises:
        WriteError: another process holds the lock; the message has its number.

    Source: flock(2).
    """
    path = Path(folder) / ".lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(descriptor, 20).decode("ascii", "replace").strip()
            raise WriteError(
                errno.EBUSY,
                f"{folder} is being written by another process ({owner or 'unknown'}); "
                "wait for it or choose another folder",
            ) from error
        except OSError:
            pass  # no locks on this file system
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield
    finally:
        os.close(descriptor)


def _try_lock(folder):
    """A descriptor that holds the lock of a folder, or None if it cannot be had."""
    descriptor = None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if descriptor is not None:
            os.close(descriptor)
        return None
    return descriptor


def _sweep(parent, prefix):
    for leftover in parent.glob(prefix + "*"):
        _remove_if_abandoned(leftover)


def _remove_if_abandoned(folder):
    # The lock of a living process cannot be had; the system frees that of a dead one.
    lock = _try_lock(folder)
    if lock is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def to_disk(path):
    """Waits until a file, or a folder's list of names, is on the disk.

    Args:
        path: of a file or folder.

    Source: fsync(2).
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
