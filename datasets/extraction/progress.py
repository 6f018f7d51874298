"""How far an extraction is: one line that changes on a terminal, else one now and then.

Source: our own.
"""

import sys
import time

EVERY = 10.0
"""Seconds between lines where they aren't overwritten."""


class Progress:
    """Counts videos and fields, and says so.

    The time left is estimated by the bytes of the videos, since the number of their
    frames isn't known before they are decoded.
    """

    def __init__(self, sizes, stream=None, clock=time.monotonic):
        """Begins to count.

        Args:
            sizes: {job: bytes of its file}.
            stream: Text stream; None takes standard error.
            clock: Gives seconds.
        """
        self._sizes, self._total = sizes, len(sizes)
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._clock = clock
        self._start = self._said = clock()
        self._left = sum(sizes.values())
        self._bytes = self._left
        self.videos = self.failed = self.fields = 0

    @property
    def seconds(self):
        """Seconds since the beginning."""
        return self._clock() - self._start

    def tick(self, fields):
        """Counts fields.

        Args:
            fields: Number of new ones.
        """
        self.fields += fields
        self._say(0.5 if self._terminal else EVERY)

    def done(self, job, failed):
        """Counts a video.

        Args:
            job: As in ``sizes``.
            failed: Whether it failed.
        """
        self.videos += 1
        self.failed += failed
        self._left -= self._sizes[job]
        self._say(0.5 if self._terminal else EVERY)

    def warn(self, text):
        """Prints a line above."""
        self.close()
        print(text, file=self._stream, flush=True)

    def close(self):
        """Ends the line of a terminal."""
        if self._terminal:
            print("\r\x1b[K", end="", file=self._stream, flush=True)

    def line(self):
        """The line as it stands."""
        seconds = max(self.seconds, 1e-9)
        parts = [f"{self.videos}/{self._total} videos"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        parts.append(f"{self.fields / seconds:.1f} fields/s")
        done = self._bytes - self._left
        if 0 < done < self._bytes:
            parts.append(f"{_duration(seconds * self._left / done)} left")
        return ", ".join(parts)

    def _say(self, every):
        if self._clock() - self._said < every:
            return
        self._said = self._clock()
        start, end = ("\r", "\x1b[K") if self._terminal else ("zoo flow: ", "\n")
        bar = f"{self._bar()} " if self._terminal else ""
        print(start + bar + self.line(), end=end, file=self._stream, flush=True)

    def _bar(self, width=20):
        done = width * (self._bytes - self._left) // max(self._bytes, 1)
        return f"[{'#' * done}{'.' * (width - done)}]"


def _duration(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
