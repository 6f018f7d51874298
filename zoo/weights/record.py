"""What is known of a set of weights: where it is, what it promises, on what terms.

Source: the fields are ours, after model cards (Mitchell et al. 2019).
"""

import dataclasses
import json
import re
import types
from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "assets"
FORMATS = {
    "folder": "a folder that zoo publish has written",
    "keras_applications": "an .h5 file of keras.applications",
    "matconvnet": "a .mat file of MatConvNet",
    "caffe": "a .caffemodel file",
    "pytorch": "a .pth or .safetensors file",
}
_NAME = re.compile(r"[A-Za-z0-9_]+")
UNKNOWN = "unknown: not stated where the weights were published"


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number that the weights promise, with how it was measured.

    Attributes:
        measure: "accuracy", "mean average precision". value: 0-1.
        data: data set and subset. protocol: frames, views, averaging.
        source: who says so: a table, a paper, "measured when published".
        count: examples it was measured on, or None.
        tolerance: by how much a second measurement may differ; None where only the
            source can tell.

    Source: ours.
    """

    measure: str
    value: float
    data: str
    protocol: str
    source: str
    count: int | None = None
    tolerance: float | None = None

    def __post_init__(self):
        if not 0 <= self.value <= 1:
            raise ValueError(
                f"{self.measure} must be a share, 0 to 1, got {self.value}; 93.5 % is "
                "0.935."
            )

    def __str__(self):
        count = f", {self.count} examples" if self.count else ""
        return (
            f"{self.measure} {100 * self.value:.4g} % on {self.data}{count} "
            f"({self.protocol}; {self.source})"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class WeightRecord:
    """One set of weights of one architecture; `str()` of it is a readable card.

    Attributes:
        model: registered name. tag: of these weights; together "model.tag".
        format: a key of `FORMATS`, what its file is.
        files: names that the file may have on a user's disk, the usual one first.
        sources: URLs, tried in turn; many of old releases are dead.
        checksum: "sha256:..." of the file, "md5:..." where the publisher gives no
            other, the beginning of either; None where nobody has published one.
        num_classes: of the classifier.
        labels: name of a file in zoo/assets/labels, the labels themselves, or empty.
        options: of the architecture they were trained under.
        inputs: {name: what goes in}, where that is more than the model says.
        allow_unused: wildcards of tensors in the file that have no place in the model.
        summary: one line. licence, origin, paper: of the weights.
        metrics: what they promise, `Metric`s.

    Source: the fields are ours, after model cards (Mitchell et al. 2019).
    """

    model: str
    tag: str
    format: str
    files: tuple
    summary: str
    num_classes: int
    sources: tuple = ()
    checksum: str | None = None
    labels: str | tuple = ()
    options: dict = dataclasses.field(default_factory=dict)
    inputs: dict = dataclasses.field(default_factory=dict)
    allow_unused: tuple = ()
    licence: str = UNKNOWN
    origin: str = ""
    paper: str = ""
    metrics: tuple = ()

    def __post_init__(self):
        for field in ("files", "sources", "allow_unused", "metrics"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        if not isinstance(self.labels, str):
            object.__setattr__(self, "labels", tuple(self.labels))
        for field in ("options", "inputs"):
            view = types.MappingProxyType(dict(getattr(self, field)))
            object.__setattr__(self, field, view)
        if not (_NAME.fullmatch(str(self.model)) and _NAME.fullmatch(str(self.tag))):
            raise ValueError(
                f"{self.name!r} must be a model and a tag, each of letters, digits and "
                "underscores."
            )
        if self.format not in FORMATS:
            raise ValueError(
                f"{self.name}: unknown format {self.format!r}; accepted are "
                f"{', '.join(FORMATS)}."
            )
        if any(Path(name).name != name or name in ("", "..") for name in self.files):
            raise ValueError(
                f"{self.name}: files must be names without folders, got {self.files}."
            )
        count = len(self.class_names)
        if count not in (0, self.num_classes):
            raise ValueError(
                f"{self.name}: {count} labels for {self.num_classes} classes; give one "
                "per class, in the order of the scores."
            )

    @property
    def name(self):
        """The public name, "model.tag" (ours)."""
        return f"{self.model}.{self.tag}"

    @property
    def class_names(self):
        """The labels in the order of the scores, or () where unknown (ours)."""
        if isinstance(self.labels, str):
            return read_labels(self.labels)
        return self.labels

    def __str__(self):
        options = ", ".join(f"{k}={v!r}" for k, v in self.options.items())
        labels = self.labels if isinstance(self.labels, str) else ", ".join(self.labels)
        rows = [
            ("format", FORMATS[self.format]),
            ("files", ", ".join(self.files)),
            *(("source", url) for url in self.sources),
            ("checksum", self.checksum or "none published"),
            ("classes", f"{self.num_classes} ({labels or 'labels unknown'})"),
            ("options", options),
            *((f"input {name}", text) for name, text in self.inputs.items()),
            *(("claims", str(metric)) for metric in self.metrics),
            ("licence", self.licence),
            ("origin", self.origin),
            ("paper", self.paper),
        ]
        lines = [f"{self.name}: {self.summary}"]
        return "\n".join(lines + [f"  {k:10} {v}" for k, v in rows if v])


def read_labels(name):
    """The class names of a data set, in the order of its labels.

    Args:
        name: "ucf101", "hmdb51" (the order of the released networks, which is not that
            of the alphabet), "yup++", "imagenet_vid" or "imagenet".

    Raises:
        ValueError: no such list; all are named.

    Source: the data sets' own lists.
    """
    path = ASSETS / "labels" / f"{name}.txt"
    if path.parent != ASSETS / "labels" or not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.txt"))
        raise ValueError(f"No labels {name!r}; there are {', '.join(known)}.")
    return tuple(path.read_text("utf-8").splitlines())


def to_json(record):
    """A record as the text of a file; `from_json` reads it (ours)."""
    fields = {
        field.name: getattr(record, field.name) for field in dataclasses.fields(record)
    }
    fields["metrics"] = [dataclasses.asdict(m) for m in record.metrics]
    return json.dumps(fields, indent=2, default=dict) + "\n"


def from_json(text):
    """The record of a text that `to_json` wrote.

    Raises:
        ValueError: it is none.

    Source: ours.
    """
    try:
        fields = json.loads(text)
        fields["metrics"] = tuple(Metric(**m) for m in fields.get("metrics", ()))
        fields["options"] = {
            k: tuple(v) if isinstance(v, list) else v
            for k, v in fields.get("options", {}).items()
        }
        return WeightRecord(**fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a record of weights: {error}") from error
