"""What keeps a preferred input natural: bounded, and smooth in space and in time.

Inputs are in the units of the network: RGB less its mean, and flow scaled to the same
range (20 pixels are 127.5). Every penalty is the thesis' sum under the thesis' weight,
1 / (H W B^alpha) or 1 / (H W V^2), and averaged over frames, so that none depends on
the size or the length of the clip.

Source: thesis eq. 6.2-6.7 and section 6.4; Mahendran and Vedaldi (2016).
"""

import dataclasses

from keras import ops

KINDS = ("2d", "3d", "2d1d")
BOUND = 160.0  # B
POWER = 3  # alpha
DEVIATION = BOUND / 6.5  # V


@dataclasses.dataclass(frozen=True)
class Smoothness:
    """The variational regulariser of the flow input (thesis eq. 6.3-6.5).

    Attributes:
        kind: "2d", free in time (eq. 6.3); "3d", the same in space and time (eq. 6.4);
            "2d1d", in time as strong as `chi` (eq. 6.5).
        kappa: strength of "3d", thesis 10 to 1. chi: slowness of "2d1d", thesis 10 to
            0; 0 is "2d".
        weight: of flow against RGB, 10 in the thesis.

    Raises:
        ValueError: an unknown kind, or a strength that is not a number of at least 0.
    """

    kind: str = "2d1d"
    kappa: float = 1.0
    chi: float = 1.0
    weight: float = 10.0

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(
                f"Unknown kind of smoothness {self.kind!r}; accepted are "
                f"{', '.join(map(repr, KINDS))}."
            )
        for name in ("kappa", "chi", "weight"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 <= value < float("inf")):
                raise ValueError(
                    f"{name} must be a number of at least 0, got {value!r}."
                )

    def __call__(self, x):
        """The penalty of every input, [U, N, H, W, C] -> [U] (thesis eq. 6.7)."""
        if self.kind == "3d":
            penalty = self.kappa * (variation_in_space(x) + variation_in_time(x))
        elif self.kind == "2d1d" and self.chi:
            penalty = variation_in_space(x) + self.chi * variation_in_time(x)
        else:
            penalty = variation_in_space(x)
        return self.weight * penalty


def range_penalty(x):
    """Weighted eq. 6.2 within the bound, [U, N, H, W, C] -> [U].

    Beyond the bound it is infinite: `projected` keeps inputs out of there.
    """
    squared = ops.sum(ops.square(x / BOUND), axis=-1)
    # Not zero, where the root has no gradient.
    return ops.mean(ops.power(squared + 1e-12, POWER / 2), axis=(1, 2, 3))


def projected(x):
    """The nearest input within the bound of eq. 6.2, [U, N, H, W, C]."""
    length = ops.sqrt(ops.sum(ops.square(x), axis=-1, keepdims=True))
    return x * ops.minimum(1.0, BOUND / ops.maximum(length, 1e-12))


def variation_in_space(x):
    """Weighted eq. 6.3: squared differences to the right and below, [U]."""
    down = ops.sum(ops.square(x[:, :, 1:] - x[:, :, :-1]), axis=(1, 2, 3, 4))
    right = ops.sum(ops.square(x[..., 1:, :] - x[..., :-1, :]), axis=(1, 2, 3, 4))
    return (down + right) / _weight(x)


def variation_in_time(x):
    """The temporal sum of eq. 6.4 and 6.5, weighted alike, [U]."""
    later = ops.sum(ops.square(x[:, 1:] - x[:, :-1]), axis=(1, 2, 3, 4))
    return later / _weight(x)


def _weight(x):
    frames, height, width = ops.shape(x)[1:4]
    return ops.cast(frames * height * width, x.dtype) * DEVIATION**2
