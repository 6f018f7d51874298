"""The class of all detectors: a functional model with one joint objective.

Source: thesis eq. 8.1, and Ren et al. 2015 for the proposals.
"""

from types import SimpleNamespace

import keras
from keras import ops

from zoo import layers
from zoo.models import detection_loss as loss

TARGETS = ("boxes", "labels", "tracks")


def average_bins(bins):
    """Votes of all bins of a box, averaged: [..., k, k, D] -> [..., D].

    Source: Li et al. 2016, eq. 2; thesis 8.3.2.
    """
    return ops.mean(bins, axis=(-3, -2))


def deltas_of(bins):
    """The same of a regression: [..., k, k, 4 or 8] -> [..., 4].

    Of the release's eight values the first four are the background's, of no use.

    Source: thesis 8.3.2; the release's prototxt files.
    """
    deltas = average_bins(bins)
    return deltas if deltas.shape[-1] == 4 else deltas[..., 4:]


def _is_frozen(layer):
    """Whether a layer has a normalisation that does not learn."""
    norm = getattr(layer, "norm", None)
    return isinstance(norm, keras.layers.Layer) and not norm.trainable


@keras.saving.register_keras_serializable(package="zoo")
class Detector(keras.Model):
    """A functional model that finds objects in every frame, and follows them.

    Takes frames `rgb` [B, T, H, W, 3], RGB 0-255, T = 2 for adjacent frames at the
    temporal stride tau; and where it has no proposal network `proposals` [B, T, R, 4].
    Returns a dict, boxes being x1, y1, x2, y2 in pixels of the frames:

    - "proposals" [B, T, R, 4] and "proposal_mask" [B, T, R], False where they pad;
    - "class_scores" [B, T, R, C + 1], raw, background first;
    - "box_deltas" [B, T, R, 4], as regressed (normalised, but in the release's
      variant), and "boxes" [B, T, R, 4], the proposals moved by them;
    - "track_deltas" [B, T - 1, R, 4] (eq. 8.2-8.3), the motion of the proposals of a
      frame to the next one, in networks that track;
    - the maps that all this is pooled from: "objectness", "anchor_deltas",
      "score_maps", "box_maps", "track_maps".

    `zoo.models.object_detector` makes detections of it. `model.fit` needs targets, a
    dict of `boxes` [B, T, G, 4], `labels` [B, T, G] (0 ... C - 1, -1 pads) and `tracks`
    [B, T, G] (the same number in both frames for the same object, -1 pads), and
    minimises eq. 8.1 plus both losses of the proposal network. `compile` takes no loss,
    but `loss_weights`, {term: number}. Logs hold the mean over examples of every term,
    "class_loss" and so on, and "proposal_recall", the share of objects that a proposal
    overlaps by 0.5.

    Labels of C and more have no class in the network: the loss is NaN then.

    Raises:
        ValueError: targets that are missing or of other shapes, a compiled loss, or
            weights of unknown terms.

    Source: thesis 8.3.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # In a namespace, into which Keras does not look: they are no weights to save.
        self._hidden = SimpleNamespace(
            means={term: keras.metrics.Mean(f"{term}_loss") for term in self.terms},
            recall=keras.metrics.Mean("proposal_recall"),
            weights=dict.fromkeys(self.terms, 1.0),
        )

    @property
    def terms(self):
        """Names of the terms of the objective (thesis eq. 8.1, Ren et al. 2015)."""
        proposal = ["rpn_class", "rpn_box"] if "objectness" in self.output else []
        track = ["track"] if "track_maps" in self.output else []
        return [*proposal, "class", "box", *track]

    @property
    def num_classes(self):
        """C, background not counted (thesis 8.3.2)."""
        return self.output["class_scores"].shape[-1] - 1

    def compile(self, optimizer="rmsprop", loss=None, loss_weights=None, **kwargs):
        """`keras.Model.compile`, but for the loss, which is eq. 8.1.

        Args:
            optimizer: as in Keras.
            loss: None.
            loss_weights: {term: number} of `terms`, 1 where none is given; "track" is
                lambda of the last term of eq. 8.1.
            **kwargs: as in Keras.

        Raises:
            ValueError: a loss, or weights of unknown terms.

        Source: thesis eq. 8.1, lambda = 1; 0.1 for ResNeXt in the release.
        """
        weights = dict(loss_weights or {})
        unknown = sorted(set(weights) - set(self.terms))
        if loss is not None or unknown:
            raise ValueError(
                f"{self.name} brings its own loss (eq. 8.1) of the terms "
                f"{', '.join(self.terms)}; compile it without a loss, and with "
                f"loss_weights of these only. Got loss={loss!r}, weights of "
                f"{', '.join(weights) or 'none'}."
            )
        self._hidden.weights |= weights
        super().compile(optimizer, **kwargs)

    def get_compile_config(self):
        """What a saved model was compiled with (keras.Model)."""
        config = super().get_compile_config()
        return config and {**config, "loss_weights": self._hidden.weights}

    def compile_from_config(self, config):
        """Compiles a loaded model as it was saved (keras.Model)."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def get_config(self):
        """What the model is made of, its frozen normalisations too (keras.Model)."""
        # The trainability of a layer within a layer is in no config of Keras.
        frozen = [layer.name for layer in self.layers if _is_frozen(layer)]
        return {**super().get_config(), "frozen_norms": frozen}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The model of `get_config` (keras.Model)."""
        config = dict(config)
        frozen = config.pop("frozen_norms", ())
        model = super().from_config(config, custom_objects=custom_objects)
        for name in frozen:
            model.get_layer(name).norm.trainable = False
        return model

    @property
    def metrics(self):
        """Keras' metrics, and means of the terms over examples (thesis eq. 8.1)."""
        own = [*self._hidden.means.values(), self._hidden.recall]
        own = own if self.compiled else []
        names = [metric.name for metric in own]
        return [m for m in super().metrics if m.name not in names] + own

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        targets = self._targets(y, y_pred)
        terms = self._frame_terms(y_pred, targets)
        if "track_maps" in y_pred:
            terms["track"] = self._track_term(y_pred, targets)
        total = 0.0
        for term, losses in terms.items():
            self._hidden.means[term].update_state(losses, sample_weight)
            total = total + self._hidden.weights[term] * losses
        return loss.Given()(total, total, sample_weight)

    def _targets(self, y, y_pred):
        """The targets as tensors, or an error that names what is amiss."""
        if not isinstance(y, dict) or set(y) != set(TARGETS):
            found = list(y) if isinstance(y, dict) else type(y).__name__
            raise ValueError(
                f"{self.name} needs targets, a dict of boxes [B, T, G, 4], labels "
                f"[B, T, G] and tracks [B, T, G], as zoo.datasets makes them; got "
                f"{found}."
            )
        boxes = ops.cast(ops.convert_to_tensor(y["boxes"]), "float32")
        labels, tracks = (
            ops.cast(ops.convert_to_tensor(y[name]), "int32")
            for name in ("labels", "tracks")
        )
        right = len(boxes.shape) == 4 and boxes.shape[-1] == 4
        if not right or not tuple(boxes.shape[:3]) == labels.shape == tracks.shape:
            raise ValueError(
                f"{self.name}: targets must be boxes [B, T, G, 4] with labels and "
                f"tracks [B, T, G], got {boxes.shape}, {labels.shape}, {tracks.shape}."
            )
        if boxes.shape[2] in (0, None):  # room for one, which the maxima below need
            room = [(0, 0), (0, 0), (0, 1)]
            boxes = ops.pad(boxes, [*room, (0, 0)])
            labels, tracks = (
                ops.pad(x, room, constant_values=-1) for x in (labels, tracks)
            )
        return {"boxes": boxes, "labels": labels, "tracks": tracks}

    def _bins(self, layer, maps, boxes):
        """What a pooling layer of the network finds at other boxes than proposals."""
        return self.get_layer(layer)([maps, boxes])

    def _frame_terms(self, y_pred, targets):
        """The terms of single frames, [B], the average of the frames of an example."""
        boxes, labels = targets["boxes"], targets["labels"]
        proposals = ops.stop_gradient(y_pred["proposals"])
        mask = y_pred["proposal_mask"]
        scores, deltas = self._at_objects(y_pred, boxes)
        transform = self.get_layer("boxes").layer
        classes, regression = loss.region_losses(
            ops.concatenate([proposals, boxes], axis=2),
            ops.concatenate([mask, labels >= 0], axis=2),
            ops.concatenate([y_pred["class_scores"], scores], axis=2),
            ops.concatenate([y_pred["box_deltas"], deltas], axis=2),
            boxes,
            labels,
            lambda deltas: (
                (deltas - ops.convert_to_tensor(transform.means))
                / ops.convert_to_tensor(transform.stds)
            ),
        )
        terms = {"class": classes, "box": regression}
        if "objectness" in y_pred:
            terms |= self._proposal_terms(y_pred, boxes, labels >= 0)
        found, count = loss.recall(proposals, mask, boxes, labels >= 0)
        self._hidden.recall.update_state(found / ops.maximum(count, 1), count)
        return {term: ops.mean(losses, axis=1) for term, losses in terms.items()}

    def _at_objects(self, y_pred, boxes):
        """Scores and regression of the objects themselves, which are RoIs, too."""
        scores = self._bins("psroipooled_cls_rois", y_pred["score_maps"], boxes)
        deltas = self._bins("psroipooled_loc_rois", y_pred["box_maps"], boxes)
        return average_bins(scores), deltas_of(deltas)

    def _proposal_terms(self, y_pred, boxes, valid):
        """Losses of the proposal network, [B, T]."""
        batch, frames, height, width = ops.shape(y_pred["objectness"])[:4]
        layer = self.get_layer("proposals").layer
        anchors = layers.anchors_of(
            height, width, layer.stride, layer.scales, layer.ratios
        )

        def fold(x):
            return ops.reshape(x, (batch * frames, *ops.shape(x)[2:]))

        maps = (fold(y_pred[name]) for name in ("objectness", "anchor_deltas"))
        losses = loss.proposal_losses(*maps, anchors, fold(boxes), fold(valid))
        losses = [ops.reshape(x, (batch, frames)) for x in losses]
        return dict(zip(("rpn_class", "rpn_box"), losses, strict=True))

    def _track_term(self, y_pred, targets):
        """The tracking loss, [B], averaged over the pairs of frames of an example."""
        frames = [
            (targets["boxes"][:, part], targets["tracks"][:, part])
            for part in (slice(None, -1), slice(1, None))
        ]
        losses = self._track_losses(y_pred["track_maps"], *frames)
        if "back_track_maps" in y_pred:  # by the same filters, as often
            back = self._track_losses(y_pred["back_track_maps"], *frames[::-1])
            losses = (losses + back) / 2
        # A clip of one frame has no pair.
        pairs = ops.maximum(ops.shape(losses)[1], 1)
        return ops.sum(losses, axis=1) / ops.cast(pairs, "float32")

    def _track_losses(self, maps, earlier, later):
        """Losses of pairs [B, T - 1], of (boxes, tracks) of both frames."""
        deltas = deltas_of(self._bins("psroipooled_rois_disp", maps, earlier[0]))
        return loss.track_loss(deltas, earlier[0], later[0], earlier[1], later[1])
