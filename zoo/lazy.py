"""Packages whose names are imported on first use: what is not used costs nothing.

Source: PEP 562.
"""

import importlib
import sys


def lazy_names(package, homes):
    """The functions `__getattr__` and `__dir__` of a package.

    Args:
        package: its `__name__`. homes: {public name: module of the package}.

    Returns:
        (__getattr__, __dir__); the first raises AttributeError for any other name.

    Source: PEP 562.
    """

    def get(name):
        if name not in homes:
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}; it has {sorted(homes)}"
            )
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    return get, lambda: sorted({*vars(sys.modules[package]), *homes})
