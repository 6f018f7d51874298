"""Which cells of two maps lie in which block of a correlation.

The bookkeeping of `zoo.layers.correlation`, where the blocks are multiplied. All of it
is arithmetic with sizes, which may be unknown until a graph runs; any strides are met
by choosing cells, so the products know of none.

Source: thesis eq. 8.4 for the cells that meet; the blocks are ours.
"""

import math

from keras import ops

# Rows and columns of a block, about. Of 4, 8 and 16 the fastest on a CPU: larger blocks
# multiply more that is cut away, smaller ones copy the second map more often.
BLOCK = 8


def rows_of_a_block(radius, s):
    """About BLOCK, so that whole blocks of s size rows make a radius."""
    return max(4, -(-radius // (s * max(1, radius // (BLOCK * s)))))


class Axis:
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


def first_cells(batch, rows, columns):
    """(cells of the first map at all places, places of all its cells) for `_rows`."""
    item, i, j, exists = _blocks(batch, rows, columns)
    cells = (item * rows.cells + i * rows.stride) * columns.cells + j * columns.stride
    y, x = ops.arange(rows.cells), ops.arange(columns.cells)
    places = _places(batch, rows, columns, y // rows.stride, x // columns.stride)
    used = (y % rows.stride == 0)[:, None] & (x % columns.stride == 0)
    # What lies where no output exists is never looked at: any cell will do.
    return _flat(ops.where(exists, cells, 0)), _flat(ops.where(used, places, -1))[None]


def outputs(batch, rows, columns):
    """(places of all outputs, outputs at all places) for `_rows`."""
    item, i, j, exists = _blocks(batch, rows, columns)
    outputs = (item * rows.outputs + i) * columns.outputs + j
    i, j = ops.arange(rows.outputs), ops.arange(columns.outputs)
    places = _places(batch, rows, columns, i, j)
    return _flat(places), _flat(ops.where(exists, outputs, -1))[None]


def second_cells(batch, rows, columns):
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
