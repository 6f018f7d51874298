"""Files that are either complete or absent.

Source: POSIX rename(2): replacing a file by name is atomic within a file system.
"""

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path


@contextlib.contextmanager
def replacing(path):
    """Yields a temporary path beside `path` that takes its place on success.

    On an exception the temporary file is removed and an earlier `path` stays as it
    was. The temporary name ends like `path`, since Keras goes by the ending.

    Args:
        path: file to write.

    Raises:
        OSError: the disk is full or the folder cannot be written; the message names
            the file, the room left and what to do.

    Source: POSIX rename(2).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        try:
            yield temporary
            _to_disk(temporary)
            os.replace(temporary, path)
        except OSError as error:
            raise explain(error, path) from error


def _to_disk(path):
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def explain(error, path):
    """An OSError of the same kind that names `path` and the room left.

    Args:
        error: OSError met while writing. path: the file or folder.

    Source: errno of POSIX write(2).
    """
    folder = Path(path).parent
    free = shutil.disk_usage(folder).free / 2**20 if folder.is_dir() else 0
    full = error.errno == errno.ENOSPC or "No space left" in str(error)
    cause = "the disk is full" if full else (error.strerror or str(error))
    return OSError(
        errno.ENOSPC if full else error.errno,
        f"Could not write {path}: {cause} ({free:.0f} MiB free). Nothing was replaced; "
        "free some room or choose another folder and run the same command again",
    )
