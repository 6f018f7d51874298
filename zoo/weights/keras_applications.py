"""ImageNet weights of keras.applications for the ResNets and the VGG-16 of the zoo.

The networks are the same up to names, except that keras.applications takes BGR, has
biases in the convolutions of its ResNets, pads pool1 on both sides there and uses an
epsilon of 1.001e-5. Channels are flipped, biases folded into the moving means (exact,
since batch normalisation subtracts them), the epsilon's difference moves into the
variances, and pool1 is the option stem="keras". The fully connected layers of VGG-16
become convolutions over the same features in the same order.

Source: He et al. 2015; Simonyan and Zisserman 2014b; keras.applications.
"""

import numpy as np

from zoo.models.resnet import NETS, unit_names
from zoo.models.vgg import VGGS
from zoo.weights.hdf5 import read_legacy_h5
from zoo.weights.transfer import Weights

STEM = {"stem": "keras"}
EPSILON = 1.001e-5 - 1e-5  # theirs minus ours
NETWORKS = ("resnet50", "resnet101", "resnet152", "vgg16")


def read(path, name):
    """The weights in a file of keras.applications, under the names of the zoo.

    Args:
        path: of the `.h5` file with the classifier. name: one of `NETWORKS`.

    Returns:
        A `Weights`; those of ResNets were trained with stem="keras".

    Raises:
        ValueError: the file holds no such weights. FileNotFoundError: no such file.

    Source: keras.applications.
    """
    return _named(read_legacy_h5(path), name, str(path))


def convert(application):
    """The weights of a network of keras.applications under the names of the zoo.

    Args:
        application: keras.applications.ResNet50, 101, 152 or VGG16 with a classifier.

    Returns:
        A `Weights` for our network of the same name.

    Source: keras.applications.
    """
    layers = {x.name: x.get_weights() for x in application.layers if x.weights}
    origin = f"keras.applications {application.name}"
    return _named(layers, application.name, origin)


def _named(theirs, name, origin):
    rules = _vgg16() if name.startswith("vgg") else _resnet(name)
    wanted = {source for sources, _ in rules.values() for source in sources}
    odd = sorted(wanted ^ set(theirs))
    if odd:
        here = [layer for layer in odd if layer in theirs]
        what = f"has {here[0]}" if here else f"lacks {odd[0]}"
        raise ValueError(
            f"{origin} holds no weights of keras.applications' {name} with its "
            f"classifier: it {what}, one of {len(odd)} layers that differ. Give the "
            "file of the same network, not one whose name ends in notop.h5."
        )
    layers = {}
    for ours, (sources, rule) in rules.items():
        layers[ours] = rule(*(theirs[source] for source in sources))
    return Weights(origin, layers, {} if name.startswith("vgg") else STEM)


# --- rules: {our layer: (their layers, function of their arrays)} --------------------


def _vgg16():
    net = VGGS["16"]
    rules = {}
    for conv in net.convs:
        stage, number = conv.name.split("_")
        rules[f"conv{conv.name}"] = (f"block{stage}_conv{number}",), _as_it_is
    rules["conv1_1"] = rules["conv1_1"][0], _of_rgb
    size, filters = net.fc6

    def fc6(arrays):
        return [arrays[0].reshape(size, size, -1, filters), arrays[1]]

    rules["fc6"] = ("fc1",), fc6
    rules["fc7"] = ("fc2",), lambda arrays: [arrays[0][None, None], arrays[1]]
    rules["fc8"] = ("predictions",), _as_it_is
    return rules


def _resnet(name):
    rules = {}
    for ours, theirs in _names(NETS[name.removeprefix("resnet")]):
        conv, norm = _layer_names(ours)
        kernel = _kernel_of_rgb if ours == "conv1" else _kernel
        rules[conv] = (f"{theirs}_conv",), kernel
        rules[norm] = (f"{theirs}_bn", f"{theirs}_conv"), _norm
    rules["fc"] = ("predictions",), _as_it_is
    return rules


def _as_it_is(arrays):
    return list(arrays)


def _of_rgb(arrays):
    return [arrays[0][:, :, ::-1], *arrays[1:]]  # takes BGR; ours takes RGB


def _kernel(arrays):
    return [arrays[0]]


def _kernel_of_rgb(arrays):
    return [arrays[0][:, :, ::-1]]


def _norm(arrays, conv):
    gamma, beta, mean, variance = arrays
    return [gamma, beta, mean - conv[1], variance + np.float32(EPSILON)]


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
