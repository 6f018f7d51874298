"""Publishing a folder whole or not at all: <parent>/<version>/.

Everything is written into a hidden folder beside the final one and renamed at the
end, so a server that watches the parent never sees half a model. A process that is
killed leaves its hidden folder behind; the next one that publishes there removes it.

Source: the directory layout of TensorFlow Serving (integer folders are versions, all
others are ignored), tensorflow.org/tfx/serving/serving_config; rename(2), flock(2).
"""

import contextlib
import dataclasses
import errno
import os
import re
import shutil
from pathlib import Path

from zoo.files import hidden_folder, locked, to_disk

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
    try:
        with hidden_folder(parent, PREFIX) as temporary:
            publication = Publication(temporary)
            yield publication
            publication.path = _rename(temporary, parent, version)
    except BaseException as error:
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


@dataclasses.dataclass
class Publication:
    """One folder on its way to being published; see `publishing`.

    Attributes:
        temporary: to write into. path: where it has been published, None before.

    Source: rename(2).
    """

    temporary: Path
    path: Path | None = None


def _rename(temporary, parent, version):
    """Gives a complete folder its final name, `<parent>/<version>`."""
    # mkdtemp's folder is private; a server often runs as another user.
    os.chmod(temporary, 0o777 & ~_umask())
    _all_to_disk(temporary)
    with locked(parent):
        if version is None:
            version = max(versions(parent), default=0) + 1
        require_free(parent, version)
        path = parent / str(version)
        os.rename(temporary, path)
    to_disk(parent)
    return path


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


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _all_to_disk(folder):
    for root, _, names in os.walk(folder):
        for name in names:
            to_disk(os.path.join(root, name))
        to_disk(root)
