"""Evaluation of models on whole videos, and the reports drawn from it.

Source: thesis 7.3.3 and 7.5.
"""

from zoo.evaluation.evaluate import evaluate
from zoo.evaluation.results import Results, Skip

__all__ = ["Results", "Skip", "evaluate"]
