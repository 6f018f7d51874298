"""From the last map of a network to class probabilities.

Source: thesis 7.3.3 and 4.3.5: raw scores are averaged over all positions, frames and
streams, then comes the softmax.
"""

import numbers

import keras


def in_full():
    """The type of scores: float32 under half-precision policies (thesis 7.3.3)."""
    compute = keras.config.dtype_policy().compute_dtype
    return keras.backend.result_type(compute, "float32")


def require_classes(num_classes):
    """`num_classes` as an int (thesis section 3.4: every data set has its own).

    Raises:
        ValueError: no positive whole number.
    """
    whole = isinstance(num_classes, numbers.Integral)
    if not whole or isinstance(num_classes, bool) or num_classes < 1:
        raise ValueError(
            f"num_classes must be a positive integer, got {num_classes!r}; for "
            "features without a classifier use zoo.features(model, ['pool5'])."
        )
    return int(num_classes)


def score_map(x, num_classes, prefix=""):
    """Raw scores at every position: [B, T, H, W, C] -> [B, T, H, W, num_classes].

    Source: the last fully connected layer of thesis Table 4.1.
    """
    initializer = keras.initializers.RandomNormal(stddev=0.01)
    dense = keras.layers.Dense(
        require_classes(num_classes), kernel_initializer=initializer, name=f"{prefix}fc"
    )
    return dense(x)


def average_scores(scores, prefix=""):
    """Mean over frames and positions: [B, T, H, W, K] -> [B, K] (thesis 7.3.3)."""
    average = keras.layers.GlobalAveragePooling3D(
        dtype=in_full(), name=f"{prefix}logits"
    )
    return average(scores)


def predict(logits, activation):
    """The activation of averaged scores, [B, K] (thesis 7.3.3)."""
    activate = keras.layers.Activation(activation, dtype=in_full(), name="predictions")
    return activate(logits)
