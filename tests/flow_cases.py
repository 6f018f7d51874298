"""Videos and methods of flow for the tests of its extraction."""

import dataclasses
import errno
import os
import signal
from pathlib import Path

import numpy as np

from tests import video_files


def moving(count, height=48, width=64, seed=0, step=2):
    """uint8 [count, H, W, 3]: a coarse texture that moves right by `step` pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    image = coarse.repeat(8, 0).repeat(8, 1)
    return np.stack([np.roll(image, step * i, axis=1) for i in range(count)])


def write_videos(root, per_class=2, count=12, **options):
    """Two classes of videos of different lengths; returns their folder."""
    for c, name in enumerate(("run", "walk")):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            frames = moving(count + i, seed=10 * c + i, **options)
            video_files.write(root / name / f"v{i}.avi", frames, "mpeg4", 0)
    return root


def files_of(folder):
    """{relative path: bytes} of all files but the lock."""
    paths = (p for p in Path(folder).rglob("*") if p.is_file() and p.name != ".lock")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


@dataclasses.dataclass(frozen=True)
class Standin:
    """A method that gives the same displacement everywhere, and may misbehave.

    Attributes:
        u, v: the displacement. log: a file that gets a line per batch. fatal: mean
            brightness of frames at which the process kills itself. full: whether the
            disk is said to be full.
    """

    u: float = 1.0
    v: float = -2.0
    log: str | None = None
    fatal: float | None = None
    full: bool = False
    name = "standin"
    batch = 4
    processes = None

    @property
    def parameters(self):
        """Plain data."""
        return {"u": self.u, "v": self.v}

    def open(self):
        """Itself."""
        return self

    def between(self, firsts, seconds):
        """Constant fields."""
        assert firsts.shape == seconds.shape and firsts.dtype == np.uint8
        if self.fatal is not None and abs(firsts.mean() - self.fatal) < 4:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.log:
            with open(self.log, "a") as stream:
                stream.write(f"{len(firsts)}\n")
        return np.float32([self.u, self.v]) + np.zeros((*firsts.shape[:3], 2), "f4")


class Broken(Standin):
    """A method that cannot start."""

    def open(self):
        """Fails."""
        raise ValueError("no such device")


@dataclasses.dataclass(frozen=True)
class DiesAtStart(Standin):
    """A method whose first processes end before they begin.

    Attributes:
        folder: each leaves a file there. deaths: how many of them die.
    """

    folder: str = ""
    deaths: int = 1

    def open(self):
        """Itself, or the end of the process."""
        for i in range(self.deaths):
            try:
                os.close(os.open(f"{self.folder}/{i}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            os._exit(3)
        return self
