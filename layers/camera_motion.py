"""Motion of the camera taken out of optical flow, inside the network.

Between two frames of a video the background moves by a homography, exactly where the
scene is far or flat or the camera only turns. It is the motion of most of the picture,
so it is found by a robust fit to the flow and its displacements are subtracted; what
remains is the motion of whatever moves by itself.

Source: Wang and Schmid 2013, "Action recognition with improved trajectories", section 3
(IDT of thesis 3.4.5); sampled hypotheses of Fischler and Bolles 1981; weights of Beaton
and Tukey 1974.
"""

import functools
import random

import keras
from keras import ops

from zoo.layers._clip import require_positive
from zoo.layers.clip_view import equally_spaced

HYPOTHESES = 256
"""Homographies tried per field: with 40 % outliers about 33 have four sound points."""
SCORED = 3
"""Hypotheses are compared on every third point, which ranks them as well as all."""
SCORING = 0.25
"""Distance, in tolerances, at which a point counts half for a hypothesis. At twice that
a blend of two motions 1.5 pixels apart scores like the larger of them."""
CUTOFFS = (1.5, 1.0, 0.7, 0.5, 0.5)
"""Distances at which points cease to count in each refinement, in tolerances."""
RIDGE = 1e-6
"""Share of the mean diagonal added to it: few or equal points give no singularity."""
SMALLEST = 8
"""Shorter side in pixels below which eight parameters would explain any motion."""
STRONGEST = 0.5
"""Largest |g| + |h|; a camera that turns further between two frames shows another."""


@keras.saving.register_keras_serializable(package="zoo")
class RemoveCameraMotion(keras.layers.Layer):
    """Subtracts the displacements of the dominant homography from optical flow.

    Flow [B, H, W, 2] in pixels, u to the right and v down -> the same shape. Stacks
    have their time folded into the batch first: [B, T, H, W, 2] -> [B*T, H, W, 2].

    The best of `HYPOTHESES` homographies through four points of a grid, always the
    same ones, is refined by weighted least squares. Each field is fitted by itself. It
    stays as it is, to the last bit, where the fit is not credible: where fewer than
    `least` of the points lie within `tolerance` of it, where it is no motion of a
    camera between neighbouring frames, and in fields of fewer than 8 rows or columns.

    Values that aren't finite are left out of the fit and stay. The fit is made in
    float32 at least. No gradient flows through it: that of the result with respect to
    the flow is one.

    Args:
        grid: points of the fit along each side, at least 4.
        tolerance: largest distance of a point from the fit, in pixels, above 0.
        least: share of the points that has to lie within it, above 0 and up to 1.

    Raises:
        ValueError: an argument out of range; a field of another shape, or of whole
            numbers, such as 8-bit codes.

    Source: Wang and Schmid 2013, section 3.1; they warp the second frame and compute
    flow again (`zoo.datasets.camera_motion`), which equals this to first order.
    """

    def __init__(self, grid=32, tolerance=1.0, least=0.25, **kwargs):
        super().__init__(autocast=False, **kwargs)
        require_positive("RemoveCameraMotion", grid=grid)
        if grid < 4:
            raise ValueError(f"RemoveCameraMotion: grid must be at least 4, got {grid}")
        if not tolerance > 0:
            raise ValueError(
                "RemoveCameraMotion: tolerance must be a distance above 0 pixels, "
                f"got {tolerance}."
            )
        if not 0 < least <= 1:
            raise ValueError(
                f"RemoveCameraMotion: least must be a share in (0, 1], got {least}."
            )
        self.grid = grid
        self.tolerance = float(tolerance)
        self.least = float(least)

    def build(self, input_shape):
        self._require_fields(input_shape)

    def _require_fields(self, shape, dtype="float32"):
        if len(shape) != 4 or shape[-1] != 2:
            raise ValueError(
                f"RemoveCameraMotion ({self.name}) takes fields [B, H, W, 2], got "
                f"shape {tuple(shape)}. Fold the time of stacks into the batch, e.g. "
                "x.reshape(-1, H, W, 2)."
            )
        if "float" not in keras.backend.standardize_dtype(dtype):
            raise ValueError(
                f"RemoveCameraMotion ({self.name}) takes flow in pixels, floats, got "
                f"{keras.backend.standardize_dtype(dtype)}. Decode 8-bit codes first: "
                "codes * 40 / 255 - 20."
            )

    def call(self, flow):
        self._require_fields(flow.shape, flow.dtype)
        flow = self._full(flow)
        motion, _ = self._fit(flow)
        x, y, scale = _coordinates(ops.shape(flow)[1:3], flow.dtype)
        x, y = (ops.reshape(p, (1, -1)) for p in ops.meshgrid(x, y))
        moved = ops.reshape(_displacement(motion, x, y) * scale, ops.shape(flow))
        return ops.cast(flow - ops.stop_gradient(moved), self.compute_dtype)

    def fit(self, flow):
        """The homographies that `call` takes out, and how far to believe them.

        Args:
            flow: [B, H, W, 2] in pixels.

        Returns:
            (homographies, shares): [B, 3, 3], which take (x, y, 1) of the first frame
            to the second, x the column and y the row from 0; the identity where no
            fit is credible. [B], the share of grid points within the tolerance of
            the best fit, credible or not.
        """
        flow = ops.convert_to_tensor(flow)
        self._require_fields(flow.shape, flow.dtype)
        flow = self._full(flow)
        motion, share = self._fit(flow)
        return _in_pixels(motion, ops.shape(flow)[1:3]), share

    def _full(self, flow):
        full = keras.backend.result_type(self.compute_dtype, "float32")
        return ops.cast(flow, full)

    def _fit(self, flow):
        """Parameters [B, 8] in coordinates around the centre, and shares [B]."""
        size = ops.shape(flow)[1:3]
        x, y, scale = _coordinates(size, flow.dtype)
        rows, columns = (equally_spaced(n, self.grid) for n in size)
        field = ops.take(ops.take(flow, rows, axis=1), columns, axis=2)
        field = ops.reshape(field, (-1, self.grid**2, 2)) / scale
        x, y = ops.meshgrid(ops.take(x, columns), ops.take(y, rows))
        points = _Points(ops.reshape(x, (1, -1)), ops.reshape(y, (1, -1)), field)
        tolerance = self.tolerance / scale
        motion = points.best_hypothesis(_samples(self.grid), SCORING * tolerance)
        cutoffs = tolerance * ops.convert_to_tensor(CUTOFFS, flow.dtype)
        # A loop in the graph: written out it takes five times as long to compile.
        motion = ops.fori_loop(
            0, len(CUTOFFS), lambda i, m: points.refined(m, cutoffs[i]), motion
        )
        share = points.share_within(motion, tolerance)
        bends = ops.abs(motion[:, 6]) + ops.abs(motion[:, 7])
        credible = (share >= self.least) & (bends < STRONGEST)
        large = ops.minimum(*size) >= SMALLEST
        motion = ops.where((credible & large)[:, None], motion, 0.0)
        return ops.stop_gradient(motion), ops.stop_gradient(share)

    def compute_output_shape(self, input_shape):
        return input_shape

    def compute_output_spec(self, flow):
        self._require_fields(flow.shape, flow.dtype)
        return keras.KerasTensor(flow.shape, dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "grid": self.grid,
            "tolerance": self.tolerance,
            "least": self.least,
        }


class _Points:
    """Points of a grid and where they move: x, y [1, N], displacements [B, N, 2].

    A homography is I + D, the displacements being linear in D but for the denominator:
    (a x + b y + c) - (x + u)(g x + h y) = u, and likewise for v. Solving for D and not
    for I + D keeps float32 accurate relative to the motion, not to the picture.
    """

    def __init__(self, x, y, field):
        # A point without a finite displacement keeps its place and counts for nothing.
        finite = ops.all(ops.isfinite(field), axis=-1, keepdims=True)
        self.counts = ops.cast(finite[..., 0], field.dtype)
        self.x, self.y = x, y
        self.field = ops.where(finite, field, 0.0)
        self.u, self.v = self.field[..., 0], self.field[..., 1]
        self.equations = self._equations()

    def _equations(self):
        """Rows of the linear system, [B, N, 2, 8]."""
        x, y, one, zero = (
            ops.broadcast_to(p, ops.shape(self.u))
            for p in (self.x, self.y, ops.ones_like(self.x), ops.zeros_like(self.x))
        )
        x2, y2 = x + self.u, y + self.v
        of_u = ops.stack([x, y, one, zero, zero, zero, -x2 * x, -x2 * y], axis=-1)
        of_v = ops.stack([zero, zero, zero, x, y, one, -y2 * x, -y2 * y], axis=-1)
        return ops.stack([of_u, of_v], axis=2)

    def best_hypothesis(self, samples, distance):
        """Of the homographies through four points each and none at all: [B, 8]."""
        chosen = ops.convert_to_tensor(samples, "int32")
        counts = ops.take(self.counts, chosen, axis=1)[..., None, None]
        rows = ops.take(self.equations, chosen, axis=1) * counts  # [B, K, 4, 2, 8]
        moved = ops.take(self.field, chosen, axis=1)[..., None]
        # Products and sums: GPUs round the factors of matrix products to 10 bits, too
        # few for four points.
        motions = _solved(
            ops.sum(rows[..., None] * rows[..., None, :], axis=(2, 3)),
            ops.sum(rows * moved, axis=(2, 3)),
        )
        motions = ops.concatenate([motions, ops.zeros_like(motions[:, :1])], axis=1)
        scores = self._scores(motions, distance)
        best = ops.one_hot(ops.argmax(scores, axis=1), HYPOTHESES + 1, dtype=rows.dtype)
        # Not a product: a wild hypothesis may be infinite, and 0 times that is NaN.
        return ops.sum(ops.where(best[..., None] > 0, motions, 0.0), axis=1)

    def _scores(self, motions, distance):
        thinned = [p[:, None, ::SCORED] for p in (self.x, self.y)]
        moved = _displacement(motions, *thinned)
        error = ops.sum((moved - self.field[:, None, ::SCORED]) ** 2, axis=-1)
        near = self.counts[:, None, ::SCORED] / (1 + error / distance**2)
        return ops.sum(ops.where(ops.isfinite(near), near, 0.0), axis=-1)

    def refined(self, motion, cutoff):
        """One step of least squares with Tukey's weights, in distances of points.

        It solves for the change: what is rounded off in its matrix, by GPUs or by the
        ridge, slows the approach and does not shift the end.
        """
        left = self._left(motion)
        error = ops.sum(left**2, axis=-1)
        bent = motion[:, 6:7] * self.x + motion[:, 7:8] * self.y
        # A row of the system is the distance times the denominator, hence its square.
        weight = self.counts * ops.relu(1 - error / cutoff**2) ** 2 / (1 + bent)
        rows = self.equations / (1 + bent)[..., None, None]
        weighted = self.equations * weight[..., None, None]
        return motion + _solved(
            ops.einsum("bnri,bnrj->bij", weighted, rows),
            ops.einsum("bnri,bnr->bi", weighted, left),
        )

    def _left(self, motion):
        """What a motion [B, 8] leaves of the displacements, [B, N, 2]."""
        return self.field - _displacement(motion, self.x, self.y)

    def share_within(self, motion, tolerance):
        """Share of the points that count within a distance of the motion, [B]."""
        error = ops.sum(self._left(motion) ** 2, axis=-1)
        near = ops.cast(error <= tolerance**2, self.counts.dtype)
        total = ops.maximum(ops.sum(self.counts, axis=1), 1.0)
        return ops.sum(near * self.counts, axis=1) / total


def _displacement(motion, x, y):
    """How far (x, y) [..., N] move by parameters [..., 8]: [..., N, 2]."""
    a, b, c, d, e, f, g, h = (motion[..., i : i + 1] for i in range(8))
    bent = g * x + h * y
    u = (a * x + b * y + c - x * bent) / (1 + bent)
    v = (d * x + e * y + f - y * bent) / (1 + bent)
    return ops.stack([u, v], axis=-1)


def _coordinates(size, dtype):
    """Columns and rows around the centre, half the longer side being 1; that half."""
    height, width = (ops.cast(n, dtype) for n in size)
    scale = ops.maximum(height, width) / 2
    columns = ops.cast(ops.arange(size[1]), dtype) - (width - 1) / 2
    rows = ops.cast(ops.arange(size[0]), dtype) - (height - 1) / 2
    return columns / scale, rows / scale, scale


def _solved(matrix, target):
    """Solution [..., 8] of systems that are symmetric and, with a ridge, definite.

    Elimination without exchange of rows, written out: safe for definite matrices, the
    same on every backend and device, and no error is raised inside a graph.
    """
    eye = ops.eye(8, dtype=matrix.dtype)
    mean = ops.sum(matrix * eye, axis=(-2, -1)) / 8
    # Where no point counts nothing is left but the ridge: the solution is zero.
    scale = 1 / ops.maximum(mean, RIDGE)[..., None, None]
    system = [matrix * scale + RIDGE * eye, target[..., None] * scale]
    system = ops.concatenate(system, axis=-1)
    for i in range(8):
        row = system[..., i : i + 1, :] / system[..., i : i + 1, i : i + 1]
        system = system - (system[..., i : i + 1] - eye[:, i : i + 1]) * row
    return system[..., 8]


def _in_pixels(motion, size):
    """Parameters [B, 8] -> homographies [B, 3, 3] of columns and rows from 0."""
    height, width = (ops.cast(n, motion.dtype) for n in size)
    scale = ops.maximum(height, width) / 2
    zero, one = ops.zeros_like(scale), ops.ones_like(scale)
    x, y = (width - 1) / 2, (height - 1) / 2
    to_pixels = ops.reshape(
        ops.stack([scale, zero, x, zero, scale, y, zero, zero, one]), (3, 3)
    )
    from_pixels = ops.reshape(
        ops.stack([one, zero, -x, zero, one, -y, zero, zero, scale]) / scale, (3, 3)
    )
    last = ops.zeros_like(motion[:, :1])
    change = ops.reshape(ops.concatenate([motion, last], axis=1), (-1, 3, 3))
    # Not a matrix product, for the reason above; the identity is added at the end, so
    # that no motion is the identity to the last bit.
    change = ops.sum(to_pixels[:, :, None] * change[:, None], axis=2)
    change = ops.sum(change[..., None] * from_pixels, axis=2)
    pixels = ops.eye(3, dtype=motion.dtype) + change
    return pixels / pixels[:, 2:, 2:]


@functools.cache
def _samples(grid):
    """HYPOTHESES times four numbers of points that no line and no corner holds."""
    draw = random.Random(0)
    samples = []
    while len(samples) < HYPOTHESES:
        points = [(draw.randrange(grid), draw.randrange(grid)) for _ in range(4)]
        if _spread(points) * 16 >= (grid - 1) ** 2:
            samples.append([row * grid + column for row, column in points])
    return samples


def _spread(points):
    """Twice the area of the smallest triangle of four points."""
    areas = []
    for left_out in range(4):
        (a, b), (c, d), (e, f) = points[:left_out] + points[left_out + 1 :]
        areas.append(abs((c - a) * (f - b) - (d - b) * (e - a)))
    return min(areas)
