"""Correlation of two feature maps over a square of displacements.

Computed as products of matrices: a block of R x b cells of the first map against all
cells of the second that any of them can reach. Of such a product the places (cell,
cell + displacement) are cut out, about half of it. Rows and columns of a block lie
reversed: then a step in the block and the step back in the displacement are a fixed
distance in memory, and cutting out is slicing, without an index per number.

Source: thesis 8.3.4, eq. 8.4; Dosovitskiy et al. 2015.
"""

import math

import keras
from keras import ops

from zoo.layers._clip import require_positive
from zoo.layers._correlation_blocks import (
    BLOCK,
    Axis,
    first_cells,
    outputs,
    rows_of_a_block,
    second_cells,
)


@keras.saving.register_keras_serializable(package="zoo")
class Correlation(keras.layers.Layer):
    """Similarity of two maps [B, H, W, C] at displacements: -> [B, h, w, (2r + 1)^2].

    With s the stride, e the displacement stride and r = floor(max_displacement / e),

        y[.., i, j, (p + r)(2r + 1) + q + r] = 1/C <first[.., s i, s j, :],
                                                    second[.., s i + e p, s j + e q, :]>

    for -r <= p, q <= r: the vertical displacement p is the slow one. The second map is
    zero outside. h = ceil(H / s), w = ceil(W / s). The sums are taken in float32 (or
    better); half-precision policies round the result alone.

    The thesis has max_displacement 8 for all maps and a stride of 2 for conv3, 289
    channels; the released code also has a displacement stride of 2 there, 81 channels,
    and its mean over the channels is the default here.

    Working memory is that of the second map's cells that blocks of 8 output columns
    meet, (7 s + 2 r + 1) / (8 s) times the map, and some five times the output: with
    1024 channels, max_displacement 8 and a stride of 1 about 5 maps in all, 14 with the
    gradient.

    Args:
        max_displacement: d, in cells of the maps, 1 or more.
        stride: s, cells between neighbouring outputs, 1 or more.
        displacement_stride: e, cells between neighbouring displacements, 1 or more.
        normalize: divide by the number of channels, as released; False gives the inner
            product of eq. 8.4.

    Raises:
        ValueError: a size below 1; inputs that are not two maps [B, H, W, C] of one
            shape with a known number of channels.

    Source: thesis eq. 8.4; the arguments are those of FlowNet's layer (Dosovitskiy et
    al. 2015) with kernels of one cell and padding by max_displacement.
    """

    def __init__(
        self,
        max_displacement,
        stride=1,
        displacement_stride=1,
        normalize=True,
        **kwargs,
    ):
        # Inputs are not cast to a half-precision policy: the sums are float32.
        super().__init__(autocast=False, **kwargs)
        require_positive(
            "Correlation",
            max_displacement=max_displacement,
            stride=stride,
            displacement_stride=displacement_stride,
        )
        self.max_displacement = max_displacement
        self.stride = stride
        self.displacement_stride = displacement_stride
        self.normalize = bool(normalize)

    @property
    def radius(self):
        """r, the largest displacement in steps of the displacement stride."""
        return self.max_displacement // self.displacement_stride

    def build(self, input_shape):
        self._require_shapes(input_shape)

    def _require_shapes(self, shapes):
        pair = isinstance(shapes, list | tuple) and len(shapes) == 2
        shapes = [tuple(s) if hasattr(s, "__len__") else s for s in shapes]
        if not pair or not _of_one_shape(*shapes):
            raise ValueError(
                f"Correlation ({self.name}) takes [first, second], two maps [B, H, W, "
                "C] of one shape with a known number of channels, got shapes "
                f"{shapes}; fold the frames of a clip into the batch, and resize or "
                "pad the smaller map."
            )

    def call(self, inputs):
        self._require_shapes([x.shape for x in inputs])
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        first, second = (ops.cast(x, dtype) for x in inputs)
        y = _correlate(
            first,
            second,
            self.radius,
            self.stride,
            self.displacement_stride,
        )
        if self.normalize:
            y = y * (1 / first.shape[-1])
        return ops.cast(y, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape[0]
        height, width = (
            None if n is None else -(-n // self.stride) for n in (height, width)
        )
        return (batch, height, width, (2 * self.radius + 1) ** 2)

    def compute_output_spec(self, inputs):
        shapes = [x.shape for x in inputs]
        self._require_shapes(shapes)
        return keras.KerasTensor(
            self.compute_output_shape(shapes), dtype=self.compute_dtype
        )

    def get_config(self):
        return {
            **super().get_config(),
            "max_displacement": self.max_displacement,
            "stride": self.stride,
            "displacement_stride": self.displacement_stride,
            "normalize": self.normalize,
        }


def _of_one_shape(first, second):
    """Whether both are [B, H, W, C], equal as far as known, with a known C."""
    if not (isinstance(first, tuple) and isinstance(second, tuple)):
        return False
    if not len(first) == len(second) == 4 or None in (first[-1], second[-1]):
        return False
    pairs = zip(first, second, strict=True)
    return all(a is None or b is None or a == b for a, b in pairs)


def _correlate(first, second, radius, stride, step):
    """The inner products, [B, h, w, (2 radius + 1)^2]."""
    batch, height, width, channels = ops.shape(second)
    size = rows_of_a_block(radius, stride // math.gcd(stride, step))
    rows = Axis(height, radius, stride, step, size)
    columns = Axis(width, radius, stride, step, BLOCK)
    # The last row is the zero outside of the map.
    met = ops.pad(ops.reshape(second, (-1, channels)), ((0, 1), (0, 0)))
    x = _rows(_flat_like(first, second), *first_cells(batch, rows, columns))
    y = _rows(met, *second_cells(batch, rows, columns))
    x = ops.reshape(x, (rows.blocks, -1, rows.size * columns.size, channels))
    y = ops.reshape(
        y, (rows.before + rows.blocks, -1, rows.advance * columns.reach, channels)
    )
    found = _cut_out(_products(x, y, rows), rows, columns)
    found = _rows(found, *outputs(batch, rows, columns))
    shape = (batch, rows.outputs, columns.outputs, (2 * radius + 1) ** 2)
    return ops.reshape(found, shape)


def _flat_like(x, like):
    """[B, H, W, C] -> [B H W, C] of a map of the size of `like`.

    Known sizes have been compared before; where others differ, a graph that runs fails
    in "maps_of_different_size".
    """
    sizes = list(zip(ops.shape(x)[:-1], ops.shape(like)[:-1], strict=True))
    differ = sum((a - b) * (a - b) for a, b in sizes)
    cells = sizes[0][1] * sizes[1][1] * sizes[2][1]
    with keras.name_scope("maps_of_different_size"):
        return ops.reshape(x, (cells + differ, x.shape[-1]))


def _rows(x, index, inverse):
    """Rows `index` of x [N, C], a copy whose gradient is a copy, too.

    The gradient of a general choice of rows adds them up one by one, which is slow.

    Args:
        index: [M].
        inverse: [K, N]: the places in `index` that have row n and whose gradient
            counts, -1 for none.
    """

    @ops.custom_gradient
    def choose(x):
        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            padded = ops.pad(upstream, ((1, 0), (0, 0)))
            parts = [
                ops.take(padded, inverse[k] + 1, axis=0)
                for k in range(inverse.shape[0])
            ]
            return sum(parts[1:], parts[0])

        return ops.take(x, index, axis=0), gradient

    return choose(x)


def _products(x, y, rows):
    """Products of every block of outputs and the blocks of cells that it meets.

    Args:
        x: [blocks, N, outputs of a block, C].
        y: [before + blocks, N, cells of a block, C].

    Returns:
        [blocks, N, outputs of a block, shifts * cells of a block], zero where a block
        would lie outside of the second map. Its gradient is made of products, too.
    """
    cells = y.shape[2]
    pairs = [_Pairs(rows, shift) for shift in range(rows.shifts)]

    @ops.custom_gradient
    def multiply(x, y):
        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            of_x, xs, zs = 0, [], []
            for shift, pair in enumerate(pairs):
                z = pair.outputs(upstream)[..., shift * cells : (shift + 1) * cells]
                of_x = of_x + pair.at_outputs(ops.matmul(z, pair.met(y)))
                xs.append(pair.at_met(pair.outputs(x)))
                zs.append(pair.at_met(z))
            zs, xs = (ops.concatenate(parts, axis=2) for parts in (zs, xs))
            return of_x, ops.einsum("bnij,bnik->bnjk", zs, xs)

        parts = [
            pair.at_outputs(ops.einsum("bnjk,bnik->bnji", pair.met(y), pair.outputs(x)))
            for pair in pairs
        ]
        # The larger block first, then transposed: faster than the other way around.
        z = ops.transpose(ops.concatenate(parts, axis=2), (0, 1, 3, 2))
        return z, gradient

    return multiply(x, y)


class _Pairs:
    """Which blocks meet which at one shift: `count` of each, from a first one on."""

    def __init__(self, rows, shift):
        back = rows.ahead - rows.before - shift
        blocks, met = rows.blocks, rows.before + rows.blocks
        first, first_met = max(0, back), max(0, -back)
        self._first = _least(first, blocks)
        self._first_met = _least(first_met, met)
        self._count = -_least(-_least(blocks - first, met - first_met), 0)
        self._after = blocks - self._first - self._count
        self._after_met = met - self._first_met - self._count

    def outputs(self, x):
        return x[self._first : self._first + self._count]

    def met(self, y):
        return y[self._first_met : self._first_met + self._count]

    def at_outputs(self, z):
        """[count, ..] -> [blocks, ..], zero where a block meets none."""
        return _between(z, self._first, self._after)

    def at_met(self, z):
        return _between(z, self._first_met, self._after_met)


def _least(a, b):
    """The smaller of two sizes, a number if both are."""
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else ops.minimum(a, b)


def _between(x, before, after):
    """X between blocks of zeros."""
    return ops.pad(x, ((before, after), *[(0, 0)] * (len(x.shape) - 1)))


def _cut_out(products, rows, columns):
    """The displacements of every output, [places, (2r + 1)^2].

    A product has the number of output (column c, row r, both reversed) and cell (row v,
    column u) at ((c R + r) V + v) U + u. Displacement (p, q) has v + s r and u + s c
    fixed: the next row is at a distance of V U - s U, the next column of R V U - s.
    """
    wanted = 2 * rows.radius + 1
    reach, s = columns.reach, rows.s
    height = rows.shifts * rows.advance
    z = ops.reshape(products, (-1, height * reach))
    if rows.excess:
        z = z[:, rows.excess * reach :]
        height -= rows.excess
    column = rows.size * height * reach - s
    z = ops.reshape(z, (-1, columns.size * (column + s)))
    begin = s * (columns.size - 1)
    z = z[:, begin : begin + columns.size * column]
    row = (height - s) * reach
    begin = s * (rows.size - 1) * reach
    z = ops.reshape(z, (-1, column))[:, begin : begin + rows.size * row]
    z = ops.reshape(z, (-1, row))[:, : wanted * reach]
    z = ops.reshape(z, (-1, reach))[:, :wanted]
    return ops.reshape(z, (-1, wanted**2))
