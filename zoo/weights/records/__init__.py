"""The weights that the zoo knows by name: one record each, in tables by publisher.

Source: each table names its own.
"""

import difflib
import functools

from zoo.weights.records import detection, imagenet, packaged, streams


@functools.cache
def all_records():
    """{"model.tag": WeightRecord} of all known weights, in the order of the tables.

    Source: the tables.
    """
    found = {}
    for table in (packaged, imagenet, streams, detection):
        for record in table.records():
            if record.name in found:
                raise ValueError(f"Two records are called {record.name}.")
            found[record.name] = record
    return found


def of_model(name):
    """The records of weights for a model, as a list (the tables)."""
    return [record for record in all_records().values() if record.model == name]


def find(name):
    """The record of a name "model.tag".

    Raises:
        ValueError: unknown; the nearest names are given.

    Source: the tables.
    """
    known = all_records()
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.4)
        hint = f"the nearest are {', '.join(near)}; " if near else ""
        raise ValueError(f"Unknown weights {name!r}; {hint}`zoo weights` lists all.")
    return known[name]
