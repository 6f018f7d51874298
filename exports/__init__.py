"""From a model to a server: SavedModel directories that TensorFlow Serving runs.

Names are imported on first use, so that a client (``zoo.exports.client``) loads neither
Keras nor TensorFlow.

Source: the test-time network of thesis 7.3.3; tensorflow.org/guide/saved_model.
"""

import importlib

_HOMES = {
    "Contract": "contract",
    "export": "saved_model",
    "export_litert": "litert",
    "export_onnx": "onnx",
    "load_exported": "predictor",
    "optimized": "optimize",
    "publish": "saved_model",
}

__all__ = sorted(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}; it has {__all__}"
        )
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__():
    return sorted({*globals(), *__all__})
