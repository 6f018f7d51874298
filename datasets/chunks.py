"""Reading what networks see of a video: RGB frames and the stacks of flow around them.

A chunk is a frame t with its stack of flow, the fields t - 5 ... t + 4. A clip is
several chunks; the frames are chosen by the caller, here they and their flow are read,
from files, computed, or from a cache, and brought to one size.

Source: thesis 2.3, 3.3.3 (chunks) and 3.3.5.
"""

import dataclasses

import cv2
import numpy as np

from zoo.datasets.flow import centres, stack, stack_fields, to_pixels
from zoo.datasets.video import VideoError, read_video

INPUTS = (("rgb",), ("flow",), ("flow", "rgb"))
# Of the aspect ratios of frames and flow, which are both rounded to whole pixels.
ASPECT_TOLERANCE = 0.03


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads the chunks of any video.

    Attributes:
        inputs: What is read, some of "rgb" and "flow".
        flow: A ``zoo.datasets.flow`` source where "flow" is read.
        shorter_side: Shrinks larger frames to this shorter side, and larger stored
            flow alike, its displacements too; None keeps all.
        cache: A FrameCache, or None.
        verify_count: Whether the choice of frames must rest on the decoded count, see
            ``zoo.datasets.video.read_video``.
        on_damage: Called with the path and the Video of a damaged file, of which the
            frames before the damage are then used; None makes it a bad video.

    Raises:
        ValueError: Unknown inputs, or no source for "flow".
    """

    inputs: tuple = ("rgb",)
    flow: object = None
    shorter_side: int | None = None
    cache: object = None
    verify_count: bool = True
    on_damage: object = None

    def __post_init__(self):
        object.__setattr__(self, "inputs", tuple(sorted(self.inputs)))
        if self.inputs not in INPUTS:
            raise ValueError(
                f"inputs must be one or both of 'rgb' and 'flow', got {self.inputs}."
            )
        if "flow" in self.inputs and self.flow is None:
            raise ValueError(
                "This network sees optical flow, but no source of it was given: a "
                "folder of stored flow or a method (zoo --flow, "
                "zoo.datasets.flow.flow_source)."
            )

    def read(self, path, choose):
        """Reads the chunks that ``choose`` picks.

        Args:
            path: The video file.
            choose: Function from a number of frames to frame numbers, [T]. Where flow
                is read it's given the number of frames that have a stack around them,
                and its choice counts from the first of those.

        Returns:
            Dict of the inputs: "rgb" uint8 [T, H, W, 3], and "flow" float32
            [T, H, W, 20] in pixels of these frames, of equal size.

        Raises:
            VideoError: If the video or its flow is bad, or their sizes don't match.
        """
        try:
            clip = self._read(path, choose)
        except VideoError as error:
            if str(path) in str(error):
                raise
            raise VideoError(f"{path}: {error}") from error
        if len(clip) == 2:
            clip["rgb"] = _resized(path, clip["rgb"], clip["flow"].shape[1:3])
        return clip

    def _read(self, path, choose):
        if "flow" not in self.inputs:
            return {"rgb": self._frames(path, choose)}
        choose = _around(choose)
        if not self.flow.needs_frames:
            return self._stored(path, choose)
        if self.cache is not None:
            return self._cached(path, choose)
        return self._computed(path, choose)

    def _frames(self, path, choose):
        if self.cache is not None:
            frames = self.cache.frames(path, self.shorter_side)
            return frames[choose(len(frames))]
        return self._video(path, choose, self.verify_count).frames

    def _video(self, path, choose, verify_count):
        video = read_video(
            path,
            choose,
            verify_count=verify_count,
            shorter_side=self.shorter_side,
            strict=self.on_damage is None,
        )
        if video.damage:
            self.on_damage(path, video)
        return video

    def _stored(self, path, choose):
        """Reads fields from files; without "rgb" the video itself isn't opened."""
        if self.cache is not None:
            codes = self.cache.fields(path, self.flow)
            count = len(codes)
        else:
            codes, count = None, self.flow.count(path)
        clip = {}
        if "rgb" in self.inputs:
            chosen, clip["rgb"] = self._frames_beside(path, count, choose)
        else:
            chosen = choose(count + 1)
        fields = stack_fields(chosen, count)
        wanted, places = np.unique(fields, return_inverse=True)
        codes = self.flow.fields(path, wanted) if codes is None else codes[wanted]
        stacks = _stacks(codes, places.reshape(fields.shape))
        return {"flow": _shrunk(stacks, self.shorter_side), **clip}

    def _frames_beside(self, path, fields, choose):
        """Chosen numbers and frames of a video of which so many fields are stored.

        Where the header's number of frames doesn't go with the fields, the decoded
        one decides: headers may be wrong, and so may folders of flow.
        """
        if self.cache is not None:
            frames = self.cache.frames(path, self.shorter_side)
            _require_agreement(fields, len(frames))
            chosen = choose(min(len(frames), fields + 1))
            return chosen, frames[chosen]
        chosen = None

        def numbers(count):
            nonlocal chosen
            agree = _agree(fields, count)
            chosen = choose(min(count, fields + 1)) if agree else np.array([0])
            return chosen

        video = self._video(path, numbers, self.verify_count)
        if not video.complete and not _agree(fields, video.declared):
            video = self._video(path, numbers, True)
        if video.complete:
            _require_agreement(fields, video.decoded)
        return chosen, video.frames

    def _cached(self, path, choose):
        frames = self.cache.frames(path, self.shorter_side)
        chosen = choose(len(frames))
        codes = self.cache.fields(path, self.flow, self.shorter_side)
        clip = {"flow": _stacks(codes, stack_fields(chosen, len(codes)))}
        return {**clip, "rgb": frames[chosen]} if "rgb" in self.inputs else clip

    def _computed(self, path, choose):
        """Decodes the chosen frames and those that their fields lie between."""
        choice = {}

        def needed(count):
            choice["frames"] = chosen = np.asarray(choose(count))
            choice["fields"] = fields = stack_fields(chosen, count - 1)
            return np.unique(
                np.concatenate([chosen, fields.ravel(), fields.ravel() + 1])
            )

        video = self._video(path, needed, self.verify_count)
        place = {number: i for i, number in enumerate(video.indices.tolist())}
        wanted, places = np.unique(choice["fields"], return_inverse=True)
        codes = np.stack(
            [
                self.flow.between(video.frames[place[i]], video.frames[place[i + 1]])
                for i in wanted.tolist()
            ]
        )
        clip = {"flow": _stacks(codes, places.reshape(choice["fields"].shape))}
        if "rgb" in self.inputs:
            clip["rgb"] = video.frames[[place[i] for i in choice["frames"].tolist()]]
        return clip


def _around(choose):
    """The choice among frames that have a whole stack, as frame numbers."""

    def chosen(count):
        try:
            first, number = centres(count)
        except ValueError as error:
            raise VideoError(str(error)) from error
        return first + np.asarray(choose(number))

    return chosen


def _agree(fields, frames):
    """Whether fields lie between so many frames; some extractors repeat the last."""
    return fields in (frames - 1, frames)


def _require_agreement(fields, frames):
    if not _agree(fields, frames):
        raise VideoError(
            f"{fields} fields of flow belong to {fields + 1} frames, the video has "
            f"{frames}; extract its flow again"
        )


def _stacks(codes, places):
    """Codes [N, H, W, 2] and places [T, 10] among them -> pixels [T, H, W, 20]."""
    return to_pixels(stack(codes[places]))


def _shrunk(flow, shorter_side):
    """Stacks of flow with at most a shorter side, in pixels of the new size.

    So stored flow is what would be computed from frames read at that size, whatever
    the size it was stored at.
    """
    height, width = flow.shape[1:3]
    if shorter_side is None or min(height, width) <= shorter_side:
        return flow
    scale = shorter_side / min(height, width)
    size = round(width * scale), round(height * scale)
    small = np.stack([cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in flow])
    ratios = np.float32([size[0] / width, size[1] / height])
    return small * np.tile(ratios, flow.shape[-1] // 2)


def _resized(path, frames, size):
    """RGB frames in the size of the flow, which was stored at a size of its own."""
    height, width = frames.shape[1:3]
    if (height, width) == tuple(size):
        return frames
    apart = abs(np.log(width * size[0] / (height * size[1])))
    if apart > ASPECT_TOLERANCE:
        raise VideoError(
            f"{path}: its frames are {width}x{height} and its flow "
            f"{size[1]}x{size[0]}, which isn't the same picture; extract it again."
        )
    smaller = size[0] < height
    how = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.stack([cv2.resize(f, size[::-1], interpolation=how) for f in frames])
