"""The terms of the joint objective of detection and tracking, one function each.

Source: thesis eq. 8.1; Ren et al. 2015 (arXiv:1506.01497), eq. 1, for the proposal
network; Shrivastava et al. 2016 (arXiv:1604.03540) for online hard example mining.

All terms are per frame or per pair of frames, so that an average over examples does
not depend on how they are shared out among devices. Padding counts nowhere: boxes
of label -1 are no objects, and a frame without objects has background only.
"""

import keras
from keras import ops

from zoo.layers import boxes as box_ops

RPN_BATCH, RPN_POSITIVES = 256, 128  # anchors of a frame (Ren et al. 2015)
RPN_FOREGROUND, RPN_BACKGROUND = 0.7, 0.3  # IoU (Ren et al. 2015)
RPN_BETA = 1 / 9  # where the smooth L1 loss turns linear; 1 elsewhere (release)
FOREGROUND = 0.5  # IoU (thesis 8.3.3)
HARD_EXAMPLES = 128  # RoIs per frame (release)


def smooth_l1(errors, beta=1.0):
    """The sum over the four values of a box of Girshick's smooth L1: [..., 4] -> [...].

    Args:
        errors: prediction less target.
        beta: size of the errors from which on it is linear.

    Source: Girshick 2015 (arXiv:1504.08083), eq. 3; thesis 8.3.3.
    """
    size = ops.abs(errors)
    loss = ops.where(size < beta, 0.5 * size * size / beta, size - 0.5 * beta)
    return ops.sum(loss, axis=-1)


def softmax_loss(scores, labels):
    """-log p of the label: [..., K] and [...] -> [...] (thesis 8.3.3, L_cls).

    NaN for labels that are none of 0 ... K - 1, which would else cost nothing.
    """
    log_p = scores - ops.logsumexp(scores, axis=-1, keepdims=True)
    losses = -ops.sum(log_p * ops.one_hot(labels, scores.shape[-1]), axis=-1)
    known = (labels >= 0) & (labels < scores.shape[-1])
    return ops.where(known, losses, float("nan"))


def overlaps(boxes, objects, valid):
    """IoU of boxes [..., N, 4] with objects [..., G, 4], 0 where they pad (8.3.3).

    Args:
        boxes, objects: as above. valid: [..., G], which objects there are.

    Source: thesis 8.3.3.
    """
    return ops.where(valid[..., None, :], box_ops.iou(boxes, objects), 0.0)


def assigned(values, indices):
    """Rows of `values` [..., G, 4] at indices [..., N]: [..., N, 4] (thesis 8.3.3)."""
    return ops.take_along_axis(values, ops.expand_dims(indices, -1), axis=-2)


def proposal_losses(objectness, deltas, anchors, objects, valid):
    """Both terms of the proposal network, per frame: ([M], [M]).

    An anchor is positive where it overlaps an object by 0.7 or is the best one for an
    object, negative below 0.3. Ren et al. draw 256 anchors per frame, at most half of
    them positive; this is the expectation of that draw, which has no noise. Here
    anchors that cross the edge of the frame count, too.

    Args:
        objectness: [M, h, w, A], raw. deltas: [M, h, w, 4 A].
        anchors: [h w A, 4]. objects: [M, G, 4]. valid: [M, G], bool.

    Source: Ren et al. 2015, eq. 1 and section 3.1.3, lambda / N_reg as 1 / N_cls.
    """
    batch = ops.shape(objects)[0]
    scores = ops.reshape(objectness, (batch, -1))
    deltas = ops.reshape(deltas, (batch, -1, 4))
    overlap = overlaps(anchors, objects, valid)  # [M, N, G]
    best = ops.max(overlap, axis=-1)
    # Of every object the best anchor, however little it overlaps; ties all count.
    highest = ops.max(overlap, axis=-2, keepdims=True)
    favourite = ops.any((overlap == highest) & (highest > 0), axis=-1)
    positive = ops.cast((best >= RPN_FOREGROUND) | favourite, "float32")
    negative = ops.cast(best < RPN_BACKGROUND, "float32") * (1 - positive)
    count = ops.sum(positive, axis=-1)
    drawn = ops.minimum(count, RPN_POSITIVES)
    share = drawn / ops.maximum(count, 1)
    wrong = ops.maximum(ops.sum(negative, axis=-1), 1)
    # Binary cross-entropy of raw scores: softplus(-s) for objects, softplus(s) else.
    of_objects = ops.sum(positive * ops.softplus(-scores), axis=-1)
    of_others = ops.sum(negative * ops.softplus(scores), axis=-1)
    others = (RPN_BATCH - drawn) / wrong
    class_loss = (share * of_objects + others * of_others) / RPN_BATCH
    targets = box_ops.encode(anchors, assigned(objects, ops.argmax(overlap, axis=-1)))
    errors = ops.where(positive[..., None] > 0, deltas - targets, 0.0)
    box_loss = share * ops.sum(smooth_l1(errors, RPN_BETA), axis=-1) / RPN_BATCH
    return class_loss, box_loss


def region_losses(rois, mask, scores, deltas, objects, labels, normalize):
    """The first two terms of eq. 8.1 on the hardest RoIs, per frame: ([M], [M]).

    A RoI takes the label of the object it overlaps most, from 0.5 IoU on, and is
    background below. The 128 of the highest loss count, of a frame's own.

    Args:
        rois: [M, N, 4]. mask: [M, N], False where they pad.
        scores: [M, N, C + 1], raw, background first. deltas: [M, N, 4].
        objects: [M, G, 4]. labels: [M, G], -1 pads.
        normalize: from true deltas to what the network regresses.

    Source: thesis eq. 8.1 and 8.3.3; Shrivastava et al. 2016.
    """
    overlap = overlaps(rois, objects, labels >= 0)
    index = ops.argmax(overlap, axis=-1)
    foreground = ops.max(overlap, axis=-1) >= FOREGROUND
    label = ops.take_along_axis(labels, index, axis=-1) + 1
    label = ops.where(foreground, label, 0)
    targets = normalize(box_ops.encode(rois, assigned(objects, index)))
    errors = ops.where(foreground[..., None], deltas - targets, 0.0)
    class_loss, box_loss = softmax_loss(scores, label), smooth_l1(errors)
    mask = ops.cast(mask, "float32")
    kept = mask * hardest(class_loss + box_loss, mask)
    of_objects = kept * ops.cast(foreground, "float32")
    return (
        ops.sum(kept * class_loss, -1) / ops.maximum(ops.sum(kept, -1), 1),
        ops.sum(of_objects * box_loss, -1) / ops.maximum(ops.sum(of_objects, -1), 1),
    )


def hardest(losses, mask, count=HARD_EXAMPLES):
    """1 for the `count` highest losses of every frame, 0 for others: [M, N].

    Args:
        losses: [M, N]. mask: [M, N], 0 for RoIs that are none.
        count: how many are kept; all if there are fewer.

    Source: Shrivastava et al. 2016; the release keeps 128 per frame.
    """
    if losses.shape[-1] is not None and losses.shape[-1] <= count:
        return ops.ones_like(losses)
    losses = ops.stop_gradient(ops.where(mask > 0, losses, -1.0))
    # By rank, not by value: equal losses beyond the count are left out.
    order = ops.argsort(-losses, axis=-1)
    rank = ops.argsort(order, axis=-1)
    return ops.cast(rank < count, "float32")


def track_loss(deltas, first, second, first_tracks, second_tracks):
    """The third term of eq. 8.1, of every pair of frames: [M].

    Args:
        deltas: [M, G, 4], predicted at the objects of the first frame.
        first, second: objects of both frames [M, G, 4].
        first_tracks, second_tracks: their identities [M, G], -1 pads.

    Source: thesis eq. 8.1-8.3: "only assigned to ground truth targets which are
    appearing in both frames".
    """
    same = first_tracks[..., :, None] == second_tracks[..., None, :]
    same = same & (first_tracks >= 0)[..., :, None]
    both = ops.any(same, axis=-1)
    index = ops.argmax(ops.cast(same, "int32"), axis=-1)
    targets = box_ops.encode(first, assigned(second, index))
    errors = ops.where(both[..., None], deltas - targets, 0.0)
    count = ops.sum(ops.cast(both, "float32"), axis=-1)
    return ops.sum(smooth_l1(errors), axis=-1) / ops.maximum(count, 1)


def recall(proposals, mask, objects, valid):
    """Objects that a proposal overlaps by 0.5, and how many there are: ([M], [M]).

    Args:
        proposals: [M, R, 4]. mask: [M, R]. objects: [M, G, 4]. valid: [M, G].

    Source: thesis 8.5.2, "a mean recall of 96.5%".
    """
    overlap = ops.where(mask[..., None], overlaps(proposals, objects, valid), 0.0)
    found = ops.cast(ops.max(overlap, axis=-2) >= FOREGROUND, "float32")
    return ops.sum(found, axis=-1), ops.sum(ops.cast(valid, "float32"), axis=-1)


@keras.saving.register_keras_serializable(package="zoo")
class Given(keras.losses.Loss):
    """Losses that are computed already, [B], to be averaged over examples.

    Keras takes care of several devices; eq. 8.1 has nothing to say about them.
    """

    def call(self, y_true, y_pred):
        return y_pred
