"""From a model to a server: SavedModel directories that TensorFlow Serving runs.

Names are imported on first use, so that a client (``zoo.exports.client``) loads neither
Keras nor TensorFlow.

Source: the test-time network of thesis 7.3.3; tensorflow.org/guide/saved_model.
"""

from zoo.lazy import lazy_names

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
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
