"""Strides, padding and windows of a trained network, compared with those of a model.

Weights of equal shape may belong to another network, as those of ResNets do whose
stride stands on the 3x3 convolution.

Source: thesis Tables 2.1, 4.1 and 5.1, which give them for the networks of the zoo.
"""

# Layers without weights that every successor of a network keeps.
KEPT = ("SpatialMaxPooling", "LocalResponseNormalization", "SlidingAveragePooling")
NORM = "depth"  # an attribute of layers that a successor cannot lack unnoticed


def require_same(geometry, model, origin):
    """Raises ValueError where a model's layers do something else than the trained.

    Args:
        geometry: {layer name: {attribute: value}} of the trained network, see
            `Weights.geometry`; empty if unknown. model: keras.Model. origin: of the
            weights, for the message.

    Source: thesis Tables 2.1, 4.1 and 5.1.
    """
    if not geometry:
        return
    found = {layer.name: layer for layer in model.layers}
    wrong = []
    for name, expected in geometry.items():
        layer = found.get(name)
        if layer is None and NORM in expected:
            wrong.append(f"{name} is not in {model.name}")
        elif all(hasattr(layer, key) for key in expected):
            own = {key: getattr(layer, key) for key in expected}
            if own != expected:
                wrong.append(f"{name} has {expected}, in {model.name} {own}")
    wrong += [
        f"{name} of {model.name} is missing"
        for name, layer in found.items()
        if type(layer).__name__ in KEPT and name not in geometry
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(
            f"The network of {origin} is not {model.name}: {'; '.join(wrong[:3])}"
            f"{more}. Name the architecture that it is."
        )
