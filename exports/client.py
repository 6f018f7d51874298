"""A client of TensorFlow Serving: videos to a server, answers back.

    from zoo.exports.client import Client

    with Client("localhost:8500") as client:
        scenes = client.model("scenes", label="stable")
        outputs = scenes(clips)  # uint8 [B, T, H, W, 3]
        outputs = scenes.jpeg([files])  # JPEG files of a clip's frames, as bytes
        for window in scenes.stream(frames, length=64):  # of a long video
            print(window.first, window.outputs["labels"][0][0])

A request is sent again, after growing pauses, when nobody answers or the server has no
room (UNAVAILABLE), and on no other error. Everything is done with before its deadline.

Source: the signatures of `zoo.exports.export`; tensorflow.org/tfx/serving.
"""

import collections
import dataclasses
import random
import time
from concurrent import futures

import numpy as np

from zoo.exports.server_errors import (
    DeadlineExceeded,
    NotServed,
    RequestRefused,
    ServerError,
    Unavailable,
    server_error,
)
from zoo.exports.transports import TLS, Wanted, open_transport

__all__ = [
    "TLS",
    "Client",
    "DeadlineExceeded",
    "NotServed",
    "RequestRefused",
    "Retry",
    "ServedModel",
    "ServerError",
    "Unavailable",
    "Window",
    "encode_jpeg",
]


@dataclasses.dataclass(frozen=True)
class Retry:
    """How often a request is sent when the server is unavailable.

    Attributes:
        attempts: at most, the first one included. first: seconds before the second
            attempt; every later pause is twice as long, up to `largest`. Pauses are
            shortened by a random part of up to a half, so that many clients do not
            come back at once.

    Raises:
        ValueError: no attempt, or pauses below 0.

    Source: exponential backoff; grpc.io/docs/guides/retry for its form.
    """

    attempts: int = 5
    first: float = 0.2
    largest: float = 5.0

    def __post_init__(self):
        if self.attempts < 1 or self.first < 0 or self.largest < 0:
            raise ValueError(
                "A retry has at least 1 attempt and pauses of at least 0 seconds; got "
                f"{self}."
            )

    def pause(self, attempt):
        """Seconds after the attempt of a number, from 0 (exponential backoff)."""
        return min(self.largest, self.first * 2**attempt) * random.uniform(0.5, 1)


class Client:
    """A connection to a server; threads may share it.

    Args:
        address: "host:8500" for gRPC, which needs `spacetime-zoo[serving]`;
            "http://host:8501" or "https://..." for REST, which takes JPEG files only.
        timeout: seconds for a request with all its retries.
        retry: `Retry`. tls: `TLS` to encrypt gRPC, or for the certificates of https;
            None leaves gRPC in the clear.

    Raises:
        ValueError: another kind of address or number.
        ImportError: gRPC without its package.

    Source: tensorflow.org/tfx/serving.
    """

    def __init__(self, address, *, timeout=60.0, retry=None, tls=None):
        if not timeout > 0:
            raise ValueError(f"timeout must be above 0 seconds, got {timeout!r}.")
        self.timeout, self.retry = timeout, retry or Retry()
        self._transport = open_transport(address, tls)

    @property
    def address(self):
        """Of the server, as it was given."""
        return self._transport.address

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Ends the connection."""
        self._transport.close()

    def model(self, name, *, version=None, label=None):
        """A model of the server, a `ServedModel`; nothing is sent yet.

        Args:
            name: under which it is served. version: number, or None. label: such as
                "stable", or None; with neither, the highest version answers.
        """
        return ServedModel(self, Wanted(name, version, label))

    def call(self, what, *arguments):
        """What a transport does, with retries and a deadline.

        Args:
            what: "predict", "status" or "signatures". arguments: its own, without the
                timeout.

        Raises:
            ServerError: of the last attempt.
        """
        end, attempt = time.monotonic() + self.timeout, 0
        act = getattr(self._transport, what)
        while True:
            left = end - time.monotonic()
            if left <= 0:
                text = f"no answer in {self.timeout:.3g} s"
                raise server_error("DEADLINE_EXCEEDED", text, self.address)
            try:
                return act(*arguments, left)
            except Unavailable as error:
                pause = self.retry.pause(attempt)
                attempt += 1
                last = attempt == self.retry.attempts
                if last or time.monotonic() + pause >= end:
                    raise Unavailable(
                        error.code, f"{error} (sent {attempt} times)"
                    ) from error
                time.sleep(pause)


@dataclasses.dataclass(frozen=True)
class Window:
    """A part of a long video, and the server's answer.

    Attributes:
        first: number of its first frame. count: of its frames. outputs: {name: array}
            of one clip, [1, ...].

    Source: none; see `ServedModel.stream`.
    """

    first: int
    count: int
    outputs: dict


class ServedModel:
    """One model of a server, or one version of it.

    Args:
        client: the `Client`. wanted: `zoo.exports.transports.Wanted`.

    Source: the signatures of `zoo.exports.export`.
    """

    def __init__(self, client, wanted):
        self.client, self.wanted = client, wanted

    def __call__(self, clips=None, flow=None, frames=None):
        """Outputs of `serving_default` for a batch of clips, or of frames.

        Args:
            clips: uint8 [B, T, H, W, 3], RGB, any length and size.
            flow: float32 [B, T, H, W, 20], stacks of optical flow in pixels, for a
                model that sees flow.
            frames: uint8 [B, T, H, W, 3], RGB, for a detector.

        Returns:
            {"scores", "logits": [B, K]; "classes", "labels", "top_scores": [B, k]} as
            NumPy arrays, labels as str; of a detector those of
            `zoo.exports.detector.export_detector`.

        Raises:
            ServerError: of its kinds, what the server says.
        """
        given = {"clips": clips, "flow": flow, "frames": frames}
        inputs = {name: x for name, x in given.items() if x is not None}
        return self.predict(inputs)

    def jpeg(self, clips, outputs=()):
        """Outputs of the signature `jpeg`, those of `serving_default`.

        Args:
            clips: B clips of T JPEG files, bytes; see `encode_jpeg`. outputs: as for
                `predict`.

        Raises:
            ValueError: clips of different lengths. ServerError: what the server says.
        """
        return self.predict({"jpeg": clips}, "jpeg", outputs)

    def predict(self, inputs, signature="serving_default", outputs=()):
        """Outputs of any signature as {name: array}, strings as str.

        Args:
            inputs: {name: array}, or nested lists of bytes where strings are taken.
            signature: its name. outputs: names of those wanted; empty for all.

        Raises:
            ValueError: nested lists of unequal lengths, or over 2 GiB.
            ServerError: what the server says.
        """
        arrays = {name: _as_array(name, x) for name, x in inputs.items()}
        wanted = dataclasses.replace(self.wanted, signature=signature)
        found = self.client.call("predict", wanted, arrays, tuple(outputs))
        return {name: _text(array) for name, array in found.items()}

    def status(self):
        """{version: state}, such as {1: "AVAILABLE"} (TensorFlow Serving)."""
        return self.client.call("status", self.wanted)

    def signatures(self):
        """{signature: {"inputs" or "outputs": {name: (type, shape)}}}.

        Shapes have None where any size is taken (TensorFlow Serving's metadata).
        """
        return self.client.call("signatures", self.wanted)

    def stream(
        self, frames, length=64, step=None, in_flight=4, signature=None, name="clips"
    ):
        """Answers for windows of a long video, one after the other, as they come.

        Frames are taken as they are needed: at most `in_flight` windows are on their
        way, and no more are kept.

        Args:
            frames: iterable of uint8 [H, W, 3], all of a size, or of JPEG files as
                bytes. length: frames of a window. step: from the first frame of one
                to that of the next; None for `length`. in_flight: requests at once.
            signature: None for `jpeg` if the frames are bytes, else `serving_default`.
            name: of the input that takes arrays, "frames" of a detector.

        Yields:
            A `Window` each, in order. The last one may be shorter.

        Raises:
            ValueError: a number below 1, or no frames.
            ServerError: what the server says of the window that comes next.
        """
        step = length if step is None else step
        for number, value in {
            "length": length,
            "step": step,
            "in_flight": in_flight,
        }.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{number} must be at least 1, got {value!r}.")
        windows = _windows(frames, length, step)
        return self._stream(windows, in_flight, signature, name)

    def _stream(self, windows, in_flight, signature, name):
        pool = futures.ThreadPoolExecutor(in_flight, "zoo-client")
        waiting = collections.deque()
        try:
            for first, window in windows:
                sent = pool.submit(self._window, window, signature, name)
                waiting.append((first, len(window), sent))
                del window
                if len(waiting) == in_flight:
                    yield _done(*waiting.popleft())
            while waiting:
                yield _done(*waiting.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _window(self, window, signature, name):
        if isinstance(window[0], bytes):
            return self.predict({"jpeg": [window]}, signature or "jpeg")
        clip = np.stack(window)[None]
        return self.predict({name: clip}, signature or "serving_default")


def _done(first, count, sent):
    return Window(first, count, sent.result())


def _windows(frames, length, step):
    """(number of the first frame, list of frames) of each window.

    A last window that is shorter comes only with frames that no other holds.
    """
    kept, first, new = [], 0, 0
    count = 0
    for frame in frames:
        count += 1
        if count > first:  # else between two windows
            kept.append(frame)
            new += 1
        if len(kept) == length:
            yield first, kept
            kept, first, new = kept[step:], first + step, 0
    if not count:
        raise ValueError("The video has no frames; there is nothing to send.")
    if new:
        yield first, kept


def _as_array(name, value):
    """An array; strings as objects, since NumPy's own cut off zeros at their end."""
    if isinstance(value, np.ndarray):
        return value.astype(object) if value.dtype.kind in "SU" else value
    if not isinstance(value, list | tuple):
        return np.asarray(value)
    shape, level = [], value
    while isinstance(level, list | tuple):
        shape.append(len(level))
        level = level[0] if level else None
    if not isinstance(level, bytes | str | None):
        return np.asarray(value)
    flat = []
    _flatten(name, value, shape, flat)
    array = np.empty(len(flat), object)
    array[:] = flat
    return array.reshape(shape)


def _flatten(name, value, shape, flat):
    if not isinstance(value, list | tuple):
        flat.append(value)
        return
    if not shape or len(value) != shape[0]:
        raise ValueError(
            f"`{name}` must have as many frames in every clip; got {len(value)} where "
            f"the first has {shape[0] if shape else 'none'}."
        )
    for item in value:
        _flatten(name, item, shape[1:], flat)


def _text(array):
    if array.dtype != object:
        return array
    return np.char.decode(array.astype("S"), "utf-8")


def encode_jpeg(frames, quality=95):
    """JPEG files of frames, as bytes.

    Colour is stored in full resolution, so that a frame of text or lines stays sharp.

    Args:
        frames: uint8 [T, H, W, 3], RGB. quality: 1 to 100.

    Returns:
        A list of T files.

    Source: tf.io.encode_jpeg.
    """
    import tensorflow as tf

    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(
            f"Frames are uint8 [T, H, W, 3], RGB; got {frames.dtype} of shape "
            f"{frames.shape}."
        )
    options = {"format": "rgb", "quality": quality, "chroma_downsampling": False}
    with tf.device("/CPU:0"):
        return [tf.io.encode_jpeg(frame, **options).numpy() for frame in frames]
