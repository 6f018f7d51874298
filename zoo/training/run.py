"""The folder of a training: what is in it, and whether a command belongs to it.

    run.json      recipe, classes and videos: the identity of the run
    history.csv   one row per epoch
    logs/         TensorBoard
    best/         the best epoch so far, a model folder for zoo.load and zoo evaluate
    last/         the last epoch, written when training has ended
    resume/       weights and optimiser after the latest epoch

Source: the layout is ours.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
from pathlib import Path

from zoo.files import replacing

FORMAT = 3


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Paths inside a run folder (our layout)."""

    path: Path

    @property
    def identity(self):
        """What this run is (our format)."""
        return self.path / "run.json"

    @property
    def history(self):
        """One row per epoch (CSVLogger's format)."""
        return self.path / "history.csv"

    @property
    def logs(self):
        """For TensorBoard."""
        return self.path / "logs"

    @property
    def best(self):
        """Model folder of the best epoch."""
        return self.path / "best"

    @property
    def last(self):
        """Model folder of the last epoch."""
        return self.path / "last"

    @property
    def resume(self):
        """Snapshots to resume from."""
        return self.path / "resume"


def open_run(path, identity):
    """The run folder at `path`, once it is sure that nothing else is in it.

    Only the number of epochs may differ: a finished run can be trained on. Nothing is
    written yet, see `begin`; names with a leading dot do not count as content.

    Args:
        path: of the folder. identity: dict of plain data, see `identity_of`.

    Returns:
        The `RunFolder`.

    Raises:
        ValueError: the folder holds something else; the message names the differences.

    Source: ours.
    """
    run = RunFolder(Path(path))
    wanted = json.loads(json.dumps(identity))
    if run.identity.is_file():
        _require_same(run, wanted)
    elif run.path.exists() and (not run.path.is_dir() or _content(run.path)):
        raise ValueError(
            f"{run.path} exists, but is no folder of a training (it has no run.json); "
            "choose a new or empty folder."
        )
    return run


def begin(run, identity):
    """Writes run.json, after everything else has been found in order.

    Args:
        run: the `RunFolder`. identity: as for `open_run`.

    Source: ours.
    """
    with replacing(run.identity) as temporary:
        temporary.write_text(json.dumps(identity, indent=2) + "\n")


@contextlib.contextmanager
def held(run):
    """Keeps other processes from training in the same folder meanwhile.

    Args:
        run: the `RunFolder`, begun.

    Raises:
        ValueError: another process is training there.

    Source: flock(2), which ends with its process, however that ends.
    """
    with open(run.path / ".lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"Another process is training in {run.path}; wait for it, or choose "
                "another folder."
            ) from error
        yield


def _content(folder):
    # A process killed while it wrote run.json leaves a hidden folder.
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def identity_of(recipe, videos, validation, seed, flow=None):
    """Everything that the course of a training depends on, devices apart.

    Args:
        recipe: the `Recipe`. videos, validation: `VideoList`s, the latter or None.
        seed: of all that is random. flow: source of optical flow, or None.

    Source: ours.
    """
    return {
        "format": FORMAT,
        **dataclasses.asdict(recipe),
        "classes": list(videos.class_names),
        "videos": _digest(videos),
        "validation": None if validation is None else _digest(validation),
        "seed": seed,
        "flow": None if flow is None else flow.name,
    }


def detector_identity(recipe, videos, stills, seed):
    """The same of a detector's training.

    Args:
        recipe: the `DetectionRecipe`. videos: an ImageNetVID.
        stills: an ImageNetDET, or None. seed: of all that is random.

    Source: ours.
    """
    return {
        "format": FORMAT,
        **dataclasses.asdict(recipe),
        "classes": list(videos.class_names),
        "videos": _digest_of([video.name for video in videos.videos]),
        "stills": None if stills is None else _still_digest(stills),
        "seed": seed,
    }


def _still_digest(stills):
    return _digest_of([Path(frame.path).name for frame in stills.stills])


def _digest_of(names):
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    return f"{len(names)}, {digest}"


def _digest(videos):
    """Number of videos, and a hash of file and class names; folders may move."""
    names = [Path(path).name for path in videos.paths]
    classes = [videos.class_names[label] for label in videos.labels]
    rows = "\n".join(f"{n}\t{c}" for n, c in zip(names, classes, strict=True))
    return f"{len(names)} videos, {hashlib.sha256(rows.encode()).hexdigest()[:16]}"


def _require_same(run, wanted):
    try:
        found = json.loads(run.identity.read_text())
        keys = dict.fromkeys([*found, *wanted])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{run.identity} is not readable: {error}.") from error
    differing = [
        f"{key} {found.get(key)!r}, now {wanted.get(key)!r}"
        for key in keys
        if key != "epochs" and found.get(key) != wanted.get(key)
    ]
    if differing:
        raise ValueError(
            f"{run.path} holds another training: it began with "
            f"{'; '.join(differing)}. Choose another folder, or repeat the command "
            "that began it to resume."
        )
