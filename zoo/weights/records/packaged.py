"""Weights inside the package: the tiny networks of the demo, as `zoo publish` writes.

Source: thesis 7.5, in miniature.
"""

from zoo.weights.record import ASSETS, from_json

FOLDER = ASSETS / "weights"
RECORD = "weights.json"


def records():
    """The records in zoo/assets/weights, a folder each (ours)."""
    for path in sorted(FOLDER.glob(f"*/{RECORD}")):
        yield from_json(path.read_text("utf-8"))
