"""Intermediate maps of a model by the names of the thesis.

Source: layer names of thesis Tables 4.1 and 5.1.
"""

import difflib
import re

import keras

from zoo.models.plain_rgb import flow_stack_of, network_of

_ENDPOINT = re.compile(
    "(?:(?:appearance|motion)_)?(?:conv|relu|res|pool|fc|fusion|logits|pred)"
)


def features(model, endpoints):
    """A model that returns {endpoint: map}; see `zoo.features`.

    Source: layer names of thesis Tables 4.1 and 5.1.
    """
    endpoints = [endpoints] if isinstance(endpoints, str) else list(endpoints)
    if not endpoints:
        raise ValueError("No endpoints given; pass e.g. ['res4', 'pool5'].")
    stack = flow_stack_of(model)
    if stack is not None:
        inner = features(network_of(model), endpoints)
        seen = stack(model.input)
        outputs = inner(seen if isinstance(inner.input, dict) else seen["flow"])
    else:
        outputs = {name: _output(model, name) for name in endpoints}
    return keras.Model(model.input, outputs, name=f"{model.name}_features")


def _output(model, endpoint):
    # Keras forbids slashes in layer names: appearance/res4 is appearance_res4.
    names = {layer.name: layer for layer in model.layers}
    layer = names.get(str(endpoint).replace("/", "_"))
    if layer is None:
        named = [name for name in names if _ENDPOINT.match(name)]
        near = difflib.get_close_matches(str(endpoint), named, n=5, cutoff=0.3)
        raise ValueError(
            f"{model.name} has no endpoint {endpoint!r}; the nearest are "
            f"{', '.join(near) or ', '.join(named[-5:])}."
        )
    return layer.output
