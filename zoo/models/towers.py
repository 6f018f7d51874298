"""Networks of two towers, one per stream: two losses, one averaged answer.

Each tower ends in a classifier of its own and is trained by a loss of its own, since "a
single, joint softmax classifier overfits severely to appearance information" (thesis
4.4.1); at test time the raw scores of both are averaged.
"""

import keras
from keras import ops

from zoo.layers import StreamAverage
from zoo.models.classifier import average_scores, in_full, predict


@keras.saving.register_keras_serializable(package="zoo")
class Towers(keras.Model):
    """A functional model whose loss is the sum of its towers' losses.

    Takes a dict of clips of equal length and size, `rgb` [B, T, H, W, 3] and `flow`
    [B, T, H, W, 20], and returns a dict:

    - "predictions" [B, K], the activation of the averaged raw scores;
    - per tower, "appearance" and "motion", its raw scores at every position [B, T', H',
      W', K] (at the training size one position per frame).

    `model.fit` needs plain labels. The compiled loss is computed for every tower at
    every position with the label of the clip, summed over the positions ("a single
    loss for each of the 5 inputs") and over the towers, and averaged over the clips;
    the compiled metrics see the averaged answer.

    Raises:
        ValueError: a missing or unknown input, or clips of different length or size.

    Source: thesis 3.3.4, 4.3.5 and 4.4.1; the released code sums likewise.
    """

    def __call__(self, inputs, *args, **kwargs):
        self._require_streams(inputs)
        return super().__call__(inputs, *args, **kwargs)

    def _require_streams(self, inputs):
        names = list(self.input)
        found = list(inputs) if isinstance(inputs, dict) else type(inputs).__name__
        if not isinstance(inputs, dict) or set(inputs) != set(names):
            raise ValueError(
                f"{self.name} takes a dict of clips "
                f"{{{', '.join(map(repr, names))}}}; got {found}."
            )
        shapes = {name: tuple(inputs[name].shape) for name in names}
        leading = list(zip(*(shape[:4] for shape in shapes.values()), strict=False))
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

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        activation = self.get_layer("predictions").activation
        maps = {name: activation(y_pred[name]) for name in self.towers}
        labels = {name: _at_every_position(y, scores) for name, scores in maps.items()}
        weights = {
            name: _position_weights(sample_weight, scores)
            for name, scores in maps.items()
        }
        return super().compute_loss(x, labels, maps, weights, training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, y, y_pred["predictions"], sample_weight)


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
        ValueError: weights that are not one positive number per stream.

    Source: thesis 3.3.4, 3.4.3 and 5.5.3.
    """
    logits = [average_scores(x, f"{tower}_") for tower, x in scores.items()]
    if len(logits) == 1:
        logits = keras.layers.Identity(name="logits", dtype=in_full())(logits[0])
    else:
        average = StreamAverage(stream_weights, name="logits", dtype=in_full())
        logits = average(logits)
    maps = {
        tower: keras.layers.Activation("linear", dtype=in_full(), name=tower)(x)
        for tower, x in scores.items()
    }
    outputs = {"predictions": predict(logits, activation), **maps}
    return Towers(inputs, outputs, name=name)
