"""What a network sees of a video file: frames and flow as arrays, for looking into it.

Evaluation runs the view of a video and the network as one; to look into a network,
what it is given must be held apart.

Source: thesis 7.3.3 for the view of a video.
"""

import tensorflow as tf
from keras import ops

from zoo.datasets import Reader, VideoError
from zoo.datasets.sampling import test_indices
from zoo.layers import ClipView, FlowStack
from zoo.models.plain_rgb import flow_stack_of, network_of
from zoo.models.testing import MAX_VIEW_PIXELS, inputs_of


class View:
    """From a video to the inputs of a network, as in `zoo evaluate` without mirror.

    Attributes:
        network: the model, without the layer that computes flow where it has one.
        frames, shorter_side: of the view.
        inputs: what is read of a video, some of "rgb" and "flow".
        takes: how many frames are read; None for all, to compute flow from them.

    Source: thesis 7.3.3.
    """

    def __init__(self, model, frames=16, shorter_side=256):
        """Prepares the view.

        Args:
            model: a classifier of the zoo, also one of `zoo.models.plain_rgb`.
            frames, shorter_side: how many equally spaced frames, and their size.
        """
        self._stack = flow_stack_of(model)
        self.network = network_of(model)
        self.frames, self.shorter_side = frames, shorter_side
        self.inputs = ("rgb",) if self._stack else inputs_of(self.network)
        self.takes = None if self._stack else frames

    def reader(self, flow=None, on_damage=None):
        """The `zoo.datasets.Reader` of what this network sees (thesis 3.3.5).

        Args:
            flow: source of optical flow. on_damage: told of damaged videos, or None to
                refuse them.

        Raises:
            ValueError: the network sees flow and there is no source of it.
        """
        has_flow = "flow" in self.inputs or self._stack
        side = self.shorter_side if has_flow else None
        return Reader(self.inputs, flow, shorter_side=side, on_damage=on_damage)

    def choose(self, count):
        """Numbers of the frames that are read, of a video of `count` frames (7.3.3)."""
        return test_indices(count, self.takes or count)

    def __call__(self, clip):
        """Inputs of the network by name, float32 [T, H', W', C] each.

        Args:
            clip: what the reader has read, {"rgb": [T, H, W, 3], ...}.

        Raises:
            VideoError: frames too thin, or too few of them to compute flow.
        """
        self._check(next(iter(clip.values())).shape)
        views = {
            kind: ClipView(None, self.shorter_side, kind == "flow")(x[None])
            for kind, x in clip.items()
        }
        if self._stack:
            settings = {**self._stack.get_config(), "positions": self.frames}
            # As a graph, for its thousands of small steps.
            views = tf.function(FlowStack.from_config(settings))(views["rgb"])
        return {
            kind: ops.convert_to_numpy(views[kind])[0]
            for kind in inputs_of(self.network)
        }

    def _check(self, shape):
        count, height, width = shape[:3]
        if self._stack and count < 2:
            raise VideoError(
                f"optical flow needs at least 2 frames, the video has {count}"
            )
        shorter, longer = sorted((height, width))
        pixels = count * self.shorter_side * (self.shorter_side * longer // shorter)
        if pixels > MAX_VIEW_PIXELS:
            raise VideoError(
                f"{count} frames of {width} x {height} pixels, resized to a shorter "
                f"side of {self.shorter_side}, have {pixels} pixels, accepted are "
                f"{MAX_VIEW_PIXELS}; cut or crop the video"
            )
