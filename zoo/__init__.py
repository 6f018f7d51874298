"""Spacetime Zoo: video recognition networks for TensorFlow and Keras 3.

    import zoo
    model = zoo.load("t_resnet50", num_classes=20)

The systems of Christoph Feichtenhofer's thesis "Deep Learning for Video Recognition".
"""

import importlib as _importlib
import os as _os
import sys as _sys

_here = _os.path.dirname(_os.path.abspath(__file__))
if not _os.path.isdir(_os.path.join(_here, "layers")):
    # A source checkout: layers/, datasets/ and exports/ stand beside this folder.
    __path__.append(_os.path.dirname(_here))

from zoo.registry import info, list_models, register  # noqa: E402

__version__ = "0.2.0"
__all__ = ["features", "info", "list_models", "load", "register"]

if "keras" in _sys.modules:
    # Then that costs little, and keras.models.load_model knows the zoo's classes. A
    # process that has not needed Keras yet is not made to load it.
    _importlib.import_module("zoo.models")


def load(
    name,
    weights=None,
    num_classes=None,
    classifier_activation="softmax",
    flow=None,
    **options,
):
    """Builds a registered model by name, with or without trained weights.

    Args:
        name: a name of `list_models()`, e.g. "t_resnet50"; or with the tag of known
            weights, "st_resnet50.ucf101_split1_release".
        weights: None for a random start; the tag of known weights, e.g. "imagenet",
            which are looked for on this machine and then fetched (docs/weights.md);
            the path of a file of Keras, MatConvNet, Caffe or PyTorch, or of a folder
            that training, `zoo convert` or `zoo publish` wrote; or a `keras.Model`.
            Weights of the model's predecessor (`info(name).warm_start`) start it:
            "resnet50" starts "t_resnet50". For a network of two streams also
            {"appearance": ..., "motion": ...}, each one of these. Where the name has
            a tag, only a path, of its file.
        num_classes: size of the classifier; None takes that of the weights, or the
            model's own default. Another size than the weights' gets a new classifier,
            which is said once.
        classifier_activation: activation after the averaged scores; None for scores.
        flow: "tvl1" or "tvl1_fast" computes optical flow inside the model, which then
            takes nothing but `frames` [B, N, H, W, 3], see `zoo.models.plain_rgb`.
        **options: of this architecture, see `info(name).options`.

    Returns:
        A functional keras.Model from clips `rgb` [B, T, H, W, 3], RGB 0-255, uint8 or
        float, any B, T, H, W, to class probabilities [B, num_classes]; or as
        `info(name).inputs` says from `flow` [B, T, H, W, 20] in pixels. Networks of
        two streams take a dict of both and return a dict, see `zoo.models.towers`.

    Raises:
        ValueError: unknown name, option or weights; weights of another architecture,
            damaged ones, or a file with another checksum.
        FileNotFoundError: `weights` names no file, or known weights are nowhere to be
            had; the message says where they were looked for.

    Source: thesis 7.3.3 for starting a spatiotemporal network from a spatial one, 4.3.5
    and 5.4.1 for starting from two streams.
    """
    from zoo.weights.loading import load as load_model

    model = load_model(name, weights, num_classes, classifier_activation, **options)
    if flow is None:
        return model
    from zoo.models.plain_rgb import plain_rgb

    return plain_rgb(model, flow)


def features(model, endpoints):
    """A model of the same inputs that returns intermediate maps by name.

    Args:
        model: a model of the zoo.
        endpoints: names of `info(name).endpoints`, e.g. ["res4", "pool5"].

    Returns:
        A keras.Model returning {endpoint: tensor}: maps [B, T', H', W', C], and
        [B, num_classes] for "logits" and "predictions".

    Raises:
        ValueError: an endpoint the model does not have; the nearest are named.

    Source: layer names of thesis Tables 4.1 and 5.1.
    """
    from zoo.models.endpoints import features as model_of

    return model_of(model, endpoints)
