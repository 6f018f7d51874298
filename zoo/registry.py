"""The list of models: a decorated function is a registered model.

Source: the thesis section that each record names.
"""

import difflib
import fnmatch
import importlib
import inspect
import re
import sys

from zoo.model_info import ModelInfo

_BUILDERS = {}
_INFOS = {}
_COMMON = ("num_classes", "classifier_activation")


def register(architecture=None, **facts):
    """Registers the decorated function under its own name.

    The function takes `num_classes` and `classifier_activation`, both with defaults,
    and the architecture's options, and returns a keras.Model; the first line of its
    docstring is its summary.

    Args:
        architecture: function whose keyword-only arguments are the options, for
            entry points that hand them on; None takes those of the entry point.
        **facts: fields of `ModelInfo`; `task` and `section` are required.

    Raises:
        ValueError: a name that is registered already.
        TypeError: facts that `ModelInfo` does not know or that are missing.

    Source: each model names its own.
    """

    def decorate(builder):
        name = builder.__name__
        if name in _BUILDERS:
            raise ValueError(
                f"A model {name!r} is registered already, by "
                f"{_BUILDERS[name].__module__}. Choose another function name."
            )
        _INFOS[name] = ModelInfo(
            name=name,
            summary=inspect.getdoc(builder).splitlines()[0].rstrip("."),
            options=_options(architecture or builder),
            num_classes=inspect.signature(builder).parameters["num_classes"].default,
            **facts,
        )
        _BUILDERS[name] = builder
        return builder

    return decorate


def _options(function):
    """{name: default} of the arguments that have a default, the common ones aside."""
    parameters = inspect.signature(function).parameters.values()
    return {
        p.name: p.default
        for p in parameters
        if p.default is not p.empty and p.name not in _COMMON
    }


def list_models(pattern="*"):
    """Names of all registered models that match a wildcard, in natural order.

    Args:
        pattern: shell wildcard, e.g. "*resnet*".

    Source: the thesis' systems, chapter by chapter; see `info`.
    """
    return sorted(fnmatch.filter(_known(), pattern), key=_natural)


def _known():
    """{name: ModelInfo}, of the zoo's own models from a file until they are loaded."""
    if "zoo.models" in sys.modules:
        return _INFOS
    from zoo import model_index

    return {**model_index.read(), **_INFOS}


def _natural(name):
    return [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", name)]


def info(name):
    """The `ModelInfo` of a registered model.

    Raises:
        ValueError: unknown name; the nearest names are given.

    Source: the thesis section it names.
    """
    if name not in _known():
        importlib.import_module("zoo.models")
        _require(name)
    return _known()[name]


def build(name, **arguments):
    """Calls the builder of a registered model, its arguments checked.

    Raises:
        ValueError: unknown name or option.

    Source: the thesis section of the model.
    """
    importlib.import_module("zoo.models")  # registers the zoo's own
    options = info(name).options
    unknown = sorted(set(arguments) - set(options) - set(_COMMON))
    if unknown:
        raise ValueError(
            f"{name} has no option {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(f'{k}={v!r}' for k, v in options.items()) or 'none'}."
        )
    return _BUILDERS[name](**arguments)


def _require(name):
    known = list_models()
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.4) or known
        raise ValueError(
            f"Unknown model {name!r}; the nearest are {', '.join(near)}. "
            "zoo.list_models() gives all."
        )
