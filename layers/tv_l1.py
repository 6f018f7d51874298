"""TV-L1 optical flow inside the graph, in Keras operations alone.

The flow u between two images minimises, over the image,

    sum |grad u_1| + |grad u_2|  +  lambda |I1(x + u) - I0(x)|,

an L1 data term, robust to occlusion and changes of light, under total variation, which
keeps the edges of motion. As in the paper, the data term is linearised around the last
flow (a warp), coupled to the smoothness term by a quadratic of width theta, and both
are solved in turn: a pointwise threshold, and Chambolle's dual step; coarse to fine.

Better here than in the paper and in OpenCV's implementation, and why fewer steps are
as accurate: images are smoothed a little before anything else, derivatives are those
of five points, and they're the mean of those of both images (Wedel et al. 2009).

Source: Zach, Pock and Bischof 2007, "A duality based approach for realtime TV-L1
optical flow"; Sanchez, Meinhardt-Llopis and Facciolo 2013, "TV-L1 optical flow
estimation" (IPOL) for the pyramid and the names of the parameters; Wedel et al. 2009,
"An improved algorithm for TV-L1 optical flow". Thesis 3.3.5 uses it for all motion
streams.
"""

import math

import keras
from keras import ops

from zoo.layers._clip import value_if_known

PRESETS = {
    "default": {
        "tau": 0.25,
        "lambda_": 0.2,
        "theta": 0.4,
        "scales": 5,
        "scale_step": 0.5,
        "warps": 3,
        "iterations": 15,
        "smoothing": 0.6,
    },
}
PRESETS["fast"] = {**PRESETS["default"], "warps": 2, "iterations": 10}
"""Settings by name; "fast" takes two thirds of the time."""

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as OpenCV's RGB2GRAY
COARSEST = 16  # no level of the pyramid is smaller, in pixels (as OpenCV's)
SMALLEST = 4  # pixels that interpolation needs


@keras.saving.register_keras_serializable(package="zoo")
class TVL1Flow(keras.layers.Layer):
    """TV-L1 optical flow of image pairs.

    Takes [first, second], each [B, H, W, 1 or 3], grey or RGB, 0-255, uint8 or float,
    any B, H, W of at least 4 pixels; returns float32 [B, H, W, 2], the displacement in
    pixels of every pixel of `first`, u to the right and v down. It has no weights, and
    computes in float32 under every dtype policy.

    Args:
        preset: of `PRESETS`, "default" or "fast".
        gradient: whether gradients flow to the images, through all iterations; takes
            memory for each. Without, the flow is a constant to training.
        **settings: instead of the preset's:
            tau: step of the dual ascent, in (0, 0.25].
            lambda_: weight of the data term, larger for rougher flow.
            theta: width of the coupling between data and smoothness.
            scales: levels of the pyramid. scale_step: size of one to the next finer,
                in (0, 0.95]. About 2 / scale_step ** scales pixels of
                motion can be found.
            warps: linearisations per level. iterations: steps per warp.
            smoothing: standard deviation of the blur before all, in pixels, at most 3;
                0 for none.

    Raises:
        ValueError: unknown preset or setting, or a value out of its range; images of
            different shape, smaller than 4 pixels, or of other channels. NaN where
            values can be seen (not while a graph is traced).

    Source: Zach et al. 2007; parameters as in OpenCV's DualTVL1OpticalFlow.
    """

    def __init__(self, preset="default", gradient=False, **kwargs):
        known = next(iter(PRESETS.values()))
        given = {name: kwargs.pop(name) for name in known if name in kwargs}
        others = set(kwargs) - {"name", "dtype", "trainable"}
        if others:
            raise ValueError(
                f"TVL1Flow has no setting {', '.join(sorted(others))}; accepted are "
                f"{', '.join(known)}."
            )
        super().__init__(autocast=False, **kwargs)
        if not isinstance(preset, str) or preset not in PRESETS:
            raise ValueError(
                f"Unknown preset {preset!r} of TVL1Flow; accepted are "
                f"{', '.join(PRESETS)}."
            )
        self.preset = preset
        self.gradient = bool(gradient)
        self.settings = {**PRESETS[preset], **given}
        _require_settings(self.settings)

    def build(self, input_shape):
        self._require_pair(input_shape)

    def _require_pair(self, shapes):
        if len(shapes) != 2 or any(len(shape) != 4 for shape in shapes):
            raise ValueError(
                f"TVL1Flow ({self.name}) takes [first, second], each [B, H, W, 1 or "
                f"3]; got shapes {shapes}. Fold the time of clips into B."
            )
        first, second = (tuple(shape) for shape in shapes)
        pairs = zip(first, second, strict=True)
        if any(None not in sizes and len(set(sizes)) > 1 for sizes in pairs):
            raise ValueError(
                f"TVL1Flow ({self.name}) takes images of one shape, got {first} and "
                f"{second}; resize one of them."
            )
        if first[-1] not in (1, 3):
            raise ValueError(
                f"TVL1Flow ({self.name}) takes images of 1 or 3 channels, got "
                f"{first[-1]} in {first}."
            )
        if any(size is not None and size < SMALLEST for size in first[1:3]):
            raise ValueError(
                f"TVL1Flow ({self.name}) takes images of at least {SMALLEST} pixels, "
                f"got {first}."
            )

    def call(self, inputs):
        self._require_pair([tuple(x.shape) for x in inputs])
        images = ops.stack([_grey(x) for x in inputs])
        self._require_numbers(images)
        if not self.gradient:
            images = ops.stop_gradient(images)
        flow = _flow(images, self.settings)
        flow = flow if self.gradient else ops.stop_gradient(flow)
        return ops.transpose(flow, (1, 2, 3, 0))

    def _require_numbers(self, images):
        mean = value_if_known(ops.mean(images))
        if mean is not None and not math.isfinite(mean) and 0 not in images.shape:
            raise ValueError(
                f"TVL1Flow ({self.name}) takes finite images in 0-255, these hold NaN "
                "or infinite values."
            )

    def compute_output_shape(self, input_shape):
        return (*input_shape[0][:3], 2)

    def compute_output_spec(self, inputs):
        self._require_pair([tuple(x.shape) for x in inputs])
        shape = self.compute_output_shape([x.shape for x in inputs])
        return keras.KerasTensor(shape, dtype="float32")

    def get_config(self):
        config = {"preset": self.preset, "gradient": self.gradient, **self.settings}
        return {**super().get_config(), **config}


def _require_settings(settings):
    """Raises ValueError for a setting out of its range."""
    for name in ("scales", "warps", "iterations"):
        value = settings[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(
                f"TVL1Flow: {name} must be an integer of at least 1, got {value!r}."
            )
    ranges = {
        "tau": (0, 0.25),
        "lambda_": (0, math.inf),
        "theta": (0, math.inf),
        "scale_step": (0, 0.95),
        "smoothing": (-1e-9, 3),
    }
    for name, (low, high) in ranges.items():
        value = settings[name]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and low < value <= high and math.isfinite(value)):
            raise ValueError(
                f"TVL1Flow: {name} must be a number "
                f"{'of at least' if low < 0 else 'above'} {max(low, 0)} and at most "
                f"{high}, got {value!r}."
            )


def _grey(image):
    """[B, H, W, 1 or 3] -> [B, H, W], 0-255."""
    image = ops.cast(image, "float32")
    if image.shape[-1] == 1:
        return image[..., 0]
    return ops.sum(image * ops.convert_to_tensor(LUMINANCE, "float32"), axis=-1)


# Below, images and flow are [2, B, H, W]: first and second, or u and v, in one array,
# so that one operation serves both. No sum has three terms or more: TensorFlow's graph
# optimiser would add those up in temporary variables, which collide where loops run in
# loops (AlreadyExistsError). A difference of negated terms is as good.


def _flow(images, settings):
    """The flow of `images`, coarse to fine."""
    levels = _pyramid(images, settings)
    flow = ops.zeros_like(levels[-1])
    for level in reversed(levels):
        flow = _scaled_to(flow, level)
        flow = _solve(level, flow, settings)
    return flow


def _pyramid(images, settings):
    """Images at every scale, the finest first (Sanchez et al. 2013, section 3)."""
    step = settings["scale_step"]
    levels = [_blur(images, settings["smoothing"])]
    blur = 0.6 * math.sqrt(step**-2 - 1)
    for scale in range(1, settings["scales"]):
        size = [_size(n, step**scale) for n in ops.shape(images)[2:]]
        levels.append(_resample(levels[-1], *size, blur))
    return levels


def _size(pixels, scale):
    """Pixels of a level, not less than COARSEST unless the image is smaller."""
    if isinstance(pixels, int):
        return max(round(pixels * scale), min(pixels, COARSEST))
    scaled = ops.cast(ops.round(ops.cast(pixels, "float32") * scale), "int32")
    return ops.maximum(scaled, ops.minimum(pixels, COARSEST))


def _blur(x, deviation):
    """Gaussian of so many pixels, the borders mirrored."""
    if not deviation:
        return x
    radius = math.ceil(2.5 * deviation)
    taps = [math.exp(-(i**2) / (2 * deviation**2)) for i in range(-radius, radius + 1)]
    taps = [tap / sum(taps) for tap in taps]
    height, width = ops.shape(x)[2:]
    x = _mirrored(x, radius)
    x = _weighted(taps, [x[:, :, i : i + height] for i in range(len(taps))])
    return _weighted(taps, [x[..., i : i + width] for i in range(len(taps))])


def _weighted(weights, terms):
    """Sum of weighted terms, as a chain of differences (see above)."""
    total = weights[0] * terms[0]
    for weight, term in zip(weights[1:], terms[1:], strict=True):
        total = total - (-weight) * term
    return total


def _mirrored(x, pixels):
    """A border of so many pixels, mirrored at the edge."""
    return ops.pad(x, [[0, 0], [0, 0], [pixels] * 2, [pixels] * 2], mode="symmetric")


def _resample(x, height, width, blur=None):
    """Resized by two products, which work with sizes known only at run time.

    Args:
        x: [..., H, W].
        height, width: of the result.
        blur: deviation of a Gaussian in pixels of x; None for linear interpolation.
    """
    rows, columns = ops.shape(x)[-2:]
    left = _interpolation(rows, height, blur)
    right = _interpolation(columns, width, blur)
    return ops.matmul(ops.matmul(left, x), ops.transpose(right))


def _interpolation(source, target, blur):
    """[target, source], rows summing to 1, centres aligned half a pixel in."""
    ratio = ops.cast(source, "float32") / ops.cast(target, "float32")
    centres = (ops.cast(ops.arange(target), "float32") + 0.5) * ratio - 0.5
    centres = ops.clip(centres, 0.0, ops.cast(source - 1, "float32"))
    distance = ops.cast(ops.arange(source), "float32") - centres[:, None]
    if blur is None:
        return ops.relu(1 - ops.abs(distance))
    weights = ops.exp(-0.5 * ops.square(distance / blur))
    return weights / ops.sum(weights, axis=1, keepdims=True)


def _scaled_to(flow, level):
    """The flow of a coarser level in the size and the pixels of a finer one."""
    (rows, columns), (height, width) = ops.shape(flow)[2:], ops.shape(level)[2:]
    factors = [
        ops.cast(fine, "float32") / ops.cast(coarse, "float32")
        for fine, coarse in ((width, columns), (height, rows))
    ]
    flow = _resample(flow, height, width)
    return flow * ops.reshape(ops.stack(factors), (2, 1, 1, 1))


def _solve(images, flow, settings):
    """All warps at one level."""
    first, second = images[0], images[1]
    gradient = _gradient(first)
    zeros = ops.zeros_like(images[:, :, 1:, 1:])

    def warp(flow, *dual):
        warped, inside = _warped(second, flow)
        slope = 0.5 * (_gradient(warped) + gradient) * inside
        # The residual of the data term at flow 0, linearised at the present flow.
        residual = (warped - first) * inside - ops.sum(slope * flow, axis=0)
        return _iterate(slope, residual, _median(flow), dual, settings)

    flow, *_ = _loop(warp, (flow, zeros, zeros), settings["warps"])
    return flow


def _iterate(slope, residual, flow, dual, settings):
    """Thresholds and dual steps of Zach et al. 2007, eq. 9-15.

    The dual variables (x- and y-part of each component) lie between pixels, [2, B,
    H-1, W-1]: the last row is coupled to the one above only, the last column to the one
    beside it. The threshold, in three cases in the paper, is a clipped step along the
    slope of the image.
    """
    theta = settings["theta"]
    step, limit = settings["tau"] / theta, settings["lambda_"] * theta
    inverse = -1 / (ops.sum(ops.square(slope), axis=0) + 1e-6)
    constant, against = residual * inverse, slope * -inverse

    def iteration(flow, across, down):
        moved = against * flow
        data = ops.clip(constant - (moved[0] + moved[1]), -limit, limit)
        flow = (flow + data * slope) - theta * _convergence(across, down)
        here = flow[:, :, :-1, :-1]
        right = (flow[:, :, :-1, 1:] - here) * step
        below = (flow[:, :, 1:, :-1] - here) * step
        # Not zero, where the root has no gradient.
        norm = ops.sqrt(ops.maximum(right * right + below * below, 1e-20))
        shrink = 1 / (norm + 1)
        return flow, (across + right) * shrink, (down + below) * shrink

    return _loop(iteration, (flow, *dual), settings["iterations"])


def _convergence(across, down):
    """Minus the divergence of the dual variables, the adjoint of the differences."""

    def pad(x, rows, columns):
        return ops.pad(x, [[0, 0], [0, 0], rows, columns])

    across = pad(across, [0, 1], [1, 0]) - pad(across, [0, 1], [0, 1])
    down = pad(down, [1, 0], [0, 1]) - pad(down, [0, 1], [0, 1])
    return across + down


def _gradient(x):
    """[B, H, W] -> [2, B, H, W], horizontal and vertical, five points."""
    x = _mirrored(x[None], 2)[0]

    def derivative(far_before, before, after, far_after):
        return (8 * (after - before) - (far_after - far_before)) / 12

    rows, columns = x[:, 2:-2], x[:, :, 2:-2]
    across = (rows[:, :, :-4], rows[:, :, 1:-3], rows[:, :, 3:-1], rows[:, :, 4:])
    down = (columns[:, :-4], columns[:, 1:-3], columns[:, 3:-1], columns[:, 4:])
    return ops.stack([derivative(*across), derivative(*down)])


def _warped(image, flow):
    """The image where the flow points to, by cubic interpolation.

    Args:
        image: [B, H, W]. flow: [2, B, H, W].

    Returns:
        The warped image, and 1 where the flow points into the image, else 0; [B, H, W].
    """
    batch, height, width = ops.shape(image)
    x, column, inside_x = _place(flow[0], ops.arange(width), width)
    y, row, inside_y = _place(flow[1], ops.arange(height)[:, None], height)
    # One flat array, so that a pixel's neighbours are constants away.
    pixels = ops.reshape(image, (-1,))
    start = (ops.arange(batch) * (height * width))[:, None, None]
    start = start + (row * width - (-column))
    lines = [
        _weighted(
            _cubic(x), [ops.take(pixels, start - (1 - j - i * width)) for j in range(4)]
        )
        for i in (-1, 0, 1, 2)
    ]
    warped = _weighted(_cubic(y), lines)
    return warped, ops.cast(ops.logical_and(inside_x, inside_y), "float32")


def _place(displacement, pixel, size):
    """Fraction, whole part and whether it's inside of a pixel's new place.

    Inside, all four pixels of the interpolation are within the image.
    """
    place = ops.cast(pixel, "float32") + displacement
    last = ops.cast(size - 1, "float32")
    kept = ops.clip(place, 1.0, last - 1)
    whole = ops.minimum(ops.floor(kept), last - 2)
    return kept - whole, ops.cast(whole, "int32"), ops.equal(kept, place)


def _cubic(t, a=-0.75):
    """Weights of the four neighbours at the fraction t (Keys 1981; OpenCV's a)."""
    square, cube = t * t, t * t * t
    return (
        a * (cube - 2 * square) - (-a) * t,
        ((a + 2) * cube - (a + 3) * square) + 1,
        ((2 * a + 3) * square - (a + 2) * cube) - a * t,
        a * (square - cube),
    )


def _median(flow):
    """Of 3x3 pixels (Wedel et al. 2009): exact, by 19 minima and maxima.

    Columns are sorted; the median is that of the largest minimum, the median of the
    medians and the smallest maximum.
    """
    x = _mirrored(flow, 1)
    low, middle, high = _sorted(x[:, :, :-2], x[:, :, 1:-1], x[:, :, 2:])
    low, middle, high = (
        (y[..., :-2], y[..., 1:-1], y[..., 2:]) for y in (low, middle, high)
    )
    largest = ops.maximum(ops.maximum(low[0], low[1]), low[2])
    smallest = ops.minimum(ops.minimum(high[0], high[1]), high[2])
    return _middle(largest, _middle(*middle), smallest)


def _sorted(a, b, c):
    low, high = ops.minimum(a, b), ops.maximum(a, b)
    upper = ops.maximum(low, c)
    return ops.minimum(low, c), ops.minimum(high, upper), ops.maximum(high, upper)


def _middle(a, b, c):
    return ops.maximum(ops.minimum(a, b), ops.minimum(ops.maximum(a, b), c))


def _loop(body, state, times):
    """Applies `body` so many times, differentiable on every backend."""
    if keras.backend.backend() == "jax":  # whose while loops have no gradient
        return ops.fori_loop(0, times, lambda _, state: body(*state), tuple(state))
    return ops.while_loop(lambda *_: True, body, tuple(state), maximum_iterations=times)
