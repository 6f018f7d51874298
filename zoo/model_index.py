"""The records of the zoo's models as a file, so that naming them loads no TensorFlow.

    python -m zoo.model_index      after a model was added, or what it registers changed

A test compares the file with what the models register.

Source: the thesis sections that the records name.
"""

import dataclasses
import functools
import importlib
import json
from pathlib import Path

from zoo.model_info import ModelInfo

PATH = Path(__file__).with_name("assets") / "models.json"


@functools.cache
def read():
    """{name: ModelInfo} of the zoo's own models, as the file has them (ours)."""
    return {
        name: ModelInfo(name=name, **{k: _tuples(v) for k, v in facts.items()})
        for name, facts in json.loads(PATH.read_text("utf-8")).items()
    }


def write(infos, path=PATH):
    """Writes the file: one line per model, without what is the default (ours).

    Args:
        infos: the `ModelInfo`s, in order. path: of the file.
    """
    lines = [
        f"{json.dumps(info.name)}: {json.dumps(_facts(info), default=dict)}"
        for info in infos
    ]
    Path(path).write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


def _facts(info):
    found = {}
    for field in dataclasses.fields(info):
        value = getattr(info, field.name)
        if field.name != "name" and value not in ({}, (), None):
            found[field.name] = value
    return found


def _tuples(value):
    """JSON has lists only; records have tuples."""
    if isinstance(value, dict):
        return {key: _tuples(v) for key, v in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def main():
    """Writes the file anew from the models' modules (ours)."""
    from zoo import registry

    importlib.import_module("zoo.models")
    write([registry.info(name) for name in registry.list_models()])
    print(f"Written: {PATH}")


if __name__ == "__main__":
    main()
