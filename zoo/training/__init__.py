"""Training: recipes, the thesis' optimiser and schedule, and `train`.

Source: thesis 7.3.3.
"""

from zoo.training.fit import Run, train
from zoo.training.recipe import Recipe

__all__ = ["Recipe", "Run", "train"]
