"""The thesis' schedules: the learning rate falls tenfold at saturation, or by count.

Source: thesis 7.3.3 ("decrease it by an order of magnitude after the validation error
saturates"), Table 4.2 (numbers of iterations).
"""

import keras
from absl import logging

HIGHER_IS_BETTER = ("accuracy", "val_accuracy")


def count_drops(errors, patience):
    """How many times the error has saturated so far.

    It saturates when `patience` epochs in a row have brought no new minimum; then the
    count begins anew. The answer depends on the errors alone, so a training that is
    taken up again after a crash stands exactly where it stood.

    Args:
        errors: one number per epoch, lower is better; NaN is no minimum.
        patience: number of epochs, at least 1.

    Source: thesis 7.3.3; patience is ours (the released code fixes the epochs by hand).
    """
    best, waited, drops = float("inf"), 0, 0
    for error in errors:
        waited = 0 if error < best else waited + 1
        best = error if error < best else best
        if waited == patience:
            drops, waited = drops + 1, 0
    return drops


class DropAtSaturation(keras.callbacks.Callback):
    """Lowers the learning rate at saturation, and ends training after the last drop.

    The rate of an epoch is `learning_rate * factor ** count_drops(...)`; training stops
    when the error saturates once more after `drops` drops. The rate of each epoch
    appears in the logs.

    Args:
        learning_rate: of the first epoch.
        monitor: key of the logs; accuracies count as 1 - accuracy.
        factor: of one drop, 0 < factor < 1.
        patience: epochs without a new minimum that count as saturation.
        drops: how many drops there are at most.
        history: values of `monitor` in earlier epochs, when training is resumed.

    Raises:
        ValueError: a factor or patience out of range; `monitor` missing in the logs.

    Source: thesis 7.3.3; two drops (1e-2, 1e-3, 1e-4) as in the released code.
    """

    def __init__(
        self,
        learning_rate,
        monitor="val_accuracy",
        factor=0.1,
        patience=2,
        drops=2,
        history=(),
    ):
        super().__init__()
        if not 0 < factor < 1 or patience < 1:
            raise ValueError(
                "DropAtSaturation needs 0 < factor < 1 and patience >= 1; got "
                f"factor={factor} and patience={patience}"
            )
        self.learning_rate = learning_rate
        self.monitor = monitor
        self.factor = factor
        self.patience = patience
        self.drops = drops
        self.errors = [self._error(value) for value in history]

    @property
    def finished(self):
        """Whether the error has saturated after the last drop (thesis 7.3.3)."""
        return count_drops(self.errors, self.patience) > self.drops

    def on_train_begin(self, logs=None):
        drops = count_drops(self.errors, self.patience)
        self.model.optimizer.learning_rate.assign(self._rate(drops))

    def on_epoch_end(self, epoch, logs=None):
        if self.monitor not in logs:
            raise ValueError(
                f"DropAtSaturation watches {self.monitor!r}, but the epoch logged only "
                f"{', '.join(logs)}. Give validation videos or watch one of these."
            )
        before = count_drops(self.errors, self.patience)
        logs["learning_rate"] = self._rate(before)
        self.errors.append(self._error(logs[self.monitor]))
        drops = count_drops(self.errors, self.patience)
        if self.finished:
            logging.info("%s saturated: training ends.", self.monitor)
            self.model.stop_training = True
        elif drops > before:
            rate = self._rate(drops)
            logging.info("%s saturated: learning rate %.3g.", self.monitor, rate)
            self.model.optimizer.learning_rate.assign(rate)

    def _rate(self, drops):
        return self.learning_rate * self.factor**drops

    def _error(self, value):
        return 1 - value if self.monitor in HIGHER_IS_BETTER else value


class CountedRates(keras.callbacks.Callback):
    """Learning rates for fixed numbers of updates, after which training ends.

    The rate of an update depends on its number alone, so that a training taken up again
    goes on where it stood. The rate at the end of each epoch appears in the logs.

    Args:
        rates: pairs (learning rate, number of updates).
        steps_per_epoch: batches of an epoch.
        accumulation: batches that make one update.
        epochs: that have passed already, when training is resumed.

    Source: thesis Table 4.2, "Learning Rate (#Iterations)".
    """

    def __init__(self, rates, steps_per_epoch, accumulation=1, epochs=0):
        super().__init__()
        self.rates = tuple(rates)
        self.steps_per_epoch = steps_per_epoch
        self.accumulation = accumulation
        self._step = epochs * steps_per_epoch
        self._rate = None

    @property
    def finished(self):
        """Whether all updates have been made (thesis Table 4.2)."""
        return self._step // self.accumulation >= sum(count for _, count in self.rates)

    def rate_of(self, update):
        """The learning rate of an update, counted from 0 (thesis Table 4.2)."""
        for rate, count in self.rates:
            if update < count:
                return rate
            update -= count
        return self.rates[-1][0]

    def on_epoch_begin(self, epoch, logs=None):
        self._step = epoch * self.steps_per_epoch

    def on_train_batch_begin(self, batch, logs=None):
        rate = self.rate_of(self._step // self.accumulation)
        if rate != self._rate:
            self.model.optimizer.learning_rate.assign(rate)
            self._rate = rate

    def on_train_batch_end(self, batch, logs=None):
        self._step += 1
        if self.finished:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        logs["learning_rate"] = self._rate
        self._step = (epoch + 1) * self.steps_per_epoch
