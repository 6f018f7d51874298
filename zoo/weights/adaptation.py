"""Kernels of a trained network in the shape that its successor needs.

Three changes keep what the trained network computes: a first layer that sees flow in
place of colour, a 1x1 kernel that spans several frames, and a kernel that reads two
streams side by side.

Source: thesis 4.3.1 (first layer), eq. 4.5 (inflation), section 3.3.1 (concatenation);
the two rules of the first layer are those of the released code.
"""

import numpy as np

from zoo.models.inputs import CHANNELS

RGB, FLOW = CHANNELS["rgb"], CHANNELS["flow"]
FIRST_LAYER = ("mean", "tiled")


def adapt(array, shape, first_layer="mean", order="interleaved"):
    """A trained array in another shape, or None if no rule leads there.

    Args:
        array: weights of a layer, a kernel of any kind.
        shape: the shape wanted.
        first_layer: rule for 3 -> 20 input channels, see `flow_kernel`.
        order: of concatenated channels, see `zoo.layers.ConcatFusion`.

    Source: thesis 4.3.1, eq. 4.5, section 3.3.1.
    """
    have, want = array.shape, tuple(shape)
    if have == want:
        return array
    if len(have) == len(want) == 4 and _but_depth(have, want):
        if (have[2], want[2]) == (RGB, FLOW):
            return flow_kernel(array, first_layer)
        if want[2] == 2 * have[2]:
            return doubled_kernel(array, order)
    if len(want) == 3 and have == (1, 1, *want[1:]):
        return np.stack([array[0, 0] / want[0]] * want[0])
    return None


def _but_depth(have, want):
    return have[:2] == want[:2] and have[3] == want[3]


def flow_kernel(kernel, rule="mean"):
    """First layer for flow from that for colour: [k, k, 3, F] -> [k, k, 20, F].

    Args:
        kernel: trained on RGB.
        rule: "mean", the average over R, G and B in all 20 channels (the release of
            2017, and its VGGs); "tiled", the sequence R G B B G R R G B ..., which is
            "replicating the three RGB filter channels" (the release of 2016).

    Raises:
        ValueError: an unknown rule.

    Source: thesis 4.3.1; released code of chapters 3 to 5.
    """
    if rule not in FIRST_LAYER:
        raise ValueError(
            f"Unknown rule {rule!r} for a first layer; accepted are "
            f"{', '.join(FIRST_LAYER)}."
        )
    if rule == "mean":
        return np.repeat(kernel.mean(axis=2, keepdims=True), FLOW, axis=2)
    period = [*range(RGB), *reversed(range(RGB))]
    return kernel[:, :, [period[i % len(period)] for i in range(FLOW)]]


def doubled_kernel(kernel, order):
    """A kernel after a concatenation that answers as after a sum (thesis 3.3.1).

    Where a pooling stands between the two, it acts on each stream by itself.

    Args:
        kernel: [k, k, C, F]. order: "interleaved" or "block".

    Returns:
        [k, k, 2C, F].
    """
    if order == "interleaved":
        return np.repeat(kernel, 2, axis=2)
    return np.concatenate([kernel, kernel], axis=2)
