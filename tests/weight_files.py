"""Files of weights for tests, in formats that nothing here writes otherwise."""

import h5py
import numpy as np


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
