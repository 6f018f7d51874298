"""A sweep of regularisers over units of one endpoint, kept on disk as it goes.

    found = sweep(model, "fusion_relu5", range(8), settings("chi", [10, 5, 1, 0]), out)

Every setting has a file of its own, written whole when its units are found; the same
sweep goes on with those that are missing.

Source: thesis 6.4.3 and 6.4.4, Figs. 6.5 to 6.8.
"""

import dataclasses
import hashlib
import json
import zipfile
import zlib
from pathlib import Path

import numpy as np

from zoo.files import replacing, require_writable
from zoo.models.endpoints import features
from zoo.understanding.maximization import Preferred, checked_channels, maximize
from zoo.understanding.regularizers import Smoothness

RECORD, MAXIMA = "sweep.json", "maxima.npy"
PILOT = 40  # iterations of the search for the maxima


def settings(name, values):
    """Regularisers by label, from slow to fast, {"chi = 10": Smoothness, ...}.

    Args:
        name: "chi" (eq. 6.5) or "kappa" (eq. 6.4). values: numbers of at least 0.

    Raises:
        ValueError: another name, a value out of its range, or one that is there twice.

    Source: thesis Figs. 6.5 (kappa) and 6.6 (chi).
    """
    kinds = {"chi": "2d1d", "kappa": "3d"}
    if name not in kinds:
        raise ValueError(
            f"Unknown regulariser {name!r}; accepted are {', '.join(kinds)}."
        )
    found = {}
    for value in values:
        label = f"{name} = {value:g}"
        if label in found:
            raise ValueError(f"{name} is {value:g} twice; give each value once.")
        found[label] = Smoothness(kinds[name], **{name: value})
    return found


def sweep(model, endpoint, channels, smoothness, search, out, *, facts=(), report=None):
    """Preferred inputs of units under several regularisers.

    Args:
        model, endpoint, channels, search: as of `maximize`.
        smoothness: {label: `Smoothness` or None}, None for units that see no flow.
        out: folder, made if absent. What an earlier sweep of the same kind has
            finished there is read and not searched again.
        facts: (name, value) pairs of what else has to be the same, beside the weights.
        report: called as report(label, iteration, objectives [U]).

    Returns:
        {label: `Preferred`} in the order of `smoothness`.

    Raises:
        ValueError: `out` holds a sweep of another kind, or other files; what `maximize`
            refuses.

    Source: thesis 6.4.3.
    """
    out = Path(out)
    channels = checked_channels(features(model, [endpoint]), endpoint, channels)
    kind = {
        "model": model.name,
        "weights": _digest(model),
        "endpoint": endpoint,
        "channels": channels,
        "search": dataclasses.asdict(search),
        **dict(facts),
    }
    _claim(out, json.loads(json.dumps(kind)))
    found, units = {}, (model, endpoint, channels)
    for label, regulariser in smoothness.items():
        path = out / f"{label.replace(' ', '')}.npz"
        if not path.is_file():
            maxima = _maxima(units, search, out)
            said = report and (lambda *now, label=label: report(label, *now))
            preferred = maximize(*units, regulariser, search, maxima, said)
            _save(preferred, path)
        found[label] = _load(path)
    return found


def _maxima(units, search, out):
    """What the units reach without smoothness in time, kept for all settings.

    In place of the maxima on real clips, by which eq. 6.1 divides so that all units
    and all terms weigh alike.
    """
    path = out / MAXIMA
    if not path.is_file():
        brief = dataclasses.replace(
            search, iterations=min(PILOT, search.iterations), starts=1
        )
        preferred = maximize(*units, search=brief)
        reached = dict(
            zip(preferred.channels, np.abs(preferred.activations), strict=True)
        )
        values = [reached.get(c) or 1.0 for c in units[2]]
        with replacing(path) as temporary:
            np.save(temporary, np.asarray(values, "float32"))
    return np.load(path)


def _claim(out, kind):
    """Makes sure that a folder is empty or of the same sweep, and says whose it is."""
    record = out / RECORD
    begun = not out.is_dir() or not any(out.glob("*.npz"))
    if record.is_file() and begun:  # nothing has been found yet
        record.unlink()
        (out / MAXIMA).unlink(missing_ok=True)
    if record.is_file():
        there = json.loads(record.read_text("utf-8"))
        differing = sorted(k for k in {*there, *kind} if there.get(k) != kind.get(k))
        if differing:
            key = differing[0]
            raise ValueError(
                f"{out} holds a sweep with {key} = {there.get(key)!r}, this one has "
                f"{kind.get(key)!r}; choose another folder or the same settings."
            )
        return
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(
            f"{out} holds other files and no sweep; choose a new or empty folder."
        )
    require_writable(out)
    with replacing(record) as path:
        path.write_text(json.dumps(kind, indent=2) + "\n", encoding="utf-8")


def _digest(model):
    """SHA-256 of all weights."""
    digest = hashlib.sha256()
    for array in model.get_weights():
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _save(preferred, path):
    fields = {
        field.name: getattr(preferred, field.name)
        for field in dataclasses.fields(preferred)
        if getattr(preferred, field.name) is not None
    }
    with replacing(path) as temporary:
        np.savez_compressed(temporary, **fields)


def _load(path):
    try:
        with path.open("rb") as file, np.load(file) as saved:
            arrays = dict(saved)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete it and run the same command again."
        ) from error
    return Preferred(
        endpoint=str(arrays["endpoint"]),
        channels=tuple(arrays["channels"].tolist()),
        rgb=arrays.get("rgb"),
        flow=arrays.get("flow"),
        activations=arrays["activations"],
        history=arrays["history"],
        dead=tuple(arrays["dead"].tolist()),
    )
