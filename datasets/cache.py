"""Decoded videos and their flow kept in memory, for sets of small or short videos.

Source: our own; thesis 3.3.5 keeps decoded frames and flow on disk.
"""

import threading

import numpy as np

from zoo.datasets.video import read_video


class CacheFull(ValueError):
    """The videos don't fit into the memory that a FrameCache was given."""


class FrameCache:
    """Whole decoded videos in memory, for sets of small or short videos.

    Several datasets may share one, training and test alike: a video decodes once for
    every shorter side asked for. Cached videos are decoded to their end, so damage
    anywhere makes them bad, and the count of frames is always the true one. Of a
    video whose flow is asked for, all fields are kept as well.
    """

    def __init__(self, max_bytes=2**30):
        """Makes an empty cache.

        Args:
            max_bytes: Bound on the arrays held, in bytes.
        """
        self._max_bytes = max_bytes
        self._arrays = {}
        self._bytes = 0
        self._lock = threading.Lock()
        self._gates = {}

    @property
    def bytes(self):
        """Bytes of the arrays held."""
        return self._bytes

    def frames(self, path, shorter_side=None):
        """Returns all frames of a video, uint8 [T, H, W, 3], not to be written to.

        Raises:
            VideoError: If the video is bad.
            CacheFull: If the video doesn't fit into the bound.
        """

        def read():
            return read_video(path, shorter_side=shorter_side, strict=True).frames

        return self._array(path, (path, shorter_side), read)

    def fields(self, path, source, shorter_side=None):
        """Returns all fields of flow as codes, uint8 [T - 1, H, W, 2].

        Args:
            path: The video file.
            source: A ``zoo.datasets.flow`` source.
            shorter_side: Of the frames that flow is computed from.

        Raises:
            VideoError: If the video or its flow is bad.
            CacheFull: If they don't fit into the bound.
        """

        def read():
            if not source.needs_frames:
                return source.fields(path, range(source.count(path)))
            frames = self.frames(path, shorter_side)
            pairs = zip(frames[:-1], frames[1:], strict=True)
            return np.stack([source.between(*pair) for pair in pairs])

        return self._array(path, (path, shorter_side, str(source)), read)

    def _array(self, path, key, read):
        """The array of a key, read the first time."""
        with self._lock:
            gate = self._gates.setdefault(key, threading.Lock())
        with gate:  # a second thread waits instead of doing the same work
            if key not in self._arrays:
                array = read()
                self._claim(path, array.nbytes)
                array.flags.writeable = False
                self._arrays[key] = array
            return self._arrays[key]

    def _claim(self, path, count):
        """Books memory for a video, or raises CacheFull."""
        with self._lock:
            if self._bytes + count > self._max_bytes:
                raise CacheFull(
                    f"{path}: {count} bytes of frames don't fit into the cache, which "
                    f"holds {self._bytes} of max_bytes={self._max_bytes} in "
                    f"{len(self._arrays)} video(s). Raise max_bytes "
                    "(zoo train --cache_mib), lower shorter_side or do without the "
                    "cache."
                )
            self._bytes += count
