"""Networks of two towers, one per stream: two losses, one averaged answer.

Each tower ends in a classifier of its own and is trained by a loss of its own, since "a
single, joint softmax classifier overfits severely to appearance information" (thesis
4.4.1); at test time the raw scores of both are averaged.
"""

from types import SimpleNamespace

import keras
from keras import ops

from zoo.layers import StreamAverage, same_size_as
from zoo.models.classifier import average_scores, in_full, predict
from zoo.models.inputs import CHANNELS, DESCRIPTIONS


@keras.saving.register_keras_serializable(package="zoo")
class Towers(keras.Model):
    """A functional model whose loss is the sum of its towers' losses.

    Takes a dict of clips of equal length and size, `rgb` [B, T, H, W, 3] and `flow`
    [B, T, H, W, 20] in pixels (`zoo.models.inputs`), and returns a dict:

    - "predictions" [B, K], the activation of the averaged raw scores;
    - per tower, "appearance" and "motion", its raw scores at every position [B, T', H',
      W', K] (at the training size one position per frame).

    `model.fit` needs plain labels, one per clip. The compiled loss is computed for
    every tower at every position with the label of the clip, summed over the positions
    ("a single loss for each of the 5 inputs") and over the towers, and averaged over
    the clips; the compiled metrics see the averaged answer. The logs `appearance_loss`
    and `motion_loss` are means over clips, before `loss_weights`.

    Raises:
        ValueError: a missing or unknown input; clips of different length or size, or of
            other channels; labels that are missing or not plain. Sizes that are not
            known when a graph is traced fail when it runs, as an error of the backend.

    Source: thesis 3.3.4, 4.3.5 and 4.4.1; the released code sums likewise.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        means = {name: keras.metrics.Mean(f"{name}_loss") for name in self.towers}
        # In a namespace, into which Keras does not look: they are no weights to save.
        self._clip_means = SimpleNamespace(**means if len(means) > 1 else {})

    def __call__(self, inputs, *args, **kwargs):
        self._require_streams(inputs)
        return super().__call__(inputs, *args, **kwargs)

    def call(self, inputs, training=None, mask=None):
        # Keras reads the signature: without `training` in it, nothing would be trained.
        flow = same_size_as(inputs["flow"], inputs["rgb"])
        return super().call({**inputs, "flow": flow}, training=training, mask=mask)

    def _require_streams(self, inputs):
        names = list(self.input)
        if not isinstance(inputs, dict) or set(inputs) != set(names):
            found = list(inputs) if isinstance(inputs, dict) else type(inputs).__name__
            missing = [name for name in names if name not in found]
            said = "".join(f" {name}: {DESCRIPTIONS[name]}." for name in missing)
            raise ValueError(
                f"{self.name} takes a dict of clips "
                f"{{{', '.join(map(repr, names))}}}; got {found}.{said}"
            )
        shapes = {name: tuple(inputs[name].shape) for name in names}
        for name, shape in shapes.items():
            if len(shape) != 5 or shape[-1] not in (None, CHANNELS[name]):
                raise ValueError(
                    f"{self.name} takes as {name!r} clips of {CHANNELS[name]} "
                    f"channels, {DESCRIPTIONS[name]}; got shape {shape}."
                )
        leading = list(zip(*(shape[:4] for shape in shapes.values()), strict=True))
        if any(None not in sizes and len(set(sizes)) > 1 for sizes in leading):
            given = ", ".join(f"{name} is {shape}" for name, shape in shapes.items())
            raise ValueError(
                f"{self.name} takes clips of equal batch, length and size [B, T, H, W, "
                f"...]; {given}. Resize one of them, and take the flow stack of every "
                "frame."
            )

    @property
    def towers(self):
        """Names of the towers (thesis 3.3.4)."""
        return [name for name in self.output if name != "predictions"]

    def compile(self, optimizer="rmsprop", loss=None, loss_weights=None, **kwargs):
        """`keras.Model.compile`, but for losses and their weights.

        Args:
            optimizer: as in Keras.
            loss: one for all towers, or {tower: loss}.
            loss_weights: likewise, numbers; None for the plain sum.
            **kwargs: as in Keras; metrics are of "predictions".

        Raises:
            ValueError: losses or weights of anything else than the towers.

        Source: thesis 4.3.5.
        """
        self._require_per_tower("loss", loss)
        self._require_per_tower("loss_weights", loss_weights)
        if isinstance(loss_weights, dict) and not isinstance(loss, dict):
            loss = dict.fromkeys(self.towers, loss)
        elif isinstance(loss, dict) and isinstance(loss_weights, int | float):
            loss_weights = dict.fromkeys(self.towers, loss_weights)
        super().compile(optimizer, loss, loss_weights, **kwargs)

    def _require_per_tower(self, option, value):
        several = isinstance(value, dict | list | tuple)
        if several and (not isinstance(value, dict) or set(value) != set(self.towers)):
            found = list(value) if isinstance(value, dict) else repr(value)
            raise ValueError(
                f"{option} of {self.name} must be one for all towers or a dict of one "
                f"for each of {', '.join(self.towers)}; got {found}."
            )

    def compile_from_config(self, config):
        """Compiles a loaded model as it was saved (keras.Model)."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    @property
    def metrics(self):
        """Keras' metrics, with means over clips of the towers' losses (4.3.5).

        Keras' own means weigh a batch by its size where it is known beforehand, and
        by 1 where it is not, as the last of an epoch.
        """
        means = vars(self._clip_means).values() if self.compiled else ()
        names = [mean.name for mean in means]
        return [m for m in super().metrics if m.name not in names] + list(means)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        self._require_plain("labels y", y)
        if sample_weight is not None:
            self._require_plain("sample_weight", sample_weight)
        activation = self.get_layer("predictions").activation
        maps = {name: activation(y_pred[name]) for name in self.towers}
        labels = {name: _at_every_position(y, scores) for name, scores in maps.items()}
        weights = {
            name: _position_weights(sample_weight, scores)
            for name, scores in maps.items()
        }
        for name, mean in vars(self._clip_means).items():
            loss = self.loss[name] if isinstance(self.loss, dict) else self.loss
            if loss is not None:
                losses = _unreduced(loss, labels[name], maps[name])
                mean.update_state(ops.mean(losses * weights[name], axis=(1, 2, 3)))
        return super().compute_loss(x, labels, maps, weights, training)

    def _require_plain(self, what, value):
        if value is None or isinstance(value, dict | list | tuple):
            found = list(value) if isinstance(value, dict) else type(value).__name__
            raise ValueError(
                f"{self.name} needs {what}, one array for all towers with an entry per "
                "clip: fit((x, y)), or fit(x, y), where x is a dict "
                f"{{{', '.join(map(repr, self.input))}}}; got {found}."
            )

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, y, y_pred["predictions"], sample_weight)


def _unreduced(loss, y, scores):
    """The loss at every position, [B, T, H, W]."""
    loss = keras.losses.get(loss)
    call = loss.call if isinstance(loss, keras.losses.Loss) else loss
    return ops.cast(call(y, scores), "float32")


def _at_every_position(y, scores):
    """Labels [B, ...] repeated at the positions of scores: [B, T, H, W, ...]."""
    y = ops.convert_to_tensor(y)
    rest = ops.shape(y)[1:]
    y = ops.reshape(y, (-1, 1, 1, 1, *rest))
    return ops.broadcast_to(y, (*ops.shape(scores)[:4], *rest))


def _position_weights(sample_weight, scores):
    """[B, T, H, W]: turns Keras' mean over clips and positions into a sum over them."""
    shape = ops.shape(scores)[:4]
    count = ops.cast(shape[1] * shape[2] * shape[3], "float32")
    weights = ops.ones(shape, "float32") * count
    if sample_weight is None:
        return weights
    sample_weight = ops.cast(ops.convert_to_tensor(sample_weight), "float32")
    return weights * ops.reshape(sample_weight, (-1, 1, 1, 1))


def towers(name, inputs, scores, activation, stream_weights=(1.0, 1.0)):
    """The model of one or two towers.

    Args:
        name: of the model.
        inputs: {"rgb": tensor, "flow": tensor}.
        scores: {"appearance": [B, T', H', W', K], "motion": likewise or absent}, raw.
        activation: of the averaged scores.
        stream_weights: of appearance and motion in the average, (1, 3) on HMDB51.

    Returns:
        A `Towers`.

    Raises:
        ValueError: weights that are not one positive number per stream, or that have
            only one stream to weigh.

    Source: thesis 3.3.4, 3.4.3 and 5.5.3.
    """
    logits = [average_scores(x, f"{tower}_") for tower, x in scores.items()]
    average = StreamAverage(stream_weights, name="logits", dtype=in_full())
    if len(logits) > 1:
        logits = average(logits)
    elif len(set(average.weights_of_streams)) == 1:
        logits = keras.layers.Identity(name="logits", dtype=in_full())(logits[0])
    else:
        raise ValueError(
            f"stream_weights weigh the scores of two towers, and {name} has those of "
            f"one: leave them out or keep the motion tower, got {stream_weights!r}."
        )
    maps = {
        tower: keras.layers.Activation("linear", dtype=in_full(), name=tower)(x)
        for tower, x in scores.items()
    }
    outputs = {"predictions": predict(logits, activation), **maps}
    return Towers(inputs, outputs, name=name)
