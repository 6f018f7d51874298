"""Frames of any number to detections and tracks, a few frames in memory at a time.

Source: thesis 8.5.2: "our architecture is applied to a sequence with temporal stride
tau, predicting detections D and tracklets T between them".
"""

import itertools

import numpy as np
import tensorflow as tf

from zoo.evaluation.evaluate import network_errors
from zoo.evaluation.tubes import FrameDetections, Tracklets

CHUNK = 8  # frames that pass the network at once, besides one of the chunk before


class FrameDetector:
    """Runs a network of candidates over the frames of a video, in chunks.

    Every frame passes the trunk once; of networks that track the last one of each chunk
    passes it again, since tracks go on from there to the next chunk.

    Args:
        network: of `zoo.models.object_detector.candidates`.
        stride: tau, every so many frames are looked at, and the last one besides, so
            that tubes reach the end of the video.
        chunk: frames in memory at once, besides the last of the chunk before.

    Raises:
        ValueError: a stride or a chunk below 1.

    Source: thesis 8.5.2, tau = 1 and 10 in Table 8.1.
    """

    def __init__(self, network, stride=1, chunk=CHUNK):
        for name, value in (("stride", stride), ("chunk", chunk)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"{name} must be a whole number of at least 1; got {value!r}."
                )
        self.stride = stride
        self.chunk = chunk
        self.tracks = "ends" in network.output
        spec = tf.TensorSpec([1, None, None, None, 3], tf.uint8)

        @tf.function(input_signature=[spec])
        def run(frames):
            return network(frames, training=False)

        self._run = run

    def __call__(self, frames):
        """Yields what is found in every frame that is looked at.

        Args:
            frames: iterable of uint8 RGB [H, W, 3], of one size.

        Yields:
            (`FrameDetections`, `Tracklets` from the frame before, or None at the first
            frame and for networks that do not track); boxes in pixels of the frames.

        Raises:
            ValueError: frames of another size than the first.
            NetworkError: TensorFlow could not compute it.

        Source: thesis 8.5.2.
        """
        seen = self._seen(frames)
        last, between = [], None
        while chunk := list(itertools.islice(seen, self.chunk)):
            given = [*last, *chunk]
            found = self._detect([frame for _, frame in given])
            for i in range(len(last), len(given)):
                if i:
                    between = self._tracklets(found, i - 1)
                yield self._detections(found, i, given[i][0]), between
            last = given[-1:] if self.tracks else []

    def _seen(self, frames):
        """(number, frame) of every tau-th frame and of the last one."""
        number, frame = 0, None
        for number, frame in enumerate(frames):
            if number % self.stride == 0:
                yield number, frame
        if number % self.stride:
            yield number, frame

    def _detect(self, frames):
        shapes = {np.shape(frame) for frame in frames}
        if len(shapes) > 1:
            raise ValueError(
                f"Frames of one video must have one size; got {sorted(shapes)}."
            )
        with network_errors("lower the chunk, or shrink the video"):
            outputs = self._run(np.stack(frames)[None])
        return {key: value.numpy()[0] for key, value in outputs.items()}

    def _detections(self, found, i, number):
        mask = found["mask"][i]
        return FrameDetections(
            number, found["boxes"][i][mask], found["probabilities"][i][mask]
        )

    def _tracklets(self, found, i):
        if not self.tracks:
            return None
        mask = found["mask"][i]
        return Tracklets(found["starts"][i][mask], found["ends"][i][mask])
