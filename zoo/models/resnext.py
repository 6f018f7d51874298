"""ResNeXt-101 32x4d applied to every frame, with stride 16 for detection.

Xie, Girshick, Dollar, Tu, He 2017 (arXiv:1611.05431): residual units whose 3x3
convolution works on 32 groups of channels. Layers carry the names of the Caffe files
that the thesis' authors published for Detect & Track (resx1_conv1 ... resx33_conv3),
in which units are numbered through. Stride 2 stands on the 3x3 convolution.

Tensors are clips [B, T, H, W, C]; sizes in comments are for frames of 608 x 1008.
"""

import keras

from zoo import layers
from zoo.models.resnet import require

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


def residual_unit(x, index, width, strides, dilation, groups, is_first, endpoint):
    """x_{l+1} = f(x_l + F(x_l)), F: 1x1, 3x3 in groups, 1x1 (Xie et al., Fig. 3c)."""
    name = f"resx{index}"
    shortcut = x
    if is_first:
        match = conv_norm(f"{name}_match_conv", 2 * width, 1, strides, None)
        shortcut = match(x)
    x = conv_norm(f"{name}_conv1", width, 1)(x)
    x = conv_norm(
        f"{name}_conv2", width, 3, strides, dilation_rate=dilation, groups=groups
    )(x)
    x = conv_norm(f"{name}_conv3", 2 * width, 1)(x, shortcut)
    return keras.layers.Identity(name=endpoint)(x)


def dilated_resnext(
    x, stem="caffe", variant="thesis", units=UNITS, widths=WIDTHS, groups=GROUPS
):
    """The trunk of stride 16: a clip -> {"res3", "res4", "res5"}.

    Args:
        x: the input tensor [B, T, H, W, 3], RGB 0-255.
        stem: "caffe"; there is no other release.
        variant: "thesis", or "release" for its order of mean and deviation.
        units, widths: of stages 2-5. groups: of the 3x3 convolutions.

    Raises:
        ValueError: another stem.

    Source: Xie et al. 2017, Table 1; thesis 8.3.2 for stride and dilation of conv5.
    """
    require("stem", stem, ("caffe",))
    order = ORDERS[variant]
    x = layers.RGBNormalization(
        MEAN[::order], DEVIATION[::order], name="rgb_normalization"
    )(x)
    x = conv_norm("conv1", 64, 7, 2)(x)  # 304 x 504
    x = layers.SpatialMaxPooling(3, 2, (1, 1), name="pool1")(x)  # 152 x 252
    maps, index = {}, 0
    for stage, (count, width) in enumerate(zip(units, widths, strict=True), start=2):
        for number in range(count):
            index += 1
            is_first = number == 0
            x = residual_unit(
                x,
                index,
                width,
                strides=2 if is_first and stage in (3, 4) else 1,
                dilation=2 if stage == 5 else 1,
                groups=groups,
                is_first=is_first,
                endpoint=f"res{stage}" if number == count - 1 else f"resx{index}",
            )
        maps[f"res{stage}"] = x
    return maps
