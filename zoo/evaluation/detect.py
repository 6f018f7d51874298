"""A detector on the videos of ImageNet VID: average precision of frames and of tubes.

One pass over the frames serves every row of thesis Table 8.1: detections of single
frames, after suppression; boxes of tubes that are linked over the whole video; and
boxes of tubes that are linked frame by frame, without looking ahead.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from zoo.datasets.imagenet_annotations import AnnotationError
from zoo.evaluation.candidates import reduce
from zoo.evaluation.detection import Detections, VidEvaluation, VidResults, motion_iou
from zoo.evaluation.online_tubes import OnlineLinker
from zoo.evaluation.report import markdown
from zoo.evaluation.tracker import FrameDetector
from zoo.evaluation.tube_frames import by_frame, gather, interpolate
from zoo.evaluation.tubes import LinkOptions, TubeLinker

# Of single frames (thesis 8.5.2): "For testing we apply NMS with IoU threshold of 0.3".
FRAMES = LinkOptions(
    suppression=0.3, keep=300, voting=None, alpha=None, min_score=0.001
)
METHODS = ("frames", "tubes", "online")


@dataclasses.dataclass(frozen=True, eq=False)
class DetectionResults:
    """Average precision of one detector by every method.

    Attributes:
        stride: tau. methods: {"frames", "tubes", "online": `VidResults`}.
        videos: how many. frames: how many were evaluated.

    Source: thesis Table 8.1.
    """

    stride: int
    methods: dict[str, VidResults]
    videos: int
    frames: int

    def to_dict(self):
        """Plain data for JSON (thesis Table 8.1)."""
        results = {name: found.to_dict() for name, found in self.methods.items()}
        return {
            "stride": self.stride,
            "videos": self.videos,
            "frames": self.frames,
            "methods": results,
        }

    def table(self):
        """Mean average precision in per cent, a row per method, as Markdown (8.1)."""
        speeds = ("all", "slow", "medium", "fast")
        rows = [
            [name, *(found.mean(speed) for speed in speeds)]
            for name, found in self.methods.items()
        ]
        head = f"tau = {self.stride}, mAP"
        return markdown([head, *speeds], rows)


@dataclasses.dataclass(frozen=True, eq=False)
class VideoBoxes:
    """What a detector finds in a video, and what is there.

    Attributes:
        name: of the video. objects: {frame: annotated objects}.
        boxes: {method: {frame: boxes with labels and scores}}.
        seen: numbers of the frames that the network has looked at.

    Source: thesis 8.5.2.
    """

    name: str
    objects: dict
    boxes: dict
    seen: frozenset


def evaluate_detector(network, videos, stride=1, options=LinkOptions()):  # noqa: B008
    """Average precision of a detector on annotated videos.

    At a stride tau above 1 the network sees every tau-th frame, and the last one;
    single frames are then evaluated where it has looked, and tubes everywhere, with
    boxes on a line between.

    Args:
        network: of `zoo.models.object_detector.candidates`.
        videos: a `zoo.datasets.ImageNetVID` of an annotated subset.
        stride: tau. options: `LinkOptions` of the tubes.

    Returns:
        `DetectionResults`; of a network that does not track, tubes are linked by the
        scores alone.

    Raises:
        AnnotationError: a frame without a good annotation, or that cannot be decoded;
            none is left out.
        ValueError: a class of the network that the videos lack, or the reverse.

    Source: thesis 8.5.1 and Table 8.1.
    """
    found = boxes_of(network, videos, stride, options)
    return precision(found, videos.class_names, stride)


def boxes_of(network, videos, stride=1, options=LinkOptions()):  # noqa: B008 (frozen)
    """What a detector finds, video by video; arguments as of `evaluate_detector`.

    Yields:
        `VideoBoxes`.

    Source: thesis 8.5.2.
    """
    classes = videos.class_names
    found = network.output["probabilities"].shape[-1]
    if found != len(classes):
        raise ValueError(
            f"The network has {found} classes, the videos {len(classes)} "
            f"({', '.join(classes[:3])}, ...); name those it was trained on."
        )
    detect = FrameDetector(network, stride)
    for video in videos.annotated():
        boxes, seen = _boxes(detect, video, options)
        yield VideoBoxes(video.name, dict(enumerate(video.frames)), boxes, seen)


def precision(found, classes, stride=1, only=None):
    """Average precision of what a detector has found.

    Args:
        found: iterable of `VideoBoxes`. classes: names of the classes.
        stride: tau, by which it was found.
        only: {video: frames} that are evaluated, None for all.

    Returns:
        `DetectionResults`.

    Source: thesis 8.5.1.
    """
    evaluations = {method: VidEvaluation(classes) for method in METHODS}
    count = frames = 0
    for video in found:
        speeds = motion_iou(video.objects)  # by all frames
        chosen = set(video.objects if only is None else only.get(video.name, ()))
        for method, evaluation in evaluations.items():
            where = chosen & video.seen if method == "frames" else chosen
            objects = {number: video.objects[number] for number in sorted(where)}
            evaluation.update(video.boxes[method], objects, video.name, speeds)
        count, frames = count + 1, frames + len(chosen)
    methods = {name: found.results() for name, found in evaluations.items()}
    return DetectionResults(stride, methods, count, frames)


def _boxes(detect, video, options):
    """{method: {frame: boxes with labels and scores}}, and the frames looked at."""
    single, online, linker = {}, [], TubeLinker(options)
    causal = OnlineLinker(options)
    for found, between in detect(_frames(video)):
        single[found.frame] = _suppressed(found)
        linker.update(found, between)
        online.append(causal.update(found, between))
    tubes, causal_tubes = linker.finish(), gather(online)
    if detect.stride > 1:
        tubes, causal_tubes = (
            interpolate(found, detect.stride) for found in (tubes, causal_tubes)
        )
    boxes = {
        "frames": single,
        "tubes": by_frame(tubes),
        "online": by_frame(causal_tubes),
    }
    return boxes, frozenset(single)


def _frames(video):
    """The frames of a video, uint8 [H, W, 3], one by one."""
    for path in video.paths:
        try:
            frame = tf.io.decode_jpeg(
                tf.io.read_file(path), channels=3, dct_method="INTEGER_ACCURATE"
            )
        except tf.errors.OpError as error:
            first = str(error.message).strip().splitlines()[0]
            raise AnnotationError(
                f"{path}: cannot be decoded ({first}); copy it from the archive again"
            ) from error
        yield frame.numpy()


def _suppressed(found):
    """Detections of one frame after suppression within each class."""
    kept = reduce(found, FRAMES)
    label, place = np.nonzero(kept.scores > -np.inf)
    return Detections(kept.boxes[label, place], label, kept.scores[label, place])
