"""ImageNet weights of keras.applications for the ResNets of the zoo.

The networks are the same up to names, except that keras.applications takes BGR, has
biases in its convolutions, pads pool1 on both sides and uses an epsilon of 1.001e-5.
Channels are flipped, biases folded into the moving means (exact, since batch
normalisation subtracts them), the epsilon's difference moves into the variances, and
pool1 is the option stem="keras".

Source: He et al. 2015; keras.applications.resnet.
"""

import keras
import numpy as np

from zoo.models.resnet import NETS, unit_names
from zoo.weights.transfer import HEAD, Weights

STEM = {"stem": "keras"}
EPSILON = 1.001e-5 - 1e-5  # theirs minus ours

_BUILDERS = {
    "resnet50": keras.applications.ResNet50,
    "resnet101": keras.applications.ResNet101,
    "resnet152": keras.applications.ResNet152,
}


def imagenet(name, weights="imagenet"):
    """Trained weights of one of the ResNets, downloaded or from a file.

    Args:
        name: "resnet50", "resnet101" or "resnet152".
        weights: "imagenet" downloads once into Keras' cache, whose checksum Keras
            verifies; or the path of that `.h5` file.

    Returns:
        A `Weights` of 1000 classes, trained with stem="keras".

    Raises:
        ConnectionError: the download failed; the message says what to do offline.
        ValueError: the file holds no such weights.

    Source: keras.applications.resnet.
    """
    try:
        application = _BUILDERS[name](weights=weights, classifier_activation=None)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{weights} holds no weights of keras.applications' {name} with 1000 "
            f"classes: {str(error).splitlines()[0]}"
        ) from error
    except Exception as error:
        if "fetch failure" not in str(error):
            raise
        raise ConnectionError(
            f"The ImageNet weights of {name} could not be downloaded ({error}). "
            f"Fetch the file elsewhere and pass its path: zoo.load({name!r}, "
            "weights='…_weights_tf_dim_ordering_tf_kernels.h5')."
        ) from error
    return convert(application)


def convert(application):
    """The weights of a keras.applications ResNet under the names of the zoo.

    Args:
        application: keras.applications.ResNet50, 101 or 152 with a classifier.

    Returns:
        A `Weights` for the ResNet of the same depth and stem="keras".

    Source: keras.applications.resnet, `stack_residual_blocks_v1`.
    """
    depth = application.name.removeprefix("resnet")
    layers = {}
    for ours, theirs in _names(NETS[depth]):
        kernel, bias = application.get_layer(f"{theirs}_conv").get_weights()
        gamma, beta, mean, variance = application.get_layer(
            f"{theirs}_bn"
        ).get_weights()
        if ours == "conv1":
            kernel = kernel[:, :, ::-1]  # takes BGR; ours takes RGB
        conv, norm = _layer_names(ours)
        layers[conv] = [kernel]
        layers[norm] = [gamma, beta, mean - bias, variance + np.float32(EPSILON)]
    layers[HEAD] = application.get_layer("predictions").get_weights()
    return Weights(f"keras.applications {application.name}", layers, STEM)


def _names(net):
    """Pairs of names of each convolution: ours without prefix, theirs."""
    yield "conv1", "conv1"
    for stage in (2, 3, 4, 5):
        for block, letter in enumerate(unit_names(stage, net), start=1):
            unit, theirs = f"{stage}{letter}", f"conv{stage}_block{block}"
            if block == 1:
                yield f"{unit}_branch1", f"{theirs}_0"
            for number, branch in enumerate(("2a", "2b", "2c"), start=1):
                yield f"{unit}_branch{branch}", f"{theirs}_{number}"


def _layer_names(ours):
    return ("conv1", "bn_conv1") if ours == "conv1" else (f"res{ours}", f"bn{ours}")
