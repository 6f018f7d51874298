"""The record of what a folder of flow holds: ``manifest.jsonl``, one video per line.

A line is appended when a video is in its place, so a killed run loses none; a line
that a kill cut short is dropped. At the end of a run the lines are sorted by name.

Source: our own; the released folders have no such record.
"""

import json
import os
from pathlib import Path

from zoo.files import explain, replacing

NAME = "manifest.jsonl"


class Manifest:
    """The entries of a folder of flow, by the name of the video.

    Attributes:
        path: Of the file.
        entries: {name: entry}, entry as ``zoo.datasets.extraction.one_video`` makes it.
    """

    def __init__(self, folder):
        """Reads the manifest of a folder, which may have none.

        Args:
            folder: Of the flow.

        Raises:
            ValueError: If a line is no entry.
        """
        self.path = Path(folder) / NAME
        self.entries = {}
        self._whole = 0  # bytes of complete lines
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        self._whole = data.rfind(b"\n") + 1
        for number, line in enumerate(data[: self._whole].splitlines(), 1):
            entry = self._entry(number, line)
            self.entries[entry["video"]] = entry

    def _entry(self, number, line):
        try:
            entry = json.loads(line)
            if {"video", "verdict", "source", "settings"} <= set(entry):
                return entry
        except (ValueError, TypeError):
            entry = None
        raise ValueError(
            f"{self.path}, line {number}: not an entry of zoo flow; restore the file, "
            "or extract to another folder."
        )

    def append(self, entry):
        """Adds an entry, on the disk when this returns; a later one wins.

        Args:
            entry: Plain data.

        Raises:
            WriteError: If it can't be written.
        """
        data = _line(entry)
        try:
            with open(self.path, "ab") as stream:
                stream.truncate(self._whole)
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise explain(error, self.path) from error
        self._whole += len(data)
        self.entries[entry["video"]] = entry

    def tidy(self):
        """Writes the file anew, one line per video, sorted.

        Raises:
            WriteError: If it can't be written; the earlier file stays.
        """
        data = b"".join(_line(self.entries[name]) for name in sorted(self.entries))
        if self.path.exists() and self.path.read_bytes() == data:
            return
        with replacing(self.path) as temporary:
            temporary.write_bytes(data)
        self._whole = len(data)


def _line(entry):
    return json.dumps(entry, sort_keys=True).encode() + b"\n"
