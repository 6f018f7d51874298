"""Understanding networks: their cost and what their units see.

Source: thesis Tables 2.1 and 4.1 (receptive fields), section 4.4 (multiply-adds).
"""

from zoo.understanding.graph import (
    multiply_adds,
    parameters,
    receptive_fields,
    strides,
)

__all__ = ["multiply_adds", "parameters", "receptive_fields", "strides"]
