"""TV-L1 flow: against its formulas in NumPy, known motion, and OpenCV's."""

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_sample_images

from zoo.layers import FlowStack, TVL1Flow
from zoo.layers.tv_l1 import PRESETS


def texture(height, width, seed=0):
    """Noise of several octaves, like a natural picture: float RGB in 0-255."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3), np.float32)
    for octave in range(6):
        cells = max(height, width) // 2 ** (6 - octave) + 2
        noise = rng.uniform(-1, 1, (cells, cells, 3)).astype(np.float32)
        resized = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        picture += resized * 0.7**octave
    picture -= picture.min()
    return picture * (255 / picture.max())


MARGIN = 24  # of the picture around the images, so that nothing enters from outside


def moved(field, picture=None):
    """Images uint8 [H, W, 3] between which every pixel moves by `field` [H, W, 2]."""
    height, width = field.shape[:2]
    if picture is None:
        picture = texture(height + 2 * MARGIN, width + 2 * MARGIN)
    y, x = np.mgrid[:height, :width].astype(np.float32) + MARGIN
    x, y = x + field[..., 0], y + field[..., 1]
    second = picture[MARGIN : MARGIN + height, MARGIN : MARGIN + width]
    first = cv2.remap(
        picture, x.astype("float32"), y.astype("float32"), cv2.INTER_LANCZOS4
    )
    return [np.clip(np.rint(i), 0, 255).astype(np.uint8) for i in (first, second)]


def photograph(name):
    """A part of a photograph, half the size, uint8 RGB [208, 300, 3]."""
    picture = load_sample_images().images[["china", "flower"].index(name)]
    return cv2.resize(picture[:416, :600], (300, 208), interpolation=cv2.INTER_AREA)


def motions(height=128, width=160):
    """Fields of displacement by name, up to 12 pixels."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = x - width / 2, y - height / 2
    ones = np.ones_like(x)
    bump = np.exp(-(x**2 + y**2) / (2 * 25**2))
    turn = np.deg2rad(4)
    return {
        "small shift": np.stack([1.7 * ones, -0.9 * ones], -1),
        "large shift": np.stack([-10.3 * ones, 6.2 * ones], -1),
        "rotation": np.stack(
            [
                np.cos(turn) * x - np.sin(turn) * y - x,
                np.sin(turn) * x + np.cos(turn) * y - y,
            ],
            -1,
        ),
        "zoom": np.stack([0.05 * x, 0.05 * y], -1),
        "one thing": np.stack([4 * bump, -3 * bump], -1),
    }


def error(flow, field, margin=10):
    """Mean endpoint error in pixels, the borders left out."""
    difference = np.linalg.norm(flow - field, axis=-1)
    return difference[margin:-margin, margin:-margin].mean()


def flow_of(layer, first, second):
    return np.asarray(layer([first[None], second[None]]))[0]


@pytest.fixture(scope="module")
def compiled():
    """The layer, compiled once for all images of one size."""
    layer = TVL1Flow()
    return tf.function(lambda a, b: layer([a, b]), jit_compile=True)


@pytest.mark.parametrize("picture", ["china", "flower"])
@pytest.mark.parametrize("name", motions())
def test_known_motion_is_found_no_worse_than_by_opencv(name, picture, compiled):
    field = motions()[name]
    first, second = moved(field, photograph(picture))
    found = compiled(first[None], second[None])[0].numpy()
    theirs = cv2.optflow.DualTVL1OpticalFlow_create().calc(
        *(cv2.cvtColor(i, cv2.COLOR_RGB2GRAY) for i in (first, second)), None
    )
    assert error(found, field) < 0.2
    assert error(found, field) <= error(theirs, field)


def test_the_fast_preset_finds_it_too():
    layer = TVL1Flow("fast")
    for name, field in motions().items():
        found = flow_of(layer, *moved(field, photograph("china")))
        assert error(found, field) < 0.4, name


class TestFormulas:
    """Zach et al. 2007 pixel by pixel, in three cases, in float64."""

    SETTINGS = {
        "tau": 0.2,
        "lambda_": 0.3,
        "theta": 0.5,
        "scales": 1,
        "warps": 2,
        "iterations": 4,
        "smoothing": 0,
    }

    @staticmethod
    def derivative(x, axis):
        x = np.pad(x, 2, mode="symmetric")
        rolled = {d: np.roll(x, -d, axis) for d in (-2, -1, 1, 2)}
        slope = (8 * (rolled[1] - rolled[-1]) - (rolled[2] - rolled[-2])) / 12
        return slope[2:-2, 2:-2]

    @staticmethod
    def cubic(distance, a=-0.75):
        d = abs(distance)
        if d <= 1:
            return (a + 2) * d**3 - (a + 3) * d**2 + 1
        return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0

    def sample(self, image, y, x):
        rows, columns = int(np.floor(y)), int(np.floor(x))
        height, width = image.shape
        rows, columns = min(rows, height - 3), min(columns, width - 3)
        return sum(
            self.cubic(y - i) * self.cubic(x - j) * image[i, j]
            for i in range(rows - 1, rows + 3)
            for j in range(columns - 1, columns + 3)
        )

    def warp(self, image, u, v):
        height, width = image.shape
        warped, inside = np.zeros_like(image), np.zeros_like(image)
        for i in range(height):
            for j in range(width):
                y, x = i + v[i, j], j + u[i, j]
                inside[i, j] = 1 <= y <= height - 2 and 1 <= x <= width - 2
                y, x = np.clip(y, 1, height - 2), np.clip(x, 1, width - 2)
                warped[i, j] = self.sample(image, y, x)
        return warped, inside

    @staticmethod
    def median(x):
        x = np.pad(x, 1, mode="symmetric")
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3))
        return np.median(windows, axis=(-2, -1))

    def threshold(self, rho, slope, limit):
        """v - u of eq. 15 [of the IPOL paper, eq. 13] at one pixel."""
        square = (slope**2).sum()
        if rho < -limit * square:
            return limit * slope
        if rho > limit * square:
            return -limit * slope
        return -rho * slope / (square + 1e-6)

    @staticmethod
    def divergence(across, down):
        out = np.zeros((across.shape[0] + 1, across.shape[1] + 1))
        out[:-1, :-1] += across + down
        out[:-1, 1:] -= across
        out[1:, :-1] -= down
        return out

    def flow(self, first, second):
        s = self.SETTINGS
        theta, limit = s["theta"], s["lambda_"] * s["theta"]
        step = s["tau"] / theta
        flow = [np.zeros_like(first) for _ in range(2)]
        dual = [
            [np.zeros((n - 1, m - 1)) for _ in range(2)] for n, m in [first.shape] * 2
        ]
        for _ in range(s["warps"]):
            warped, inside = self.warp(second, *flow)
            slope = np.stack(
                [
                    (self.derivative(warped, a) + self.derivative(first, a))
                    / 2
                    * inside
                    for a in (1, 0)
                ],
                -1,
            )
            start = np.stack(flow, -1)
            flow = [self.median(x) for x in flow]
            for _ in range(s["iterations"]):
                v = np.zeros((*first.shape, 2))
                for p in np.ndindex(first.shape):
                    u = np.array([flow[0][p], flow[1][p]])
                    rho = (warped - first)[p] * inside[p] + slope[p] @ (u - start[p])
                    v[p] = u + self.threshold(rho, slope[p], limit)
                for k in range(2):
                    flow[k] = v[..., k] + theta * self.divergence(*dual[k])
                    here = flow[k][:-1, :-1]
                    grad = [flow[k][:-1, 1:] - here, flow[k][1:, :-1] - here]
                    norm = 1 + step * np.hypot(*grad)
                    dual[k] = [
                        (p + step * g) / norm
                        for p, g in zip(dual[k], grad, strict=True)
                    ]
        return np.stack(flow, -1)

    def test_one_level(self):
        field = np.full((17, 22, 2), [0.6, -0.4], np.float32)
        first, second = (i[..., 0].astype(float) for i in moved(field))
        layer = TVL1Flow(**self.SETTINGS)
        found = flow_of(layer, first[..., None], second[..., None])
        expected = self.flow(first, second)
        assert np.abs(expected).max() > 0.2
        np.testing.assert_allclose(found, expected, atol=2e-4)


class TestLayer:
    field = np.full((37, 51, 2), [1.2, -0.7], np.float32)

    def test_unknown_sizes_and_odd_ones(self):
        layer = TVL1Flow()
        spec = tf.TensorSpec((None, None, None, 3), tf.uint8)
        graph = tf.function(lambda a, b: layer([a, b]), input_signature=[spec, spec])
        for size in ((37, 51), (20, 33), (64, 40)):
            first, second = moved(np.full((*size, 2), [1.2, -0.7], np.float32))
            eager = flow_of(layer, first, second)
            found = graph(first[None], second[None])[0].numpy()
            assert found.shape == (*size, 2)
            np.testing.assert_allclose(found, eager, atol=2e-3)
        assert graph(first[None][:0], second[None][:0]).shape == (0, 64, 40, 2)

    def test_known_sizes_without_a_compiler(self):
        """TensorFlow's optimiser may not break loops in loops; it did, at random."""
        first, second = (tf.constant(i[None]) for i in moved(self.field))
        layer = TVL1Flow("fast")
        graph = tf.function(lambda a, b: layer([a, b]), jit_compile=False)
        for _ in range(10):
            found = graph(first, second)
        np.testing.assert_allclose(found, layer([first, second]), atol=2e-3)

    def test_pairs_do_not_see_each_other(self):
        a, b = moved(self.field), moved(-self.field)
        layer = TVL1Flow("fast")
        both = layer([np.stack([a[0], b[0]]), np.stack([a[1], b[1]])])
        np.testing.assert_allclose(both[0], flow_of(layer, *a), atol=1e-3)
        np.testing.assert_allclose(both[1], flow_of(layer, *b), atol=1e-3)

    def test_grey_is_the_luminance_of_colour(self):
        first, second = moved(self.field)
        weights = np.array([0.299, 0.587, 0.114])
        grey = [(i @ weights)[..., None].astype(np.float32) for i in (first, second)]
        layer = TVL1Flow("fast")
        np.testing.assert_allclose(
            flow_of(layer, *grey), flow_of(layer, first, second), atol=2e-3
        )

    @pytest.mark.parametrize("value", [0, 77, 255])
    def test_nothing_to_see_is_at_rest(self, value):
        image = np.full((1, 30, 40, 3), value, np.uint8)
        np.testing.assert_array_equal(TVL1Flow("fast")([image, image]), 0)

    def test_mirrored_images_give_mirrored_flow(self):
        first, second = moved(self.field)
        layer = TVL1Flow()
        flow = flow_of(layer, first, second)
        mirrored = flow_of(layer, first[:, ::-1], second[:, ::-1])[:, ::-1] * [-1, 1]
        np.testing.assert_allclose(mirrored[6:-6, 6:-6], flow[6:-6, 6:-6], atol=0.15)

    def test_half_precision_changes_nothing(self, mixed_bfloat16):
        first, second = moved(self.field)
        layer = TVL1Flow("fast")
        found = layer([first[None], second[None]])
        assert found.dtype == tf.float32
        np.testing.assert_allclose(found[0], flow_of(layer, first, second), atol=1e-5)
        assert error(np.asarray(found[0]), self.field) < 0.4

    def test_saved_model_of_it(self, tmp_path):
        frames = [keras.Input((None, None, 3), dtype="uint8") for _ in range(2)]
        model = keras.Model(frames, TVL1Flow("fast", warps=3)(frames))
        model.save(tmp_path / "flow.keras")
        loaded = keras.models.load_model(tmp_path / "flow.keras")
        assert loaded.layers[-1].settings == {**PRESETS["fast"], "warps": 3}
        pair = [i[None] for i in moved(self.field)]
        np.testing.assert_array_equal(loaded(pair), model(pair))

    def test_gradient_through_loops_in_loops(self):
        """Of known sizes and uncompiled, where sums of gradients might collide, too."""
        first, second = (tf.constant(i[None], tf.float32) for i in moved(self.field))
        layer = TVL1Flow(gradient=True, scales=3, warps=3, iterations=5)

        @tf.function(jit_compile=False)
        def gradient(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(layer([x, second]))
            return tape.gradient(loss, x)

        found = [gradient(first).numpy() for _ in range(5)]
        assert np.isfinite(found).all() and np.abs(found[0]).max() > 0
        np.testing.assert_allclose(found[-1], found[0], rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("jit", [False, True])
    def test_gradient_is_that_of_finite_differences(self, jit):
        field = np.full((12, 14, 2), [0.4, -0.3], np.float32)
        first, second = (tf.constant(i[None], tf.float32) for i in moved(field))
        layer = TVL1Flow(gradient=True, scales=1, warps=1, iterations=3)
        weights = tf.constant(
            np.random.default_rng(0).normal(size=(1, 12, 14, 2)), tf.float32
        )

        @tf.function(jit_compile=jit)
        def loss_and_gradient(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(layer([x, second]) * weights)
            return loss, tape.gradient(loss, x)

        _, gradient = loss_and_gradient(first)
        direction = tf.constant(
            np.random.default_rng(1).normal(size=first.shape), tf.float32
        )
        ahead, _ = loss_and_gradient(first + 0.01 * direction)
        behind, _ = loss_and_gradient(first - 0.01 * direction)
        slope = float(tf.reduce_sum(gradient * direction))
        assert abs(slope) > 0.1
        assert float(ahead - behind) / 0.02 == pytest.approx(slope, rel=0.05, abs=0.02)

    def test_no_gradient_unless_asked_for(self):
        first, second = (tf.constant(i[None], tf.float32) for i in moved(self.field))
        with tf.GradientTape() as tape:
            tape.watch(first)
            flow = TVL1Flow("fast")([first, second])
        assert tape.gradient(flow, first) is None


class TestBadInput:
    image = np.zeros((1, 20, 24, 3), np.uint8)

    @pytest.mark.parametrize(
        ("second", "message"),
        [
            (np.zeros((1, 20, 23, 3), np.uint8), "images of one shape"),
            (np.zeros((2, 20, 24, 3), np.uint8), "images of one shape"),
            (np.zeros((1, 20, 24), np.uint8), "Fold the time"),
        ],
    )
    def test_shapes(self, second, message):
        with pytest.raises(ValueError, match=message):
            TVL1Flow()([self.image, second])

    def test_channels_and_size(self):
        with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
            TVL1Flow()([self.image[..., :2]] * 2)
        with pytest.raises(ValueError, match="at least 4 pixels"):
            TVL1Flow()([self.image[:, :3]] * 2)

    def test_nan(self):
        with pytest.raises(ValueError, match="NaN"):
            TVL1Flow()([self.image, np.full(self.image.shape, np.nan, np.float32)])

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"preset": "slow"}, "'slow'.*default, fast"),
            ({"preset": ["fast"]}, "Unknown preset"),
            ({"lambda": 0.1}, "no setting lambda; accepted are tau, lambda_"),
            ({"tau": 0.5}, "tau must be a number above 0 and at most 0.25, got 0.5"),
            ({"lambda_": float("nan")}, "lambda_"),
            ({"scales": 0}, "scales must be an integer"),
            ({"warps": 2.0}, "warps must be an integer"),
            ({"scale_step": 1}, "scale_step"),
            ({"smoothing": -1}, "smoothing"),
        ],
    )
    def test_settings(self, settings, message):
        with pytest.raises(ValueError, match=message):
            TVL1Flow(**settings)


class TestFlowStack:
    @staticmethod
    def video(count, height=24, width=32):
        picture = texture(height, width + count)
        frames = [picture[:, count - i : count - i + width] for i in range(count)]
        return np.stack(frames)[None].astype(np.uint8)

    @pytest.mark.parametrize(
        ("count", "positions", "known"),
        [
            (13, None, False),
            (4, None, True),
            (2, 3, False),
            (40, 2, True),
        ],
    )
    def test_stacks_are_those_of_the_data_pipeline(self, count, positions, known):
        from zoo.datasets.flow import centres, stack, stack_fields
        from zoo.datasets.sampling import test_indices

        video = self.video(count)
        layer = FlowStack(positions, preset="fast")
        shape = video.shape if known else (None,) * 4 + (3,)
        graph = tf.function(layer, input_signature=[tf.TensorSpec(shape, tf.uint8)])
        found = graph(video)
        first, whole = centres(count)
        chosen = (
            np.arange(whole) if positions is None else test_indices(whole, positions)
        )
        fields = np.asarray(TVL1Flow("fast")([video[0, :-1], video[0, 1:]]))
        expected = stack(fields[stack_fields(chosen + first, count - 1)])
        np.testing.assert_array_equal(found["rgb"][0], video[0, chosen + first])
        # Rounding is amplified where nothing but smoothness decides, at the borders.
        difference = np.abs(found["flow"][0] - expected)
        assert difference.max() < 0.1
        assert difference.mean() < 1e-3
        assert expected[..., ::2].mean() > 0.5  # u: one pixel to the right per frame

    def test_camera_motion_can_be_removed(self):
        video = self.video(3, 48, 64)
        plain = FlowStack(1, "fast")(video)["flow"]
        layer = FlowStack(1, "fast", camera_motion=True)
        graph = tf.function(lambda x: layer(x)["flow"])
        for _ in range(5):  # see TestLayer.test_known_sizes_without_a_compiler
            still = graph(video)
        assert np.median(np.abs(plain[..., ::2])) > 0.8
        assert np.median(np.abs(still)) < 0.1

    def test_bad_frames(self):
        with pytest.raises(ValueError, match="at least 2 frames, got 1"):
            FlowStack()(np.zeros((1, 1, 16, 16, 3), np.uint8))
        with pytest.raises(ValueError, match=r"\[B, N, H, W, 3\]"):
            FlowStack()(np.zeros((1, 3, 16, 16, 1), np.uint8))
        with pytest.raises(ValueError, match="positions"):
            FlowStack(0)
