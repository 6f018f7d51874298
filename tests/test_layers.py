"""Every layer against its formula: values, gradients, shapes, precision, files."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import references
from zoo import layers


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer, the clip it is tested on, and its formula on (clip, weights).

    With a second shape it is a layer of two streams, and the formula takes both.
    """

    name: str
    layer: Callable
    shape: tuple
    reference: Callable
    second: tuple | None = None

    def __str__(self):
        return self.name

    @property
    def shapes(self):
        return self.shape if self.second is None else [self.shape, self.second]

    def clips(self, dtype="float32", grow=(0, 0, 0)):
        """Random input, longer and larger by `grow` (B, T, H and W)."""
        rng = np.random.default_rng(1)
        batch, time, size = grow

        def draw(shape):
            b, t, h, w, c = shape
            grown = (b + batch, t + time, h + size, w + size, c)
            return rng.normal(size=grown).astype(dtype)

        return keras.tree.map_shape_structure(draw, self.shapes)


CLIP = (2, 5, 9, 7, 3)  # odd on purpose
CASES = [
    Case(
        "spatial_3x3",
        lambda **kw: layers.SpatialConv(4, 3, use_bias=True, **kw),
        CLIP,
        lambda x, w: references.spatial_conv(x, *w, padding=1),
    ),
    Case(
        "spatial_7x7_stride_2",
        lambda **kw: layers.SpatialConv(4, 7, 2, **kw),
        CLIP,
        lambda x, w: references.spatial_conv(x, *w, strides=2, padding=3),
    ),
    Case(
        "spatial_1x1_stride_2",
        lambda **kw: layers.SpatialConv(5, 1, 2, **kw),
        CLIP,
        lambda x, w: references.spatial_conv(x, *w, strides=2),
    ),
    Case(
        "spatial_dilated_unpadded",
        lambda **kw: layers.SpatialConv(4, 3, padding=0, dilation_rate=2, **kw),
        CLIP,
        lambda x, w: references.spatial_conv(x, *w, dilation=2),
    ),
    Case(
        "temporal_same",
        lambda **kw: layers.TemporalConv(kernel_initializer="he_normal", **kw),
        CLIP,
        lambda x, w: references.temporal_conv(x, *w, padding=1),
    ),
    Case(
        "temporal_same_stride_2",
        lambda **kw: layers.TemporalConv(
            4, 5, strides=2, kernel_initializer="he_normal", **kw
        ),
        (2, 6, 3, 5, 3),
        lambda x, w: references.temporal_conv(x, *w, strides=2, padding=2),
    ),
    Case(
        "temporal_dilated",
        lambda **kw: layers.TemporalConv(
            dilation_rate=2, use_bias=False, kernel_initializer="he_normal", **kw
        ),
        CLIP,
        lambda x, w: references.temporal_conv(x, *w, padding=2, dilation=2),
    ),
    Case(
        "temporal_valid_even",
        lambda **kw: layers.TemporalConv(
            4, 2, padding="valid", kernel_initializer="he_normal", **kw
        ),
        CLIP,
        lambda x, w: references.temporal_conv(x, *w),
    ),
    Case(
        "channel_scale",
        lambda **kw: layers.ChannelScale(0.5, **kw),
        CLIP,
        lambda x, w: x * w[0] + w[1],
    ),
    Case(
        "spatial_max_caffe",
        lambda **kw: layers.SpatialMaxPooling(3, 2, (0, 1), **kw),
        (2, 3, 8, 7, 3),
        lambda x, w: references.spatial_max_pool(x, 3, 2, (0, 1)),
    ),
    Case(
        "spatial_max_centred",
        lambda **kw: layers.SpatialMaxPooling(3, 2, (1, 1), **kw),
        (2, 3, 8, 7, 3),
        lambda x, w: references.spatial_max_pool(x, 3, 2, (1, 1)),
    ),
    Case(
        "spatial_max_2",
        lambda **kw: layers.SpatialMaxPooling(2, 2, (0, 1), **kw),
        (2, 3, 8, 7, 3),
        lambda x, w: references.spatial_max_pool(x, 2, 2, (0, 1)),
    ),
    Case(
        "spatial_max_even",
        lambda **kw: layers.SpatialMaxPooling(3, 2, (0, 1), **kw),
        (2, 3, 8, 6, 3),
        lambda x, w: references.spatial_max_pool(x, 3, 2, (0, 1)),
    ),
    Case(
        "sliding_average",
        lambda **kw: layers.SlidingAveragePooling(4, **kw),
        (2, 3, 9, 3, 3),
        lambda x, w: references.sliding_average(x, 4),
    ),
    Case(
        "temporal_max_global",
        lambda **kw: layers.TemporalMaxPooling(**kw),
        CLIP,
        lambda x, w: references.temporal_max_pool(x, None, 1),
    ),
    Case(
        "temporal_max_window",
        lambda **kw: layers.TemporalMaxPooling(3, 2, **kw),
        (2, 8, 3, 5, 3),
        lambda x, w: references.temporal_max_pool(x, 3, 2),
    ),
    Case(
        "spatial_relu",
        lambda **kw: layers.SpatialConv(4, 3, use_bias=True, activation="relu", **kw),
        CLIP,
        lambda x, w: np.maximum(references.spatial_conv(x, *w, padding=1), 0),
    ),
    Case(
        "local_response",
        lambda **kw: layers.LocalResponseNormalization(3, 1.5, 0.1, 0.6, **kw),
        (2, 2, 3, 5, 3),
        lambda x, w: references.local_response(x, 3, 1.5, 0.1, 0.6),
    ),
    Case(
        "cross_stream_add",
        lambda **kw: layers.CrossStream("add", **kw),
        CLIP,
        lambda x, w: x[0] + x[1],
        CLIP,
    ),
    Case(
        "cross_stream_multiply",
        lambda **kw: layers.CrossStream("multiply", **kw),
        CLIP,
        lambda x, w: x[0] * x[1],
        CLIP,
    ),
    Case(
        "fusion_sum_padded",
        lambda **kw: layers.SumFusion(pad=True, **kw),
        CLIP,
        lambda x, w: np.add(*references.padded(x)),
        (2, 5, 8, 7, 3),
    ),
    Case(
        "fusion_max",
        lambda **kw: layers.MaxFusion(**kw),
        CLIP,
        lambda x, w: np.maximum(*x),
        CLIP,
    ),
    Case(
        "fusion_concat",
        lambda **kw: layers.ConcatFusion(**kw),
        CLIP,
        lambda x, w: references.interleaved(x),
        CLIP,
    ),
    Case(
        "fusion_concat_block",
        lambda **kw: layers.ConcatFusion("block", pad=True, **kw),
        CLIP,
        lambda x, w: np.concatenate(references.padded(x), axis=-1),
        (2, 5, 8, 6, 4),
    ),
    Case(
        "fusion_conv",
        lambda **kw: layers.ConvFusion(**kw),
        CLIP,
        lambda x, w: references.interleaved(x) @ w[0][0, 0, 0] + w[1],
        CLIP,
    ),
    Case(
        "fusion_conv_3d",
        lambda **kw: layers.ConvFusion(3, 3, pad=True, **kw),
        (1, 4, 5, 4, 3),
        lambda x, w: references.spacetime_conv(
            references.interleaved(references.padded(x)), *w
        ),
        (1, 4, 5, 3, 3),
    ),
    Case(
        "fusion_conv_3d_release",
        lambda **kw: layers.ConvFusion(3, 3, order="block", activation="relu", **kw),
        (1, 4, 5, 4, 3),
        lambda x, w: np.maximum(
            references.spacetime_conv(np.concatenate(x, axis=-1), *w), 0
        ),
        (1, 4, 5, 4, 3),
    ),
    Case(
        "fusion_bilinear",
        lambda **kw: layers.BilinearFusion(**kw),
        (2, 3, 5, 4, 3),
        lambda x, w: references.bilinear(*x),
        (2, 3, 5, 4, 4),
    ),
]
each_case = pytest.mark.parametrize("case", CASES, ids=str)


def random_clip(shape, dtype="float32"):
    return np.random.default_rng(1).normal(size=shape).astype(dtype)


def built(case, **kwargs):
    """The layer with random weights, biases and scales included."""
    layer = case.layer(**kwargs)
    layer.build(case.shapes)
    rng = np.random.default_rng(2)
    layer.set_weights([rng.normal(size=w.shape) for w in layer.weights])
    return layer


def free_model(case, layer):
    """The layer in a graph that knows neither batch, time nor size."""
    x = keras.tree.map_shape_structure(
        lambda shape: keras.Input((None, None, None, shape[-1])), case.shapes
    )
    return keras.Model(x, layer(x))


def specs(case):
    return keras.tree.map_shape_structure(
        lambda shape: tf.TensorSpec([None] * 4 + [shape[-1]], tf.float32), case.shapes
    )


def formula(case, x, layer):
    """The reference in double precision."""
    x = keras.tree.map_structure(lambda a: a.astype("float64"), x)
    return case.reference(x, layer.get_weights())


@each_case
def test_equals_formula(case):
    layer, x = built(case, dtype="float64"), case.clips("float64")
    expected = case.reference(x, layer.get_weights())
    np.testing.assert_allclose(layer(x), expected, atol=1e-12)
    assert layer.compute_output_shape(case.shapes) == expected.shape


@each_case
def test_gradients_equal_finite_differences(case):
    layer = built(case, dtype="float64")
    x = keras.tree.map_structure(tf.Variable, case.clips("float64"))
    variables = [*keras.tree.flatten(x), *(w.value for w in layer.trainable_weights)]
    rng = np.random.default_rng(3)
    probe = rng.normal(size=layer(x).shape)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x) * probe)
    for variable, gradient in zip(
        variables, tape.gradient(loss, variables), strict=True
    ):
        direction = rng.normal(size=variable.shape)
        step = 1e-6 * direction
        variable.assign_add(step)
        up = tf.reduce_sum(layer(x) * probe)
        variable.assign_sub(2 * step)
        down = tf.reduce_sum(layer(x) * probe)
        variable.assign_add(step)
        np.testing.assert_allclose(
            tf.reduce_sum(gradient * direction),
            (up - down) / 2e-6,
            rtol=1e-6,
            atol=1e-6,
        )


@each_case
def test_graph_of_unknown_sizes(case):
    layer = built(case)
    model = free_model(case, layer)
    graph, traced = tf.function(model), tf.function(model, [specs(case)])
    for grow in ((0, 0, 0), (1, 3, 4)):
        x = case.clips(grow=grow)
        expected = formula(case, x, layer)
        np.testing.assert_allclose(graph(x), expected, rtol=1e-5, atol=2e-5)
        np.testing.assert_allclose(traced(x), expected, rtol=1e-5, atol=2e-5)


@each_case
def test_mixed_precision(case):
    layer, x = built(case, dtype="mixed_bfloat16"), case.clips()
    y = layer(x)
    assert y.dtype == "bfloat16"
    assert all(w.dtype == "float32" for w in layer.weights)
    expected = formula(case, x, layer)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(tf.cast(y, tf.float32), expected, atol=0.03 * scale)


@each_case
def test_saved_and_exported(case, tmp_path):
    model, x = free_model(case, built(case)), case.clips()
    expected = model(x)
    model.save(tmp_path / "m.keras")
    reloaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(reloaded(x), expected)
    assert reloaded.layers[-1].get_config() == model.layers[-1].get_config()
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(served.serve(x), expected, atol=1e-6)


@each_case
def test_two_replicas_equal_one(case, two_replicas):
    x = case.clips(grow=(2 - case.shape[0], 0, 0))
    expected = built(case)(x)
    with two_replicas.scope():
        layer = built(case)
    halves = two_replicas.experimental_distribute_values_from_function(
        lambda context: keras.tree.map_structure(
            lambda a: tf.constant(a[context.replica_id_in_sync_group :][:1]), x
        )
    )
    y = two_replicas.run(layer, args=(halves,))
    y = tf.concat(two_replicas.experimental_local_results(y), 0)
    np.testing.assert_allclose(y, expected, atol=1e-6)


ANY_RANK = ("channel_scale", "local_response")


@pytest.mark.parametrize("case", [c for c in CASES if c.name not in ANY_RANK], ids=str)
def test_rejects_what_is_no_clip(case):
    shape = (2, 9, 7, 3)
    with pytest.raises(ValueError, match=r"takes clips \[B, T, H, W, C\]"):
        case.layer().build(shape if case.second is None else [shape, shape])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.SpatialConv(0, 3), "filters must be an integer of at least 1"),
        (lambda: layers.SpatialConv(4, 2.5), "kernel_size must be .* got 2.5"),
        (lambda: layers.SpatialConv(4, 3, padding=-1), "padding must be >= 0, got -1"),
        (
            lambda: layers.TemporalConv(strides=2, dilation_rate=2),
            "cannot both exceed 1",
        ),
        (lambda: layers.TemporalConv(taps=2), "odd number of taps, got 2"),
        (lambda: layers.TemporalConv(padding="full"), "'same' or 'valid', got 'full'"),
        (
            lambda: layers.TemporalConv(padding="valid").build((1, 2, 3, 3, 4)),
            "a clip of 2 frames is shorter than the kernel's 3",
        ),
        (
            lambda: layers.TemporalMaxPooling(5).build((1, 4, 3, 3, 4)),
            "4 frames is shorter than the window of 5",
        ),
        (
            lambda: layers.SpatialMaxPooling(3).build((1, 4, 2, 5, 4)),
            "frames of 2 x 5 are smaller than the window of 3",
        ),
        (lambda: layers.FeatureIdentity("mean"), "accepted are centre, average"),
        (
            lambda: layers.TemporalConv(
                8, kernel_initializer=layers.FeatureIdentity()
            ).build((1, 4, 3, 3, 4)),
            "maps 4 to 8",
        ),
        (lambda: layers.SubBatchNormalization(0), "clips must be an integer"),
        (
            lambda: layers.SubBatchNormalization(4)(
                np.ones((6, 1, 2, 2, 3)), training=True
            ),
            "a batch of 6 clips cannot be cut into groups of 4",
        ),
        (
            lambda: layers.RGBNormalization((1, 2, 3)).build((1, 2, 3, 3, 4)),
            "takes RGB frames, 3 channels",
        ),
        (
            lambda: layers.FlowNormalization().build((1, 2, 3, 3, 5)),
            "an even number of channels",
        ),
        (lambda: layers.FlowNormalization(bound=0), "bound must be positive, got 0"),
        (lambda: layers.ClipView(frames=0), "frames must be an integer of at least 1"),
        (
            lambda: layers.SpatialConv(4, 3, padding=0).build((1, 1, 2, 9, 3)),
            "maps of 2 x 9 are smaller than the kernel of 3",
        ),
        (lambda: layers.LocalResponseNormalization(4), "depth must be odd, got 4"),
        (lambda: layers.CrossStream("gate"), "Unknown interaction 'gate'; accepted"),
        (
            lambda: layers.CrossStream()([np.ones(CLIP), np.ones((2, 1, *CLIP[2:]))]),
            r"equal shape, got \(2, 5, 9, 7, 3\) and \(2, 1, 9, 7, 3\)",
        ),
        (
            lambda: layers.SumFusion()([np.ones(CLIP), np.ones((2, 5, 8, 7, 3))]),
            "cannot fuse .* they have 9 and 8 rows. Give rgb and flow of the same",
        ),
        (
            lambda: layers.SumFusion(pad=True)(
                [np.ones(CLIP), np.ones((2, 1, 9, 7, 3))]
            ),
            "they have 5 and 1 frames",
        ),
        (
            lambda: layers.MaxFusion().build([CLIP, (*CLIP[:4], 4)]),
            "they have 3 and 4 channels",
        ),
        (lambda: layers.SumFusion().build(CLIP), "takes a pair of maps"),
        (lambda: layers.ConcatFusion("mixed"), "accepted are interleaved, block"),
        (lambda: layers.ConvFusion(kernel_size=2), "must be odd .* got 2 and 1"),
        (
            lambda: layers.FusionIdentity()((1, 1, 1, 6, 4)),
            "two streams of C channels to C; the kernel maps 6 to 4",
        ),
        (
            lambda: layers.StreamAverage((1, 0)),
            r"stream_weights must be .* such as \(1, 3\), got \(1, 0\)",
        ),
        (lambda: layers.CrossStream(["add"]), "accepted are add, multiply"),
        (
            lambda: layers.FeatureIdentity("high_pass"),
            "filter 'high_pass'; accepted are centre, average",
        ),
        (
            lambda: layers.StreamAverage((1, 3)).build([(1, 4)] * 3),
            "has 2 weights for 3 streams",
        ),
        (
            lambda: layers.FlowNormalization()(np.full((1, 1, 2, 2, 4), 127.5)),
            "mean of this one is 127.5, which looks like 8-bit codes. Decode them",
        ),
        (
            lambda: layers.FlowNormalization()(
                np.array([[0, 1], [np.nan, 2]]).reshape((1, 1, 1, 2, 2))
            ),
            "takes finite flow, this one holds NaN",
        ),
    ],
)
def test_errors_name_value_and_accepted(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("size", range(5, 10))
@pytest.mark.parametrize("window", [(2, 2), (3, 2), (3, 3), (2, 1), (5, 2)])
@pytest.mark.parametrize("padding", [(0, 0), (0, 1), (1, 1), (1, 0)])
def test_max_pooling_at_every_size(size, window, padding):
    """Whether or not the padding can be left to Keras."""
    x = random_clip((1, 1, size, size + 1, 2))
    layer = layers.SpatialMaxPooling(*window, padding)
    expected = references.spatial_max_pool(x, *window, padding)
    np.testing.assert_array_equal(layer(x), expected)
    free = keras.Input((None, None, None, 2))
    graph = tf.function(keras.Model(free, layer(free)))
    spec = tf.TensorSpec([None] * 4 + [2], tf.float32)
    np.testing.assert_array_equal(
        tf.function(graph, input_signature=[spec])(x), expected
    )


@pytest.mark.parametrize("name", ["centre", "average"])
def test_feature_identity_keeps_constant_clips(name):
    """Eq. 5.9: a clip that does not change passes unchanged, borders aside."""
    layer = layers.TemporalConv(kernel_initializer=layers.FeatureIdentity(name))
    x = np.repeat(random_clip((2, 1, 4, 3, 6)), 5, axis=1)
    y = layer(x)
    np.testing.assert_allclose(y[:, 1:-1], x[:, 1:-1], atol=1e-6)
    border = {"centre": 1, "average": 2 / 3}[name]
    np.testing.assert_allclose(y[:, 0], border * x[:, 0], atol=1e-6)


def test_inflated_kernel_answers_like_the_spatial_one():
    """Eq. 4.5: on a constant clip the inflated 1x1 convolution is the spatial one."""
    spatial = layers.SpatialConv(4, 1)
    x = np.repeat(random_clip((2, 1, 4, 3, 6)), 5, axis=1)
    expected = spatial(x)
    temporal = layers.TemporalConv(4, use_bias=False)
    temporal.build(x.shape)
    temporal.kernel.assign(layers.inflate(spatial.kernel[0, 0], 3))
    np.testing.assert_allclose(temporal(x)[:, 1:-1], expected[:, 1:-1], atol=1e-6)
    kernel = layers.Inflated(keras.initializers.Ones())((5, 2, 3))
    np.testing.assert_allclose(kernel, np.full((5, 2, 3), 0.2), atol=1e-7)


def test_temporal_kernels_start_random():
    """Chapter 7: random weights, fit for a rectified input, and biases of zero."""
    layer = layers.TemporalConv()
    layer.build((1, 4, 3, 3, 64))
    kernel, bias = layer.get_weights()
    assert kernel.std() == pytest.approx((2 / (3 * 64)) ** 0.5, rel=0.05)
    assert not bias.any()
