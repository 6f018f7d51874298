"""ResNeXt-101 32x4d applied to every frame, as a classifier and for detection.

Xie, Girshick, Dollar, Tu, He 2017 (arXiv:1611.05431): residual units whose 3x3
convolution works on 32 groups of channels. Layers carry the names of the Caffe files
that the thesis' authors published for Detect & Track (resx1_conv1 ... resx33_conv3),
in which units are numbered through. Stride 2 stands on the 3x3 convolution. The trunk
of detectors has stride 16 and is dilated; the classifier has stride 32.

Tensors are clips [B, T, H, W, C]; sizes in comments are for frames of 608 x 1008, as
detectors see them.
"""

import keras

from zoo import layers
from zoo.models import resnet
from zoo.models.inputs import video_input
from zoo.models.resnet import classifier, pool5, require
from zoo.registry import register

GROUPS = 32
UNITS = (3, 4, 23, 3)  # of stages 2-5 (Xie et al. 2017, Table 1)
WIDTHS = (128, 256, 512, 1024)  # inside the units; they return twice as many
# Of red, green and blue. The release subtracts and divides in the reverse order, as if
# its frames were blue, green and red, and its weights need that.
MEAN, DEVIATION = (123.675, 116.28, 103.52), (58.395, 57.12, 57.375)
ORDERS = {"thesis": 1, "release": -1}


def conv_norm(name, filters, kernel_size, strides=1, activation="relu", **arguments):
    """f(BN(W x)) under its name in the release (Xie et al. 2017, section 4)."""
    return layers.ConvNorm(
        filters,
        kernel_size,
        strides,
        activation=activation,
        norm_name=f"{name}_scale",
        name=name,
        **arguments,
    )


def residual_unit(
    x, index, width, is_first, endpoint, *, strides, sub_batch=None, **arguments
):
    """x_{l+1} = f(x_l + F(x_l)), F: 1x1, 3x3 in groups, 1x1 (Xie et al., Fig. 3c).

    Args:
        x: x_l. index: of the unit in the network, from 1.
        width: channels of the 3x3 convolution.
        is_first: of its stage, whose shortcut is a projection.
        endpoint: name of the result. strides: of the 3x3 and of the projection.
        sub_batch: clips per group of batch normalisation.
        **arguments: dilation_rate and groups of the 3x3 convolution.

    Source: Xie et al. 2017, Fig. 3c.
    """
    name, norm = f"resx{index}", {"sub_batch": sub_batch}
    shortcut = x
    if is_first:
        match = conv_norm(f"{name}_match_conv", 2 * width, 1, strides, None, **norm)
        shortcut = match(x)
    x = conv_norm(f"{name}_conv1", width, 1, **norm)(x)
    x = conv_norm(f"{name}_conv2", width, 3, strides, **arguments, **norm)(x)
    x = conv_norm(f"{name}_conv3", 2 * width, 1, **norm)(x, shortcut)
    return keras.layers.Identity(name=endpoint)(x)


def trunk(
    x, order=1, dilated=False, units=UNITS, widths=WIDTHS, groups=GROUPS, **arguments
):
    """Everything up to res5: a clip -> {"res2", "res3", "res4", "res5"}.

    Args:
        x: the input tensor [B, T, H, W, 3], RGB 0-255.
        order: of mean and deviation, 1 or -1, see `ORDERS`.
        dilated: stride 16, conv5 dilated instead (thesis 8.3.2); else stride 32.
        units, widths: of stages 2-5. groups: of the 3x3 convolutions.
        **arguments: of every `ConvNorm`, e.g. sub_batch.

    Source: Xie et al. 2017, Table 1.
    """
    x = layers.RGBNormalization(
        MEAN[::order], DEVIATION[::order], name="rgb_normalization"
    )(x)
    x = conv_norm("conv1", 64, 7, 2, **arguments)(x)  # 304 x 504
    x = layers.SpatialMaxPooling(3, 2, (1, 1), name="pool1")(x)  # 152 x 252
    maps, index = {}, 0
    for stage, (count, width) in enumerate(zip(units, widths, strict=True), start=2):
        for number in range(count):
            index += 1
            is_first = number == 0
            strided = stage in ((3, 4) if dilated else (3, 4, 5))
            x = residual_unit(
                x,
                index,
                width,
                is_first,
                f"res{stage}" if number == count - 1 else f"resx{index}",
                strides=2 if is_first and strided else 1,
                dilation_rate=2 if stage == 5 and dilated else 1,
                groups=groups,
                **arguments,
            )
        maps[f"res{stage}"] = x
    return maps


def dilated_resnext(x, stem="caffe", variant="thesis", **sizes):
    """The trunk of stride 16: a clip -> {"res2", "res3", "res4", "res5"}.

    Args:
        x: the input tensor [B, T, H, W, 3], RGB 0-255.
        stem: "caffe"; there is no other release.
        variant: "thesis", or "release" for its order of mean and deviation.
        **sizes: units, widths and groups of `trunk`.

    Raises:
        ValueError: another stem.

    Source: Xie et al. 2017, Table 1; thesis 8.3.2 for stride and dilation of conv5.
    """
    require("stem", stem, ("caffe",))
    return trunk(x, ORDERS[variant], dilated=True, **sizes)


def resnext(name, num_classes, classifier_activation, *, sub_batch=None, **sizes):
    """The frame-wise classifier: trunk, pool5, scores averaged over frames.

    Args:
        name: of the model.
        num_classes, classifier_activation: of the classifier.
        sub_batch: clips per group of batch normalisation, None for the whole batch.
        **sizes: units, widths and groups of `trunk`.

    Source: Xie et al. 2017, Table 1.
    """
    rgb = video_input("rgb")
    x = pool5(trunk(rgb, sub_batch=sub_batch, **sizes)["res5"])
    outputs = classifier(x, num_classes, classifier_activation)
    return keras.Model(rgb, outputs, name=name)


# In theory, of units at the end of a stage: (frames, pixels), res5 dilated.
RECEPTIVE_FIELDS = {
    "res2": (1, 35),
    "res3": (1, 91),
    "res4": (1, 811),
    "res5": (1, 1003),
}


@register(
    **{
        **resnet.FACTS,
        "architecture": resnext,
        "section": "8.5 (ResNeXt)",
        "parameters": 44_177_704,
        "multiply_adds": 127.5,
        "receptive_field": {**RECEPTIVE_FIELDS, "res5": (1, 971)},
        "weights": (),
    }
)
def resnext101(num_classes=1000, classifier_activation="softmax", **options):
    """ResNeXt-101 32x4d on every frame, scores averaged (Xie et al. 2017)."""
    return resnext("resnext101", num_classes, classifier_activation, **options)
