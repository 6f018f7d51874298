"""Validation after every epoch by the very protocol of the evaluation.

Source: thesis 7.3.3; its schedule watches the validation error.
"""

import keras
import numpy as np

from zoo.evaluation.evaluate import Scorer, evaluate_with


class Validation(keras.callbacks.Callback):
    """Adds `val_accuracy` and `val_loss` of whole videos to the logs of an epoch.

    The figures are those that `zoo.evaluation.evaluate` gives for the same weights,
    on one device or several; the loss is the mean cross-entropy.

    Args:
        videos: a `zoo.datasets.VideoList`.
        frames, shorter_side, flip: the test view, see
            `zoo.models.testing.video_classifier`.
        cache: a `zoo.datasets.FrameCache`, or None.
        flow: a source of optical flow for a model that sees it, or None.

    Source: thesis 7.3.3.
    """

    def __init__(self, videos, frames, shorter_side, flip, cache=None, flow=None):
        super().__init__()
        self.videos = videos
        self.view = (frames, shorter_side, flip)
        self.cache = cache
        self.flow = flow

    def on_train_begin(self, logs=None):
        self._score = Scorer(self.model, *self.view)

    def on_epoch_end(self, epoch, logs=None):
        results = evaluate_with(self._score, self.videos, self.cache, self.flow)
        logs["val_accuracy"] = results.accuracy()
        logs["val_loss"] = cross_entropy(results.scores, results.labels)


def cross_entropy(scores, labels):
    """Mean of -log softmax(scores)[label], in nats (He et al. 2015).

    Args:
        scores: raw scores [N, K]. labels: int [N].
    """
    shifted = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    log_sums = np.log(np.exp(shifted).sum(axis=1))
    return float(np.mean(log_sums - shifted[np.arange(len(labels)), labels]))
