"""Position-sensitive RoI pooling: each cell of a box reads a map of its own.

A box is cut into k x k bins. Bin (i, j), row i and column j, of output channel c is the
mean of channel (c k + i) k + j of the maps over the bin.

Both layers read a few rows of a table for every bin, and add them with weights: the
table of `PSRoIAlign` is the maps, and four neighbours make a point of a bin; that of
`PSRoIPooling` is their sums over rectangles, and the four corners make a bin of any
size. Its time does not depend on the sizes of the boxes, therefore.

Source: thesis 8.3.2; R-FCN (Li et al. 2016).
"""

import keras
from keras import ops

from zoo.layers._clip import require_positive
from zoo.layers.clip_view import equally_spaced


class _PositionSensitive(keras.layers.Layer):
    """What the layers share: arguments, shapes, and the sums of rows of a table.

    A layer has the `_taps` of all bins along one axis, and `_pooled`, which adds rows
    of the layer's table at these taps.
    """

    def __init__(self, output_dim, group_size=7, spatial_scale=1 / 16, **kwargs):
        super().__init__(autocast=False, **kwargs)
        name = self.__class__.__name__
        require_positive(name, output_dim=output_dim, group_size=group_size)
        if not spatial_scale > 0:
            raise ValueError(
                f"{name}: spatial_scale, cells of the map per pixel of the input, must "
                f"be positive, got {spatial_scale!r}; 1 / 16 for a stride of 16."
            )
        self.output_dim = output_dim
        self.group_size = group_size
        self.spatial_scale = float(spatial_scale)

    def build(self, input_shape):
        self._require_shapes(input_shape)

    def _require_shapes(self, shapes):
        maps, rois = (tuple(shape) for shape in shapes)
        k = self.group_size
        channels = self.output_dim * k**2
        if len(maps) != 4 or maps[-1] != channels or len(rois) != 3 or rois[-1] != 4:
            raise ValueError(
                f"{self.__class__.__name__} ({self.name}) takes [maps [B, H, W, "
                f"{channels}], rois [B, N, 4]] for {self.output_dim} outputs of "
                f"{k} x {k} bins, got shapes {maps} and {rois}; fold the frames of a "
                "clip into the batch."
            )

    def call(self, inputs):
        maps, rois = inputs
        self._require_shapes([maps.shape, rois.shape])
        rois = ops.stop_gradient(_float32(rois))
        # NaN and infinity have no place on the map: such a box is a point outside.
        fine = ops.all(ops.isfinite(rois), axis=-1)[..., None]
        rois = ops.where(fine, rois, -1e6)
        height, width = ops.shape(maps)[1:3]
        rows = self._taps(rois[..., 1], rois[..., 3], height)
        columns = self._taps(rois[..., 0], rois[..., 2], width)
        pooled = self._pooled(self._bins_first(_float32(maps)), rows, columns)
        return ops.cast(pooled, self.compute_dtype)

    def _over_bins(self, extent):
        """`extent` / k by a divisor that is no constant.

        By a constant, TensorFlow's graphs multiply by its reciprocal, and some bins
        would be rounded to end in another cell.
        """
        return extent / ops.where(ops.isfinite(extent), float(self.group_size), 1.0)

    def _bins_first(self, maps):
        """[B, H, W, D k^2] -> [B, H, W, k^2 D]: what a bin reads lies side by side."""
        batch, height, width, channels = ops.shape(maps)
        cells = (batch * height * width, self.output_dim, self.group_size**2)
        maps = ops.transpose(ops.reshape(maps, cells), (0, 2, 1))
        return ops.reshape(maps, (batch, height, width, channels))

    def _added(self, table, rows, columns):
        """Weighted sums of rows of a table.

        Args:
            table: [B, H', W', k^2 D].
            rows, columns: (places [B, N, k, P] int32, weights of the same shape).

        Returns:
            [B, N, k, k, D].
        """
        batch, height, width, _ = ops.shape(table)
        k = self.group_size
        items = ops.reshape(ops.arange(batch, dtype="int32"), (-1, 1, 1, 1))
        bins = ops.reshape(ops.arange(k, dtype="int32"), (k, 1))
        # Row by row of the table: place y, x, then bin i, j.
        y = (items * height + rows[0]) * (width * k * k) + bins * k
        x = columns[0] * (k * k) + bins
        at = y[:, :, :, None, :, None] + x[:, :, None, :, None, :]
        weights = rows[1][:, :, :, None, :, None] * columns[1][:, :, None, :, None, :]
        batch, boxes, *_, taps, _ = ops.shape(at)
        read = ops.take(
            ops.reshape(table, (-1, self.output_dim)), ops.reshape(at, (-1,)), axis=0
        )
        # Not a product of matrices, which a GPU may compute in 10 bits.
        read = ops.reshape(read, (-1, taps * taps, self.output_dim))
        read = ops.sum(read * ops.reshape(weights, (-1, taps * taps, 1)), axis=1)
        return ops.reshape(read, (batch, boxes, k, k, self.output_dim))

    def compute_output_shape(self, input_shape):
        maps, rois = input_shape
        k = self.group_size
        return (maps[0], rois[1], k, k, self.output_dim)

    def compute_output_spec(self, inputs):
        self._require_shapes([x.shape for x in inputs])
        shape = self.compute_output_shape([x.shape for x in inputs])
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "output_dim": self.output_dim,
            "group_size": self.group_size,
            "spatial_scale": self.spatial_scale,
        }


@keras.saving.register_keras_serializable(package="zoo")
class PSRoIPooling(_PositionSensitive):
    """Position-sensitive means over whole cells of the maps.

    Called with [maps [B, H, W, D k^2], rois [B, N, 4]], the RoIs being x1, y1, x2, y2
    in pixels of the input -> [B, N, k, k, D] in the policy's compute dtype; computed in
    float32. No gradient reaches the RoIs. A bin without a cell on the map, as those of
    boxes outside of it or with a NaN have, is 0.

    By default the bins are those of torchvision's ps_roi_pool, to the rounding: a box
    is rounded to whole cells, of which it has one at least, cut into k equal bins,
    whose ends are rounded outwards, and clipped to the map *without its last row and
    column*. (That is what torchvision computes; its gradient is that of bins clipped to
    the whole map. Both are to be had from maps that are padded by a row and a column.)

    With `released`, the bins are those of the released code: a box of whole pixels,
    round(x1) to round(x2) + 1, at least 0.1 cells long, is cut into k bins, whose ends
    are rounded outwards, and clipped to the map. Ends on the edge of a cell are taken
    to lie on it exactly; in CUDA's float32 some gained a cell, depending on the
    compiler.

    The sums over rectangles cost precision: results are exact to a few 1e-6 of the
    largest value of the maps, beside large areas of one sign to 2e-5. A GPU may
    multiply in TF32, which makes them coarser, unless
    `tf.config.experimental.enable_tensor_float_32_execution(False)` is called before. A
    value in the maps that is not finite spoils all boxes of its image.

    Args:
        output_dim: D, channels of the result.
        group_size: k, bins along each side.
        spatial_scale: cells of the map per pixel of the input.
        released: bins of the released code.

    Raises:
        ValueError: sizes below 1, a scale that is not positive, inputs of other shapes.

    Source: thesis 8.3.2; Li et al. 2016.
    """

    def __init__(
        self,
        output_dim,
        group_size=7,
        spatial_scale=1 / 16,
        released=False,
        **kwargs,
    ):
        super().__init__(output_dim, group_size, spatial_scale, **kwargs)
        self.released = bool(released)

    def _pooled(self, maps, rows, columns):
        # What all cells have in common would swell the sums; it is added at the end.
        # Any number would do, so a few rows suffice, and no gradient is due.
        few = ops.take(maps, equally_spaced(ops.shape(maps)[1], 5), axis=1)
        common = ops.stop_gradient(ops.mean(few, axis=(1, 2), keepdims=True))
        means = self._added(self._sums(maps - common), rows, columns)
        k = self.group_size
        common = ops.reshape(common, (-1, 1, k, k, self.output_dim))
        met = (rows[1][..., 1] > 0)[:, :, :, None] & (columns[1][..., 1] > 0)[
            :, :, None
        ]
        return means + ops.where(met[..., None], common, 0.0)

    def _sums(self, maps):
        """Sums over the rectangles from the centre of the maps to every corner."""
        batch, height, width, channels = ops.shape(maps)
        # As products: several times as fast as cumsum on a CPU.
        rows = ops.matmul(_sums_from_centre(width), maps)
        rows = ops.reshape(rows, (batch, height, (width + 1) * channels))
        sums = ops.matmul(_sums_from_centre(height), rows)
        return ops.reshape(sums, (batch, height + 1, width + 1, channels))

    def _taps(self, begin, end, size):
        """First and last corner of each bin, and their weights in the mean over it."""
        first, last = (self._released if self.released else self._whole)(begin, end)
        limit = _float32(size if self.released else size - 1)
        first = ops.minimum(ops.maximum(first, 0.0), limit)
        last = ops.minimum(ops.maximum(last, 0.0), limit)
        cells = last - first
        share = ops.where(cells > 0, 1 / ops.maximum(cells, 1.0), 0.0)
        corners = ops.cast(ops.stack([first, last], axis=-1), "int32")
        return corners, ops.stack([-share, share], axis=-1)

    def _whole(self, begin, end):
        """Corners of the bins [B, N, k] of boxes in whole cells, as torchvision's."""
        start = _rounded(begin * self.spatial_scale)[..., None]
        extent = ops.maximum(_rounded(end * self.spatial_scale)[..., None] - start, 1.0)
        size = self._over_bins(extent)
        bins = ops.arange(self.group_size, dtype="float32")
        return start + ops.floor(bins * size), start + ops.ceil((bins + 1) * size)

    def _released(self, begin, end):
        """Corners of the bins [B, N, k] of boxes of whole pixels."""
        start = (_rounded(begin) * self.spatial_scale)[..., None]
        extent = ((_rounded(end) + 1) * self.spatial_scale)[..., None] - start
        size = ops.maximum(extent, 0.1) / self.group_size
        bins = ops.arange(self.group_size, dtype="float32")
        first, last = start + bins * size, start + (bins + 1) * size
        return ops.floor(_on_edge(first)), ops.ceil(_on_edge(last))

    def get_config(self):
        return {**super().get_config(), "released": self.released}


@keras.saving.register_keras_serializable(package="zoo")
class PSRoIAlign(_PositionSensitive):
    """Position-sensitive means over points of the bins, at which maps are interpolated.

    Called as `PSRoIPooling` is, with the same shapes; as torchvision's ps_roi_align: a
    box is shifted by half a cell and not rounded, a bin is the mean over the points of
    a grid in it, interpolated bilinearly. Points up to one cell outside the map have
    the value of its border, those beyond have 0.

    Args:
        output_dim: D, channels of the result.
        group_size: k, bins along each side.
        spatial_scale: cells of the map per pixel of the input.
        sampling_ratio: points of a bin along each side.

    Raises:
        ValueError: sizes below 1, a scale that is not positive, inputs of other shapes.

    Source: thesis 8.3.2 for the maps; the interpolation is that of He et al. 2017.
    """

    def __init__(
        self,
        output_dim,
        group_size=7,
        spatial_scale=1 / 16,
        sampling_ratio=2,
        **kwargs,
    ):
        super().__init__(output_dim, group_size, spatial_scale, **kwargs)
        require_positive("PSRoIAlign", sampling_ratio=sampling_ratio)
        self.sampling_ratio = sampling_ratio

    def _pooled(self, maps, rows, columns):
        return self._added(maps, rows, columns)

    def _taps(self, begin, end, size):
        """Neighbours of the points of each bin, and their weights in the mean."""
        k, count = self.group_size, self.sampling_ratio
        start = (begin * self.spatial_scale - 0.5)[..., None]
        # In the order of torchvision's sums, whose rounding shows in the results.
        length = self._over_bins((end * self.spatial_scale - 0.5)[..., None] - start)
        first = start + ops.arange(k, dtype="float32") * length
        steps = ops.arange(count, dtype="float32") + 0.5
        at = first[..., None] + steps * length[..., None] / count
        size = _float32(size)
        share = ops.where((at >= -1) & (at <= size), 1 / count, 0.0)
        at = ops.minimum(ops.maximum(at, 0.0), size - 1)
        low = ops.floor(at)
        high = ops.minimum(low + 1, size - 1)
        places = ops.stack([low, high], axis=-1)
        weights = ops.stack([1 - (at - low), at - low], axis=-1) * share[..., None]
        batch, boxes = ops.shape(begin)
        shape = (batch, boxes, k, 2 * count)
        places = ops.cast(ops.reshape(places, shape), "int32")
        return places, ops.reshape(weights, shape)

    def get_config(self):
        return {**super().get_config(), "sampling_ratio": self.sampling_ratio}


def _float32(x):
    return ops.cast(x, "float32")


def _rounded(x):
    """Rounded to whole numbers, halves away from zero as C's round does."""
    whole = ops.trunc(x)
    return whole + ops.where(ops.abs(x - whole) >= 0.5, ops.sign(x), 0.0)


def _on_edge(x):
    """`x`, or the whole number that it misses by a rounding error."""
    nearest = ops.round(x)
    return ops.where(ops.abs(x - nearest) < 1e-3, nearest, x)


def _sums_from_centre(size):
    """Matrix [size + 1, size] of the sums up to each corner from the middle of an axis.

    From there they stay smaller than from the end, and so do rounding errors.
    """
    corners, cells = ops.arange(size + 1)[:, None], ops.arange(size)
    return _float32(cells < corners) - _float32(cells < size // 2)
