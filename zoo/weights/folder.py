"""A model as a folder: model.json says what it is, model.weights.h5 holds the weights.

Source: the format is ours; a record carries the options its weights were trained
under, since released weights of the thesis depend on them.
"""

import dataclasses
import json
from pathlib import Path

from zoo import registry
from zoo.files import replacing
from zoo.weights import hdf5
from zoo.weights.fetching import MAX_TEXT, SUMS, ChecksumError, digest, read_sums
from zoo.weights.kinds import check_size

FORMAT = 1
RECORD, WEIGHTS = "model.json", "model.weights.h5"


@dataclasses.dataclass(frozen=True)
class ModelRecord:
    """What it takes to rebuild a model and to test it as it was trained.

    Attributes:
        name: registered name. num_classes, classifier_activation, options: arguments
            of `zoo.load`.
        labels: class names in the order of the scores, or empty.
        frames, shorter_side, flip: view of a video at test time, see
            `zoo.models.testing.video_classifier`.
        longer_side: of frames at most, of detectors; else None.
        flow: how the optical flow it was trained on was computed, a method of
            `zoo.datasets.flow` or "folder"; None for a model that sees none.

    Source: thesis 7.3.3 for the view.
    """

    name: str
    num_classes: int
    classifier_activation: str | None = "softmax"
    options: dict = dataclasses.field(default_factory=dict)
    labels: tuple = ()
    frames: int = 16
    shorter_side: int = 256
    flip: bool = True
    flow: str | None = None
    longer_side: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "labels", tuple(self.labels))
        if self.labels and len(self.labels) != self.num_classes:
            raise ValueError(
                f"{len(self.labels)} labels for {self.num_classes} classes; give one "
                "label per class, in the order of the scores."
            )


def save(folder, model, record):
    """Writes a model folder; each file atomically, the weights first.

    Args:
        folder: created if absent. model: the keras.Model. record: its `ModelRecord`.

    Raises:
        OSError: the folder cannot be written; earlier files stay intact.

    Source: the format is ours.
    """
    folder = Path(folder)
    with replacing(folder / WEIGHTS) as path:
        model.save_weights(path)
    with replacing(folder / RECORD) as path:
        fields = {"format": FORMAT, **dataclasses.asdict(record)}
        path.write_text(json.dumps(fields, indent=2) + "\n")


def load(folder):
    """Reads a model folder: (keras.Model, ModelRecord).

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
        ChecksumError: it was published, and a file is not what it was.
        ValueError: a record of another format, or weights that do not fit it.

    Source: the format is ours.
    """
    record = load_record(folder)
    verify(folder)
    model = registry.build(
        record.name,
        num_classes=record.num_classes,
        classifier_activation=record.classifier_activation,
        **record.options,
    )
    weights = Path(folder) / WEIGHTS
    if not weights.is_file():
        raise FileNotFoundError(
            f"{folder} has {RECORD} but no {WEIGHTS}; the folder is incomplete."
        )
    load_weights(model, weights)
    return model, record


def load_record(folder):
    """Reads the `ModelRecord` of a model folder, without its weights.

    Raises:
        FileNotFoundError: no such folder, or none with a record.
        ValueError: not a record of this format.

    Source: the format is ours.
    """
    path = Path(folder) / RECORD
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} is no model folder: it has no {RECORD}. Give the folder that "
            "training wrote."
        )
    check_size(path, MAX_TEXT)
    try:
        fields = json.loads(path.read_text("utf-8"))
        if fields.pop("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        return ModelRecord(**fields)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a readable model record: {error}.") from error


def verify(folder, *files):
    """Holds a folder to its SHA256SUMS, which published ones have.

    Args:
        folder: of a model. files: names of those to check, all by default.

    Raises:
        ChecksumError: a file is missing or is not the one that was published.

    Source: FIPS 180-4; the format is that of sha256sum(1).
    """
    folder = Path(folder)
    if not (folder / SUMS).is_file():
        return
    sums = read_sums(folder)
    for file in files or dict.fromkeys((*sums, RECORD, WEIGHTS)):
        if file not in sums or not (folder / file).is_file():
            missing = "is missing" if file in sums else f"is not in {SUMS}"
            raise ChecksumError(
                f"{folder} is incomplete: {file} {missing}. Copy the folder again."
            )
        found = digest(folder / file).partition(":")[2]
        if found != sums[file]:
            raise ChecksumError(
                f"{folder / file} is not the file that was published: its SHA-256 is "
                f"{found}, {SUMS} has {sums[file]}. Copy the folder again."
            )


def load_weights(model, path):
    """Loads a `.weights.h5` file into a model of the same architecture.

    Raises:
        ValueError: no HDF5 file, or one whose weights do not fit the model.

    Source: the file format is Keras'.
    """
    try:
        hdf5.check(path)
        model.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{path} holds no weights of {model.name} with these options and "
            f"{_num_classes(model)} classes: {reason}"
        ) from error


def _num_classes(model):
    known = getattr(model, "num_classes", None)  # of a detector
    return known or model.get_layer("predictions").output.shape[-1]
