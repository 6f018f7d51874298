"""Position-sensitive RoI pooling: each cell of a box reads a map of its own.

A box is cut into k x k bins. Bin (i, j), row i and column j, of output channel c is the
mean of channel (c k + i) k + j of the maps over the bin.

Both layers weigh the cells of a row and of a column separately: a bin is a product of
an interval of rows and one of columns.

Source: thesis 8.3.2; R-FCN (Li et al. 2016).
"""

import keras
from keras import ops

from zoo.layers._clip import require_positive


def _float32(x):
    return ops.cast(x, "float32")


def _rounded(x):
    """Rounded to whole numbers, halves away from zero as C's round does."""
    whole = ops.trunc(x)
    return whole + ops.where(ops.abs(x - whole) >= 0.5, ops.sign(x), 0.0)


class _PositionSensitive(keras.layers.Layer):
    """What the layers share: arguments, shapes, the sum over the cells of a bin."""

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
        channels = self.output_dim * self.group_size**2
        if len(maps) != 4 or maps[-1] != channels or len(rois) != 3 or rois[-1] != 4:
            raise ValueError(
                f"{self.__class__.__name__} ({self.name}) takes [maps [B, H, W, "
                f"{channels}], rois [B, N, 4]] for {self.output_dim} outputs of "
                f"{self.group_size} x {self.group_size} bins, got shapes {maps} and "
                f"{rois}; fold the frames of a clip into the batch."
            )

    def call(self, inputs):
        maps, rois = inputs
        self._require_shapes([maps.shape, rois.shape])
        rois = ops.stop_gradient(_float32(rois))
        # NaN and infinity have no place on the map.
        rois = ops.where(ops.isfinite(rois), rois, 0.0)
        height, width = ops.shape(maps)[1:3]
        rows = self._weights(rois[..., 1], rois[..., 3], height)
        columns = self._weights(rois[..., 0], rois[..., 2], width)
        return ops.cast(self._pooled(_float32(maps), rows, columns), self.compute_dtype)

    def _pooled(self, maps, rows, columns):
        batch, height, width, _ = ops.shape(maps)
        k = self.group_size
        maps = ops.reshape(maps, (batch, height, width, self.output_dim, k, k))
        return ops.einsum("bniy,byxcij,bnjx->bnijc", rows, maps, columns)

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
    """Position-sensitive means: maps [B, H, W, D k^2], rois [B, N, 4] -> [B, N, k, k, D].

    As torchvision's ps_roi_pool, to the rounding: a box is rounded to whole cells, at
    least one, cut into bins of equal size whose ends are rounded outwards, and clipped
    to the map without its last row and column.

    Source: thesis 8.3.2, Li et al. 2016.
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

    def _weights(self, begin, end, size):
        """Share of each cell in the mean over a bin along one axis, [B, N, k, size]."""
        first, last = (self._released if self.released else self._whole)(begin, end)
        size = _float32(size)
        limit = size if self.released else size - 1
        first = ops.minimum(ops.maximum(first, 0.0), limit)[..., None]
        last = ops.minimum(ops.maximum(last, 0.0), limit)[..., None]
        cells = ops.arange(size, dtype="float32")
        inside = (first <= cells) & (cells < last)
        return _float32(inside) / ops.maximum(last - first, 1.0)

    def _whole(self, begin, end):
        """First cells of the bins and those after the last, as torchvision's."""
        start = _rounded(begin * self.spatial_scale)[..., None]
        extent = ops.maximum(_rounded(end * self.spatial_scale)[..., None] - start, 1.0)
        # A divisor that is no constant, else TensorFlow multiplies by its reciprocal,
        # and the ends of some bins round to another cell.
        size = extent / ops.where(extent > 0, float(self.group_size), 1.0)
        bins = ops.arange(self.group_size, dtype="float32")
        return start + ops.floor(bins * size), start + ops.ceil((bins + 1) * size)

    def _released(self, begin, end):
        """The same as in the released code: boxes of whole pixels, end included."""
        start = (_rounded(begin) * self.spatial_scale)[..., None]
        extent = ((_rounded(end) + 1) * self.spatial_scale)[..., None] - start
        size = ops.maximum(extent, 0.1) / self.group_size
        bins = ops.arange(self.group_size, dtype="float32")
        return ops.floor(_snapped(bins * size + start)), ops.ceil(
            _snapped((bins + 1) * size + start)
        )

    def get_config(self):
        return {**super().get_config(), "released": self.released}


def _snapped(x):
    """`x`, or the whole number that it misses by a rounding error."""
    nearest = ops.round(x)
    return ops.where(ops.abs(x - nearest) < 1e-3, nearest, x)


@keras.saving.register_keras_serializable(package="zoo")
class PSRoIAlign(_PositionSensitive):
    """As `PSRoIPooling`, of values interpolated at points of the bins, unrounded.

    As torchvision's ps_roi_align.

    Source: thesis 8.3.2 for the maps; RoIAlign is that of He et al. 2017.
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

    def _weights(self, begin, end, size):
        """Weight of each cell in the mean over a bin's points, [B, N, k, size]."""
        start = begin * self.spatial_scale - 0.5
        extent = end * self.spatial_scale - 0.5 - start
        points = self.group_size * self.sampling_ratio
        steps = (ops.arange(points, dtype="float32") + 0.5) / points
        at = start[..., None] + steps * extent[..., None]
        size = _float32(size)
        outside = (at < -1) | (at > size)
        at = ops.minimum(ops.maximum(at, 0.0), size - 1)[..., None]
        shares = ops.relu(1 - ops.abs(ops.arange(size, dtype="float32") - at))
        shares = ops.where(outside[..., None], 0.0, shares)
        *lead, _, cells = ops.shape(shares)
        shape = (*lead, self.group_size, self.sampling_ratio, cells)
        return ops.mean(ops.reshape(shares, shape), axis=-2)

    def get_config(self):
        return {**super().get_config(), "sampling_ratio": self.sampling_ratio}
