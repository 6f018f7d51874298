"""Publishing a folder whole or not at all: <parent>/<version>/.

Everything is written into a hidden folder beside the final one and renamed at the
end, so a server that watches the parent never sees half a model. A process that is
killed leaves its hidden folder behind; the next one that publishes there removes it.

Source: the directory layout of TensorFlow Serving (integer folders are versions, all
others are ignored), tensorflow.org/tfx/serving/serving_config; rename(2), flock(2).
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import tempfile
from pathlib import Path

PREFIX = ".unfinished-"
# Of the disk, the user's share, and the process' file size.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def versions(parent):
    """The versions published in a folder, ascending; none if it does not exist.

    Source: TensorFlow Serving, integer folders are versions.
    """
    if not os.path.isdir(parent):
        return []
    names = (p.name for p in Path(parent).iterdir() if p.is_dir())
    return sorted(int(name) for name in names if re.fullmatch("[0-9]+", name))


@contextlib.contextmanager
def publishing(parent, version=None):
    """A folder to write into, which becomes `<parent>/<version>` if all goes well.

    Args:
        parent: folder of the versions, made if missing.
        version: integer >= 1; None takes the one after the highest, at the end.

    Yields:
        A `Publication`: `.temporary` to write into; `.path` is set on success.

    Raises:
        FileExistsError: the version exists.
        OSError: no space; the message says what is free. Nothing is left behind.

    Source: rename(2), flock(2).
    """
    parent = Path(parent)
    require_free(parent, version)
    made = [p for p in (parent, *parent.parents) if not p.exists()]
    parent.mkdir(parents=True, exist_ok=True)
    publication = Publication(parent, version)
    try:
        publication.open()
        yield publication
        publication.close()
    except BaseException as error:
        publication.discard()
        for folder in made:  # the innermost first
            with contextlib.suppress(OSError):  # somebody else's files are in it
                folder.rmdir()
        if is_no_space(error):
            raise _no_space(error, parent) from error
        raise


def require_free(parent, version):
    """Raises unless `version` can be published in `parent` (TensorFlow Serving)."""
    if version is None:
        return
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f"version must be an integer of at least 1, got {version!r}.")
    taken = versions(parent)
    if version in taken:
        raise FileExistsError(
            f"{parent} has a version {version} already; a running server may hold "
            f"it. Leave version out for the next free one, {taken[-1] + 1}."
        )


class Publication:
    """One folder on its way to being published; see `publishing`.

    Source: rename(2), flock(2).
    """

    def __init__(self, parent, version):
        self.parent = Path(parent)
        self.version = version
        self.temporary = None
        self.path = None
        self._lock = None

    def open(self):
        """Removes what killed processes left, then makes the hidden folder."""
        with _locked(self.parent):
            for leftover in self.parent.glob(PREFIX + "*"):
                _remove_if_abandoned(leftover)
            self.temporary = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self.parent))
            # Held until this process ends, however it ends: see _remove_if_abandoned.
            self._lock = _try_lock(self.temporary)

    def close(self):
        """Gives the folder its final name."""
        # mkdtemp's folder is private; a server often runs as another user.
        os.chmod(self.temporary, 0o777 & ~_umask())
        _flush(self.temporary)
        with _locked(self.parent):
            version = self.version
            if version is None:
                version = max(versions(self.parent), default=0) + 1
            require_free(self.parent, version)
            path = self.parent / str(version)
            os.rename(self.temporary, path)
        _flush_folder(self.parent)
        self.version, self.path = version, path
        self._release()

    def discard(self):
        """Removes the hidden folder with what was written."""
        if self.temporary is not None and self.path is None:
            shutil.rmtree(self.temporary, ignore_errors=True)
        self._release()

    def _release(self):
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def is_no_space(error):
    """Whether an exception, or one that caused it, says that no space was left.

    Source: TensorFlow passes on the system's message only, strerror(3).
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            return True
        if any(os.strerror(number) in str(error) for number in NO_SPACE):
            return True
        error = error.__cause__
    return False


def _no_space(error, parent):
    number = getattr(error, "errno", None)
    if number not in NO_SPACE:
        said = [n for n in NO_SPACE if os.strerror(n) in str(error)]
        number = said[0] if said else errno.ENOSPC
    existing = next(p for p in (parent, *parent.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free / 2**20
    return OSError(
        number,
        f"{os.strerror(number)} while writing the export: {free:.0f} MB "
        f"are free and an export takes about the size of the weights. Nothing was "
        "left behind and earlier versions are intact. Make room or choose another "
        "folder",
        str(parent),
    )


@contextlib.contextmanager
def _locked(folder):
    """Keeps other publishers of the same folder out, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems lock no folders. Then two publishers can choose
        # the same version, and the rename of the second fails with a message.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
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


def _remove_if_abandoned(folder):
    # The lock of a living process cannot be had; the system frees that of a dead one.
    lock = _try_lock(folder)
    if lock is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _flush(folder):
    """Waits until every file below a folder is on the disk, not in a cache."""
    for root, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(root, name), "rb") as file:
                os.fsync(file.fileno())
        _flush_folder(root)


def _flush_folder(folder):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
