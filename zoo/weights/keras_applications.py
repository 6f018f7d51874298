"""ImageNet weights of keras.applications for the ResNets and the VGG-16 of the zoo.

The networks are the same up to names, except that keras.applications takes BGR, has
biases in the convolutions of its ResNets, pads pool1 on both sides there and uses an
epsilon of 1.001e-5. Channels are flipped, biases folded into the moving means (exact,
since batch normalisation subtracts them), the epsilon's difference moves into the
variances, and pool1 is the option stem="keras". The fully connected layers of VGG-16
become convolutions over the same features in the same order.

Source: He et al. 2015; Simonyan and Zisserman 2014b; keras.applications.
"""

import keras
import numpy as np

from zoo.models.resnet import NETS, unit_names
from zoo.models.vgg import VGGS
from zoo.weights.transfer import Weights

STEM = {"stem": "keras"}
EPSILON = 1.001e-5 - 1e-5  # theirs minus ours

NETWORKS = {
    "resnet50": keras.applications.ResNet50,
    "resnet101": keras.applications.ResNet101,
    "resnet152": keras.applications.ResNet152,
    "vgg16": keras.applications.VGG16,
}


def imagenet(name, weights="imagenet"):
    """Trained weights of one of the networks, downloaded or from a file.

    Args:
        name: "resnet50", "resnet101", "resnet152" or "vgg16".
        weights: "imagenet" downloads once into Keras' cache, whose checksum Keras
            verifies; or the path of that `.h5` file.

    Returns:
        A `Weights` of 1000 classes; those of ResNets were trained with stem="keras".

    Raises:
        ConnectionError: the download failed; the message says what to do offline.
        ValueError: the file holds no such weights.

    Source: keras.applications.
    """
    try:
        application = NETWORKS[name](weights=weights, classifier_activation=None)
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
    """The weights of a network of keras.applications under the names of the zoo.

    Args:
        application: keras.applications.ResNet50, 101, 152 or VGG16 with a classifier.

    Returns:
        A `Weights` for our network of the same name.

    Source: keras.applications.
    """
    vgg = application.name.startswith("vgg")
    layers = _vgg16(application) if vgg else _resnet(application)
    options = {} if vgg else STEM
    return Weights(f"keras.applications {application.name}", layers, options)


def _vgg16(application):
    net, layers = VGGS["16"], {}
    for conv in net.convs:
        stage, number = conv.name.split("_")
        layers[f"conv{conv.name}"] = application.get_layer(
            f"block{stage}_conv{number}"
        ).get_weights()
    first = layers["conv1_1"]
    layers["conv1_1"] = [first[0][:, :, ::-1], first[1]]  # takes BGR; ours takes RGB
    size, filters = net.fc6
    kernel, bias = application.get_layer("fc1").get_weights()
    layers["fc6"] = [kernel.reshape(size, size, -1, filters), bias]
    kernel, bias = application.get_layer("fc2").get_weights()
    layers["fc7"] = [kernel[None, None], bias]
    layers["fc8"] = application.get_layer("predictions").get_weights()
    return layers


def _resnet(application):
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
    layers["fc"] = application.get_layer("predictions").get_weights()
    return layers


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
