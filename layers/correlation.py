"""Correlation of two feature maps over a square of displacements.

Computed as products of matrices: a block of R x b cells of the first map against all
cells of the second that any of them can reach. Of such a product the places (cell,
cell + displacement) are cut out, less than half of it. Rows of a block lie reversed:
then one step in the block and the step back in the displacement are a fixed distance in
memory, and cutting out is slicing, without an index per number.

Source: thesis 8.3.4, eq. 8.4; Dosovitskiy et al. 2015.
"""

import math

import keras
from keras import ops

from zoo.layers._clip import require_positive

BLOCK = 8  # rows and columns of a block, about: measured, see benchmarks/correlation.py


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

    Working memory: the cells of the second map that blocks of 8 output columns meet,
    (7 s + 2 r + 1) / (8 s) times that map (three times for max_displacement 8), or half
    as often again for a gradient, and some five times the output.

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
    size = _rows_of_a_block(radius, stride // math.gcd(stride, step))
    rows = _Axis(height, radius, stride, step, size)
    columns = _Axis(width, radius, stride, step, BLOCK)
    # The last row is the zero outside of the map.
    second_cells = ops.pad(ops.reshape(second, (-1, channels)), ((0, 1), (0, 0)))
    x = _rows(_flat_like(first, second), *_first_cells(batch, rows, columns))
    y = _rows(second_cells, *_second_cells(batch, rows, columns))
    x = ops.reshape(x, (rows.blocks, -1, rows.size * columns.size, channels))
    y = ops.reshape(
        y, (rows.before + rows.blocks, -1, rows.advance * columns.reach, channels)
    )
    found = _cut_out(_products(x, y, rows), rows, columns)
    found = _rows(found, *_outputs(batch, rows, columns))
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


def _rows_of_a_block(radius, s):
    """About BLOCK, so that whole blocks of s size rows make a radius."""
    return max(4, -(-radius // (s * max(1, radius // (BLOCK * s)))))


class _Axis:
    """How one axis is cut into blocks; all the numbers of the rows, or of the columns.

    With the greatest common divisor g of both strides, s = stride / g, e = step / g,
    the outputs i = e n + q of one phase q < e meet cells stride q + step m of the
    second map, at displacements m - s n: in every phase, strides of s and 1.

    Attributes:
        cells, outputs: numbers of cells of the maps, and of outputs.
        phases: e.
        size: outputs of a block, all of one phase.
        advance: s size, cells m of the second map between neighbouring blocks.
        blocks: blocks of a phase.
        ahead: blocks that the smallest displacement reaches back.
        shifts: blocks of the second map that a block meets.
        before: blocks that begin before cell 0 of the second map and meet it
            nevertheless, being of another phase.
        excess: cells of the first block met that no displacement reaches.
        reach: cells that the outputs of one block meet.
    """

    def __init__(self, cells, radius, stride, step, size):
        common = math.gcd(stride, step)
        self.cells, self.radius = cells, radius
        self.stride, self.step, self.common = stride, step, common
        self.s, self.phases = stride // common, step // common
        self.outputs = -(-cells // stride)
        self.size = size
        self.advance = self.s * self.size
        self.blocks = -(-self.outputs // (self.phases * self.size))
        self.ahead = -(-radius // self.advance)
        self.shifts = self.ahead + 1 - (self.s - radius - 1) // self.advance
        self.before = min(self.ahead, int(self.s > 1 and self.phases > 1))
        self.excess = self.ahead * self.advance - radius
        self.reach = self.s * (self.size - 1) + 2 * radius + 1

    def outputs_of_blocks(self):
        """Outputs of all blocks, reversed in each, [phases, blocks, size]."""
        n = ops.reshape(ops.arange(self.blocks * self.size), (1, -1, self.size))
        return ops.flip(n, -1) * self.phases + ops.arange(self.phases)[:, None, None]

    def place_of(self, output):
        """(phase, block, place in the block) of outputs."""
        n = output // self.phases
        return output % self.phases, n // self.size, self.size - 1 - n % self.size

    def cells_met(self, begin, length, blocks):
        """Cells begin + 0, ..., length - 1 of every block, [phases, blocks, length]."""
        m = ops.arange(blocks)[:, None] * self.advance + begin + ops.arange(length)
        return m * self.step + ops.arange(self.phases)[:, None, None] * self.stride

    def phase_of_cells(self):
        """(phase, m, whether outputs meet it) of the second map's cells."""
        cell = ops.arange(self.cells)
        inverse = pow(self.s, -1, self.phases)
        phase = (cell // self.common * inverse) % self.phases
        return phase, (cell - phase * self.stride) // self.step, cell % self.common == 0


def _items(batch, rank):
    """Numbers of the items, to be added to [.., item, ..] with `rank` axes behind."""
    return ops.reshape(ops.arange(batch), (-1, *[1] * rank))


def _flat(index):
    return ops.reshape(index, (-1,))


def _blocks(batch, rows, columns):
    """(item, row, column) of the outputs at all places, and whether they exist.

    Places are in order of block of rows, phase of rows, item, phase of columns, block
    of columns, column, row.
    """
    i = ops.transpose(rows.outputs_of_blocks(), (1, 0, 2))
    i = i[:, :, None, None, None, None, :]
    j = columns.outputs_of_blocks()[:, :, :, None]
    exists = (i < rows.outputs) & (j < columns.outputs)
    return _items(batch, 4), i, j, exists


def _places(batch, rows, columns, i, j):
    """Places in the blocks of outputs (i, j) of every item, [B, len(i), len(j)]."""
    phase, block, row = (x[:, None] for x in rows.place_of(i))
    column_phase, column_block, column = columns.place_of(j)
    place = (block * rows.phases + phase) * batch + _items(batch, 2)
    place = (place * columns.phases + column_phase) * columns.blocks + column_block
    return (place * columns.size + column) * rows.size + row


def _first_cells(batch, rows, columns):
    """(cells of the first map at all places, places of all its cells) for `_rows`."""
    item, i, j, exists = _blocks(batch, rows, columns)
    cells = (item * rows.cells + i * rows.stride) * columns.cells + j * columns.stride
    y, x = ops.arange(rows.cells), ops.arange(columns.cells)
    places = _places(batch, rows, columns, y // rows.stride, x // columns.stride)
    used = (y % rows.stride == 0)[:, None] & (x % columns.stride == 0)
    # What lies where no output exists is never looked at: any cell will do.
    return _flat(ops.where(exists, cells, 0)), _flat(ops.where(used, places, -1))[None]


def _outputs(batch, rows, columns):
    """(places of all outputs, outputs at all places) for `_rows`."""
    item, i, j, exists = _blocks(batch, rows, columns)
    outputs = (item * rows.outputs + i) * columns.outputs + j
    i, j = ops.arange(rows.outputs), ops.arange(columns.outputs)
    places = _places(batch, rows, columns, i, j)
    return _flat(places), _flat(ops.where(exists, outputs, -1))[None]


def _second_cells(batch, rows, columns):
    """(cells of the second map that blocks meet, places of all its cells) for `_rows`.

    Cell B H W is the one outside. Places are in order of block of rows, phase of rows,
    item, phase of columns, block of columns, row, column; the columns of neighbouring
    blocks overlap.
    """
    begin = -rows.before * rows.advance
    i = rows.cells_met(begin, rows.advance, rows.before + rows.blocks)
    i = ops.transpose(i, (1, 0, 2))[:, :, None, None, None, :, None]
    j = columns.cells_met(-columns.radius, columns.reach, columns.blocks)
    j = j[:, :, None, :]
    inside = (i >= 0) & (i < rows.cells) & (j >= 0) & (j < columns.cells)
    cells = (_items(batch, 4) * rows.cells + i) * columns.cells + j
    cells = ops.where(inside, cells, batch * rows.cells * columns.cells)

    phase, m, met = (x[:, None] for x in rows.phase_of_cells())
    block, row = (m - begin) // rows.advance, (m - begin) % rows.advance
    above = (block * rows.phases + phase) * batch + _items(batch, 2)
    phase, m, column_met = columns.phase_of_cells()
    met = met & (block >= 0) & column_met
    places = []
    for back in range(-(-columns.reach // columns.advance)):
        block = (m + columns.radius) // columns.advance - back
        column = m + columns.radius - block * columns.advance
        there = (block >= 0) & (block < columns.blocks) & (column < columns.reach)
        place = (above * columns.phases + phase) * columns.blocks + block
        place = (place * rows.advance + row) * columns.reach + column
        places.append(_flat(ops.where(met & there, place, -1)))
    places = ops.pad(ops.stack(places), ((0, 0), (0, 1)), constant_values=-1)
    return _flat(cells), places


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
