"""Reports: tables as text, files for machines, and two pictures.

Source: thesis Tables 7.2 and 7.3 (static, moving and overall accuracy, per class).
"""

import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from zoo.files import replacing


def table(results):
    """Accuracy in per cent per class and group, as a Markdown table.

    Args:
        results: `Results` of one model.

    Source: thesis Tables 7.2 and 7.3.
    """
    groups = results.group_names
    header = ["class", *groups, "all", "videos"]
    rows = []
    for label, name in enumerate(results.classes):
        cells = [results.accuracy(group, label) for group in groups]
        rows.append(
            [name, *cells, results.accuracy(label=label), results.count(label=label)]
        )
    overall = [results.accuracy(group) for group in groups]
    rows.append(["**all**", *overall, results.accuracy(), results.count()])
    lines = markdown(header, rows)
    if results.skipped:
        lines += f"\n{len(results.skipped)} videos skipped, in none of these figures:\n"
        lines += "".join(f"- {skip.reason}\n" for skip in results.skipped)
    return lines


def comparison(named_results):
    """Accuracy of several models side by side, as a Markdown table.

    Args:
        named_results: {name: `Results`} on the same classes.

    Source: thesis Table 7.2.
    """
    first = next(iter(named_results.values()))
    groups = first.group_names
    header = ["model", *groups, "all", "videos", "skipped"]
    rows = [
        [
            name,
            *(results.accuracy(group) for group in groups),
            results.accuracy(),
            results.count(),
            len(results.skipped),
        ]
        for name, results in named_results.items()
    ]
    return markdown(header, rows)


def markdown(header, rows):
    """A Markdown table; fractions become per cent, NaN a dash (plain helper).

    Args:
        header: column names. rows: lists of text, whole numbers and fractions.
    """
    cells = [list(map(str, header)), *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        parts = [row[0].ljust(widths[0])]
        parts += [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
        lines.append(f"| {' | '.join(parts)} |")
    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    lines.insert(1, f"| {' | '.join(rule)} |")
    return "\n".join(lines) + "\n"


def _cell(value):
    if isinstance(value, float):
        return "-" if np.isnan(value) else f"{100 * value:.1f}"
    return str(value)


def save(results, folder):
    """Writes report.md, results.json, predictions.csv, scores.npz and confusion.png.

    Each file appears whole or not at all.

    Args:
        results: `Results`. folder: created if absent.

    Raises:
        OSError: a file could not be written.

    Source: thesis 7.5.
    """
    folder = Path(folder)
    with replacing(folder / "report.md") as path:
        path.write_text(table(results), encoding="utf-8")
    with replacing(folder / "results.json") as path:
        path.write_text(json.dumps(summary(results), indent=2) + "\n", "utf-8")
    with replacing(folder / "predictions.csv") as path:
        path.write_bytes(_predictions(results).encode())
    with replacing(folder / "scores.npz") as path:
        np.savez_compressed(
            path,
            scores=results.scores,
            labels=results.labels,
            paths=np.array(results.paths),
            classes=np.array(results.classes),
            groups=np.array(results.groups),
        )
    confusion_picture(results, folder / "confusion.png")


def summary(results):
    """All figures as plain data; accuracies are fractions, None without videos.

    Source: thesis Tables 7.2 and 7.3.
    """

    def share(**which):
        value = results.accuracy(**which)
        return None if np.isnan(value) else value

    return {
        "videos": results.count(),
        "accuracy": share(),
        "groups": {
            group: {"videos": results.count(group), "accuracy": share(group=group)}
            for group in results.group_names
        },
        "classes": {
            name: {"videos": results.count(label=k), "accuracy": share(label=k)}
            for k, name in enumerate(results.classes)
        },
        "confusion": results.confusion().tolist(),
        "skipped": [dataclasses.asdict(skip) for skip in results.skipped],
    }


def _predictions(results):
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["path", "group", "label", "prediction", "correct"])
    rows = zip(
        results.paths, results.groups, results.labels, results.predictions, strict=True
    )
    for path, group, label, answer in rows:
        names = results.classes[label], results.classes[answer]
        writer.writerow([path, group, *names, int(label == answer)])
    for skip in results.skipped:
        writer.writerow([skip.path, "", "", f"skipped: {skip.reason}", ""])
    return text.getvalue()


def confusion_picture(results, path):
    """Draws the confusion matrix, classes sorted by accuracy, best first.

    Args:
        results: `Results`. path: of a .png file.

    Source: the usual confusion matrix; thesis 7.5.
    """
    matrix = results.confusion()
    totals = matrix.sum(axis=1)
    shares = matrix / np.maximum(totals, 1)[:, None]
    order = np.argsort(-np.diag(shares), kind="stable")
    shares = shares[order][:, order]
    size = len(order)
    names = [results.classes[k] for k in order]
    figure = Figure(figsize=(3 + 0.4 * size, 2.2 + 0.4 * size), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    axes.set_xticks(range(size), names, rotation=90)
    axes.set_yticks(
        range(size), [f"{n} ({totals[k]})" for n, k in zip(names, order, strict=True)]
    )
    axes.set(xlabel="answer", ylabel="class (videos)")
    axes.set_title(
        f"{100 * results.accuracy():.1f} % of {results.count()} videos right"
    )
    for row, column in np.argwhere(shares > 0):
        share = shares[row, column]
        color = "white" if share > 0.5 else "black"
        text = f"{100 * share:.0f}"
        axes.text(column, row, text, ha="center", va="center", color=color, size=8)
    figure.colorbar(image, label="per cent of the class", shrink=0.8)
    _save_picture(figure, path)


def learning_curves(histories, path):
    """Draws loss and accuracy over the epochs, training dashed, validation solid.

    Args:
        histories: {name: history}, history as in `zoo.training.Run`.
        path: of a .png file.

    Source: none; the usual picture.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for place, (key, label) in enumerate(
        (("loss", "loss"), ("accuracy", "accuracy, %"))
    ):
        axes = figure.add_subplot(1, 2, place + 1)
        scale = 100 if key == "accuracy" else 1
        for number, (name, history) in enumerate(histories.items()):
            epochs = [epoch + 1 for epoch in history["epoch"]]
            for prefix, style in (("", "--"), ("val_", "-")):
                values = history.get(prefix + key, [])
                if not values or None in values:
                    continue
                what = f"{name}, {'validation' if prefix else 'training'}"
                values = [scale * value for value in values]
                axes.plot(epochs, values, style, color=f"C{number}", label=what)
        axes.set(xlabel="epoch", ylabel=label)
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    _save_picture(figure, path)


def _save_picture(figure, path):
    # A canvas of its own: no global state, no display, safe beside other figures.
    FigureCanvasAgg(figure)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
