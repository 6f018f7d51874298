"""From a model to a server: SavedModel directories that TensorFlow Serving runs.

Source: the test-time network of thesis 7.3.3; tensorflow.org/guide/saved_model.
"""

from zoo.exports.optimize import optimized
from zoo.exports.predictor import load_exported
from zoo.exports.saved_model import export, publish
from zoo.exports.signature import Contract

__all__ = ["Contract", "export", "load_exported", "optimized", "publish"]
