"""Files of weights for tests, and what conversions of such files are held to."""

import h5py
import numpy as np

from zoo.weights.transfer import transfer


def write_legacy_h5(network, path):
    """The weights of a keras.Model as Keras 2 stored them, and keras.applications do.

    Source: the file format is Keras' (2.x): a group per layer with `weight_names`.
    """
    with h5py.File(path, "w") as file:
        layers = list(network.layers)
        file.attrs["layer_names"] = np.array([x.name for x in layers], dtype="S")
        file.attrs["backend"] = np.bytes_("tensorflow")
        for layer in layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{v.name}:0" for v in layer.weights]
            group.attrs["weight_names"] = np.array(names, dtype="S") if names else []
            for name, array in zip(names, layer.get_weights(), strict=True):
                group[name] = array
    return path


def filled(model, found):
    """`model` with the weights of a `Conversion`, every one of them."""
    assert found.unused == ()
    for variable in model.weights:
        variable.assign(np.full(variable.shape, np.nan))
    transfer(found.weights, model)
    assert sorted(row.target for row in found.rows) == sorted(
        "/".join(v.path.split("/")[-2:]) for v in model.weights
    )
    return model, found


def same(found, expected, tolerance=1e-4):
    """Equal to a part of the largest value."""
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, atol=tolerance)
