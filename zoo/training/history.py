"""The history of a training as a CSV file: one row per epoch that is safe.

Source: the format is that of keras.callbacks.CSVLogger.
"""

import csv
import io
from pathlib import Path

from zoo.files import replacing


def read(path):
    """Reads a history: {"epoch": [0, 1, ...], "loss": [...], ...}, or {} if absent.

    Numbers come back with all their digits. A last row that was cut off is left out.

    Args:
        path: a file that keras.callbacks.CSVLogger wrote.

    Source: the format is Keras'.
    """
    columns, rows = _rows(path)
    return {name: [_number(row[name]) for row in rows] for name in columns}


def keep_epochs(path, count):
    """Rewrites a history so that it holds the first `count` epochs and no others.

    A training that was killed between logging an epoch and saving its weights does
    that epoch again; its row must not stand there twice.

    Args:
        path: a file that keras.callbacks.CSVLogger wrote; may be absent.
        count: number of epochs that are saved.

    Returns:
        The rows kept, as {column: number}.

    Raises:
        ValueError: the file lacks one of these epochs.

    Source: the format is Keras'.
    """
    columns, rows = _rows(path)
    kept = [row for row in rows if int(row["epoch"]) < count]
    if [int(row["epoch"]) for row in kept] != list(range(count)):
        raise ValueError(
            f"{path} should list the epochs 0 to {count - 1}, which the snapshot "
            f"has seen, but lists {[row['epoch'] for row in kept]}; the run cannot be "
            "resumed. Start again in another folder."
        )
    if kept:
        _write(path, columns, kept)
    else:
        Path(path).unlink(missing_ok=True)
    return [{name: _number(text) for name, text in row.items()} for row in kept]


def _write(path, columns, rows):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as temporary:
        temporary.write_bytes(text.getvalue().encode())


def _rows(path):
    path = Path(path)
    if not path.is_file():
        return [], []
    with open(path, newline="") as file:
        lines = [line for line in file if line.endswith("\n")]
    reader = csv.DictReader(lines)
    columns = reader.fieldnames or []
    return columns, [row for row in reader if None not in row.values()]


def _number(text):
    if text == "NA":  # CSVLogger's word for a missing value
        return None
    return int(text) if text.lstrip("-").isdigit() else float(text)
