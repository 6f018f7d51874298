"""Arrays out of HDF5 files of Keras, within bounds.

A few hundred bytes of HDF5 can declare arrays of any size, or point to other files.
Nothing is read before what is declared is known to be stored in the file itself.

Source: The HDF Group's file format, version 1.10; Keras' two layouts of weights.
"""

from pathlib import Path

import h5py

from zoo.weights.kinds import MAX_BYTES, MAX_RATIO, check_size, refuse_page
from zoo.weights.transfer import Weights


def read_h5(path):
    """The weights in a `.weights.h5` file of Keras, by the names of its layers.

    Args:
        path: of a file that `model.save_weights` wrote.

    Returns:
        A `Weights`; what the file does not say, such as the stem, is left open.

    Raises:
        ValueError: no HDF5 file, a truncated one, or one without named layers.
        FileNotFoundError: no such file.

    Source: the file format is Keras' (3.15): layers/<class>/.../vars with the
    attribute `name` and the arrays 0, 1, ... in the order of `layer.weights`.
    """
    layers = {}

    def collect(key, group):
        if key.endswith("/vars") and len(group):
            arrays = [_array(group[str(i)]) for i in range(len(group))]
            layers[group.attrs["name"]] = arrays

    _read(path, lambda file: file["layers"].visititems(collect), ".weights.h5")
    return Weights(str(path), layers)


def read_legacy_h5(path):
    """The layers in an `.h5` file of Keras 1 and 2: {layer: [array, ...]}.

    Args:
        path: of such a file, of weights or of a whole model.

    Raises:
        ValueError: no HDF5 file, a truncated one, or one of another layout.
        FileNotFoundError: no such file.

    Source: the file format is Keras' (2.x): a group per layer, whose attribute
    `weight_names` gives the order of its arrays.
    """
    layers = {}

    def collect(file):
        root = file["model_weights"] if "model_weights" in file else file
        for layer in root.attrs["layer_names"]:
            group = root[_text(layer)]
            names = map(_text, group.attrs["weight_names"])
            if arrays := [_array(group[name]) for name in names]:
                layers[_text(layer)] = arrays

    _read(path, collect, ".h5")
    return layers


def _read(path, reader, ending):
    path, size = Path(path), check_size(path)
    try:
        with h5py.File(path) as file:
            _check(file, size, path)
            reader(file)
    except (OSError, KeyError, TypeError, RuntimeError) as error:
        with open(path, "rb") as file:
            start = file.read(4096)
        refuse_page(start, path)
        raise ValueError(
            f"{path} is not a readable {ending} file of Keras ({error}); it begins "
            f"with {start[:24]!r}, HDF5 with b'\\x89HDF'. Download or save it again."
        ) from error


def check(path):
    """Refuses a file that declares arrays which it does not hold.

    Raises:
        ValueError: such a file; the message names the array.
        OSError: no HDF5 file.

    Source: The HDF Group's file format, version 1.10.
    """
    with h5py.File(path) as file:
        _check(file, check_size(path), path)


def _check(file, size, path):
    total = 0

    def elsewhere(key, link):  # h5py would open what a link names, in any file
        return None if isinstance(link, h5py.HardLink) else (key, type(link).__name__)

    def look(key, item):
        nonlocal total
        if not isinstance(item, h5py.Dataset):
            return
        total += item.nbytes
        stored = item.id.get_storage_size()
        is_packed = item.id.get_create_plist().get_nfilters() > 0
        if item.external or item.is_virtual or (stored < item.nbytes and not is_packed):
            raise ValueError(
                f"{path}: {key} is declared with {item.nbytes} bytes, of which the "
                f"file has {stored}; it is damaged or made to exhaust memory."
            )

    if found := file.visititems_links(elsewhere):
        raise ValueError(
            f"{path}: {' is a '.join(found)}, which points elsewhere; only what stands "
            "in the file itself is read. Save the weights again."
        )
    file.visititems(look)
    if total > MAX_BYTES or total > MAX_RATIO * max(size, 2**20):
        raise ValueError(
            f"{path}: arrays of {total} bytes are declared in a file of {size}; it is "
            "damaged or made to exhaust memory."
        )


def _array(dataset):
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "fiub":
        raise TypeError(f"{getattr(dataset, 'name', dataset)} is no array of numbers")
    return dataset[()]


def _text(name):
    return name.decode() if isinstance(name, bytes) else str(name)
