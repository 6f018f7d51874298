"""The optimiser of the thesis: momentum whose step, not its memory, is scaled.

Source: the released code (MatConvNet); thesis 7.3.3 and 3.3.5 for the values.
"""

import keras
from keras import ops

# (learning rate, weight decay) multipliers by the name of a variable; the released
# code gives biases and BN scales twice the rate and lets no bias or BN weight decay.
MULTIPLIERS = {
    "kernel": (1.0, 1.0),
    "scale": (1.0, 1.0),
    "bias": (2.0, 0.0),
    "gamma": (2.0, 0.0),
    "beta": (1.0, 0.0),
}


@keras.saving.register_keras_serializable(package="zoo")
class ThesisSGD(keras.optimizers.SGD):
    """Stochastic gradient descent with momentum as the released code does it.

        v <- momentum v - (l2 d w + g)        w <- w + learning_rate r v

    with r and d from `MULTIPLIERS`. It differs from keras.optimizers.SGD in three ways:

    - `l2` is the gradient of a penalty l2/2 |w|^2 and goes through the momentum. Keras'
      `weight_decay` shrinks w beside the momentum, which is 1 / (1 - momentum) = 10
      times weaker for the same number.
    - The learning rate scales v as a whole, so a 10x drop acts at once; in Keras' form
      the velocity gathered at the old rate goes on for some ten steps.
    - Biases and scales of batch normalisation learn at twice the rate; only kernels
      and affine scales decay.
    - `accumulation` averages the gradients of several batches for one update, under
      tf.distribute as well, where Keras' `gradient_accumulation_steps` does not work.

    Args:
        learning_rate: number or schedule.
        momentum: factor of the velocity, 0 < momentum < 1.
        l2: weight decay of the thesis, 5e-4.
        accumulation: batches whose gradients make one update; `iterations` counts
            batches.
        **kwargs: of keras.optimizers.SGD.

    Source: released code of thesis chapters 4, 5 and 7 (cnn_train_dag, setLrWd).
    """

    def __init__(
        self, learning_rate=1e-2, momentum=0.9, l2=5e-4, accumulation=1, **kwargs
    ):
        if not 0 < momentum < 1:
            raise ValueError(
                f"momentum must lie between 0 and 1 (0.9 in the thesis); got {momentum}"
            )
        if accumulation < 1:
            raise ValueError(f"accumulation must be at least 1; got {accumulation}")
        super().__init__(learning_rate, momentum=float(momentum), **kwargs)
        self.l2 = float(l2)
        self.accumulation = accumulation

    def build(self, variables):
        if not self.built:
            self._multipliers = [MULTIPLIERS.get(v.name, (1.0, 1.0)) for v in variables]
        super().build(variables)
        if self.accumulation > 1:
            self._gathered = self.add_optimizer_variables(variables, "gathered")

    def update_step(self, gradient, variable, learning_rate):
        dtype = variable.dtype
        index = self._get_variable_index(variable)
        velocity = self.momentums[index]
        rate, decay = self._multipliers[index]
        force = ops.cast(gradient, dtype)
        due = None
        if self.accumulation > 1:
            force, due = self._gather(force, self._gathered[index])
        if self.l2 * decay:
            force = force + ops.cast(self.l2 * decay, dtype) * variable
        updated = ops.cast(self.momentum, dtype) * velocity - force
        step = ops.cast(learning_rate, dtype) * ops.cast(rate, dtype)
        if due is not None:
            updated = ops.where(due, updated, velocity)
            step = ops.where(due, step, ops.zeros_like(step))
        self.assign(velocity, updated)
        self.assign_add(variable, step * updated)

    def _gather(self, gradient, gathered):
        """The mean gradient of the batches so far, and whether an update is due."""
        due = ops.equal((self.iterations + 1) % self.accumulation, 0)
        total = gathered + gradient
        self.assign(gathered, ops.where(due, ops.zeros_like(total), total))
        return total / ops.cast(self.accumulation, total.dtype), due

    def get_config(self):
        config = {**super().get_config(), "l2": self.l2}
        return {**config, "accumulation": self.accumulation}


OPTIMIZERS = {"sgd": ThesisSGD, "adam": keras.optimizers.Adam}


def make_optimizer(name, learning_rate, accumulation=1):
    """An optimiser by name.

    Args:
        name: "sgd", the thesis' (`ThesisSGD`), or "adam" (Kingma and Ba 2015).
        learning_rate: the first one; a schedule may lower it.
        accumulation: number of batches whose gradients are averaged for one update.

    Raises:
        ValueError: another name.

    Source: thesis 7.3.3.
    """
    if name not in OPTIMIZERS:
        raise ValueError(
            f"Unknown optimizer {name!r}; accepted are {', '.join(OPTIMIZERS)}."
        )
    if name == "sgd":
        return ThesisSGD(learning_rate, accumulation=accumulation)
    steps = accumulation if accumulation > 1 else None
    return OPTIMIZERS[name](learning_rate, gradient_accumulation_steps=steps)
