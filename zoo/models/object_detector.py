"""From frames of any size to detections and tracked boxes, in pixels of the frames.

Evaluation, `zoo track` and export all run this network, so that they agree.

Source: thesis 8.3 and 8.5.2; the kinds of tracks are the release's test graphs.
"""

import keras
from keras import ops

from zoo import layers
from zoo.models.classifier import in_full
from zoo.models.detector import average_bins, deltas_of
from zoo.models.resnet import require
from zoo.models.rfcn import per_frame

# What is followed from a frame to the next one: "proposals" (test_track in the
# release); the boxes "reg"ressed from them (test_track_reg); and "regcls", which also
# classifies where these have gone, and averages both (test_track_regcls_poolreg; its
# test_track_regcls moves the proposals before it classifies).
TRACKS = ("proposals", "reg", "regcls")
MIN_SCORE = 0.01  # of what counts as a detection at all


def candidates(model, shorter_side=600, longer_side=1000, tracks="proposals"):
    """Wraps a `Detector` into a network of frames of any size, before suppression.

    Args:
        model: a `Detector` with a proposal network.
        shorter_side, longer_side: of the frames it sees, see `DetectionView`.
        tracks: a kind of `TRACKS`; only networks that track have any.

    Returns:
        A keras.Model from `frames` [B, T, H, W, 3], uint8 or float, RGB 0-255, to a
        dict; boxes are x1, y1, x2, y2 in pixels of the frames:

        - "boxes" [B, T, R, 4], "probabilities" [B, T, R, C] of the classes without
          background, and "mask" [B, T, R], False where they pad;
        - of networks that track "starts" and "ends" [B, T - 1, R, 4], boxes of a frame
          and where they are in the next one.

    Raises:
        ValueError: unknown kind of tracks, or a network without proposals of its own.

    Source: thesis 8.3.2; the release's test graphs.
    """
    require("tracks", tracks, TRACKS)
    if "objectness" not in model.output:
        raise ValueError(
            f"{model.name} reads proposals, so it can't find objects in frames alone; "
            "use variant='thesis', or call the model with proposals."
        )
    frames = keras.Input((None, None, None, 3), name="frames")
    view = layers.DetectionView(shorter_side, longer_side, name="view")
    seen, factors = view(frames)
    found = model(seen)
    clip = ClipToFrame(name="clip_boxes")
    outputs = {
        "boxes": clip([found["boxes"], seen]),
        "probabilities": keras.layers.Softmax(dtype=in_full())(found["class_scores"]),
        "mask": found["proposal_mask"],
    }
    if "track_maps" in found:
        outputs |= _tracks(model, found, seen, outputs, clip, tracks)
    outputs["probabilities"] = Foreground(name="foreground")(outputs["probabilities"])
    for name in ("boxes", "starts", "ends"):
        if name in outputs:
            outputs[name] = ToPixels(name=f"{name}_in_pixels")([outputs[name], factors])
    return keras.Model(frames, outputs, name=f"{model.name}_candidates")


def _tracks(model, found, seen, outputs, clip, tracks):
    """Boxes of a frame and where they are in the next; scores averaged over both."""
    move = per_frame(layers.BoxTransform(name="move"))
    _, second_frames = layers.FramePairs(name="seen_pairs")(seen)
    if tracks == "proposals":
        starts, _ = layers.FramePairs(name="start_pairs")(found["proposals"])
        ends = move([starts, found["track_deltas"]])
    else:
        starts, _ = layers.FramePairs(name="box_pairs")(outputs["boxes"])
        displace = model.get_layer("psroipooled_rois_disp")
        bins = displace([found["track_maps"], starts])
        ends = move([starts, deltas_of(bins)])
    ends = clip([ends, second_frames])
    result = {"starts": starts, "ends": ends}
    if tracks == "regcls":
        _, maps = layers.FramePairs(name="score_pairs")(found["score_maps"])
        scores = model.get_layer("psroipooled_cls_rois")([maps, ends])
        there = keras.layers.Softmax(dtype=in_full())(average_bins(scores))
        result["probabilities"] = BothFrames(name="both_frames")(
            [outputs["probabilities"], there]
        )
    return result


def object_detector(
    model,
    shorter_side=600,
    longer_side=1000,
    tracks="proposals",
    iou_threshold=0.3,
    count=100,
):
    """Wraps a `Detector` into one whose answer is a list of objects per frame.

    Args:
        model, shorter_side, longer_side, tracks: as of `candidates`.
        iou_threshold: of the suppression within each class.
        count: D, detections per frame at most, those of the highest scores.

    Returns:
        A keras.Model from `frames` [B, T, H, W, 3] to a dict, the best first:

        - "boxes" [B, T, D, 4] in pixels of the frames, "scores" [B, T, D], and
          "classes" [B, T, D], 0 ... C - 1; where there are fewer, boxes and scores are
          0 and classes -1;
        - of networks that track "tracked_boxes" [B, T - 1, D, 4], where the objects
          are in the next frame.

    Raises:
        ValueError: as `candidates`.

    Source: thesis 8.5.2, "For testing we apply NMS with IoU threshold of 0.3".
    """
    network = candidates(model, shorter_side, longer_side, tracks)
    found = network.output
    suppress = layers.ClassNMS(
        iou_threshold, count, min_score=MIN_SCORE, name="class_nms"
    )
    kept = per_frame(suppress)([found["boxes"], found["probabilities"], found["mask"]])
    outputs = {name: kept[name] for name in ("boxes", "scores", "classes")}
    if "ends" in found:
        indices, _ = layers.FramePairs(name="index_pairs")(kept["indices"])
        classes, _ = layers.FramePairs(name="class_pairs")(kept["classes"])
        outputs["tracked_boxes"] = Chosen(name="tracked_boxes")(
            [found["ends"], indices, classes]
        )
    return keras.Model(network.input, outputs, name=f"{model.name}_on_frames")


@keras.saving.register_keras_serializable(package="zoo")
class ClipToFrame(keras.layers.Layer):
    """Boxes [B, T, R, 4] cut to the frames [B, T, H, W, C] (Ren et al. 2015)."""

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, inputs):
        boxes, frames = inputs
        return layers.clip(boxes, *ops.shape(frames)[2:4])


@keras.saving.register_keras_serializable(package="zoo")
class Foreground(keras.layers.Layer):
    """Probabilities but the background's: [..., C + 1] -> [..., C] (thesis 8.3.2)."""

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, probabilities):
        return probabilities[..., 1:]


@keras.saving.register_keras_serializable(package="zoo")
class ToPixels(keras.layers.Layer):
    """Boxes [..., 4] of resized frames, on the frames themselves (thesis 8.5.2)."""

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, inputs):
        boxes, factors = inputs
        return boxes / factors


@keras.saving.register_keras_serializable(package="zoo")
class BothFrames(keras.layers.Layer):
    """Probabilities of the boxes of a frame, averaged with those in the next one.

    [B, T, R, K] and [B, T - 1, R, K] -> [B, T, R, K]; the last frame has no next one.

    Source: thesis 8.3.2; test_track_regcls_poolreg of the release (Feichtenhofer 2017).
    """

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, inputs):
        here, there = inputs
        both = (here[:, : ops.shape(there)[1]] + there) / 2
        return ops.concatenate([both, here[:, ops.shape(there)[1] :]], axis=1)


@keras.saving.register_keras_serializable(package="zoo")
class Chosen(keras.layers.Layer):
    """Boxes [B, T, R, 4] at indices [B, T, D], 0 where classes [B, T, D] are -1.

    Source: thesis 8.3.2, tracks of detections.
    """

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, inputs):
        boxes, indices, classes = inputs
        chosen = ops.take_along_axis(boxes, indices[..., None], axis=2)
        return ops.where(classes[..., None] >= 0, chosen, 0.0)
