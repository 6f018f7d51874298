"""What it takes to train a model: one frozen record of plain data.

Source: thesis 7.3.3, whose values are the defaults; 3.3.5, Table 4.2 and 5.4.1 for
what else the recipes of chapters 3 to 5 need.
"""

import ast
import dataclasses
import json
import math

COUNTS = (
    "frames",
    "test_frames",
    "size",
    "shorter_side",
    "batch_size",
    "accumulation",
    "epochs",
    "repeats",
    "patience",
)
# What is accepted, by the annotation of the field.
ACCEPTED = {
    str: "a word",
    str | dict | None: "a word, a dict with a word per stream, or None",
    dict: "a dict of plain values such as {'sub_batch': 4}",
    tuple[int, int]: "two whole numbers such as (5, 15)",
    tuple[str, ...]: "words such as ('conv*', 'res2*')",
    int: "a whole number of at least 1",
    float: "a number",
    float | tuple: "a number, or pairs such as ((1e-2, 30000), (1e-3, 10000))",
    bool: "True or False",
    int | None: "a whole number of at least 1, or None",
    tuple | None: "two whole numbers such as (600, 1000), or None",
    tuple: "pairs such as ((1e-3, 60000), (1e-4, 20000))",
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All numbers of a training.

    Attributes:
        model: registered name. options: of that architecture, see `zoo.info`.
        weights: start of the training: "imagenet", a path, a dict of these for the
            streams "appearance" and "motion", or None for random.
        frozen: wildcards of layers that are not trained, as "motion_*".
        frames: T of the training clips, chunks of networks that see flow.
        test_frames: T of the test view.
        stride: lowest and highest temporal stride drawn for a training clip.
        size: height and width of training clips in pixels.
        shorter_side: of the frames in pixels, before the crop and at test time.
        crop: "jitter", or "corners" for motion streams, see `zoo.datasets.augment`.
        jitter: range of the crop's height and width, relative to `size`.
        flip: mirror half of the training clips, and average over mirrors at test time;
            False where left and right mean different classes.
        batch_size: clips per update, over all devices.
        accumulation: in how many parts a batch is computed, to save memory.
        epochs: at most; training ends earlier when the error has saturated.
        repeats: how often the list of videos is gone through in one epoch.
        optimizer: "sgd" or "adam".
        learning_rate: the first one, which drops at saturation; or pairs (rate, number
            of updates), which are gone through and end the training.
        patience: epochs without progress before the rate drops tenfold.

    Source: thesis 7.3.3.
    """

    model: str
    options: dict = dataclasses.field(default_factory=dict)
    weights: str | dict | None = None
    frozen: tuple[str, ...] = ()
    frames: int = 16
    test_frames: int = 16
    stride: tuple[int, int] = (5, 15)
    size: int = 224
    shorter_side: int = 256
    crop: str = "jitter"
    jitter: float = 0.25
    flip: bool = True
    batch_size: int = 8
    accumulation: int = 1
    epochs: int = 30
    repeats: int = 1
    optimizer: str = "sgd"
    learning_rate: float | tuple = 1e-2
    patience: int = 2

    def __post_init__(self):
        check(self, COUNTS)

    @property
    def rates(self):
        """Pairs (learning rate, updates); None updates where the error decides.

        Source: thesis Table 4.2 and 7.3.3.
        """
        if isinstance(self.learning_rate, tuple):
            return self.learning_rate
        return ((self.learning_rate, None),)


def check(record, counts):
    """Raises ValueError unless the fields of a recipe are what they should be.

    Args:
        record: a recipe, whose lists become tuples. counts: names of the fields that
            are numbers of at least 1.

    Source: the fields' own annotations.
    """
    for field in dataclasses.fields(record):
        value = _as_tuple(getattr(record, field.name))
        object.__setattr__(record, field.name, value)
        low = field.name in counts and _is_number(value, int) and value < 1
        if low or not _fits(value, field.type):
            raise ValueError(
                f"{field.name} must be {ACCEPTED[field.type]}; got {value!r}"
            )
    if not all(0 < rate < math.inf for rate, _ in record.rates):
        raise ValueError(
            f"learning_rate must be positive; got {record.learning_rate!r}"
        )
    if record.batch_size % record.accumulation:
        raise ValueError(
            f"batch_size {record.batch_size} cannot be computed in "
            f"{record.accumulation} equal parts; let accumulation divide batch_size"
        )


def _as_tuple(value):
    """Lists, as JSON has them, and those in them, as tuples."""
    if isinstance(value, list | tuple):
        return tuple(map(_as_tuple, value))
    return value


def _fits(value, kind):
    """Whether a value is what the annotation of its field says."""
    if kind in (int, float):
        return _is_number(value, kind)
    if kind == float | tuple:
        return _is_number(value, float) or _are_rates(value)
    if kind == tuple[str, ...]:
        return isinstance(value, tuple) and all(isinstance(v, str) for v in value)
    if kind == int | None:
        return value is None or (_is_number(value, int) and value > 0)
    if kind == tuple | None:
        return value is None or _fits(value, tuple[int, int])
    if kind is tuple:
        return _are_rates(value)
    if kind == str | dict | None and isinstance(value, dict):
        return all(isinstance(word, str) for pair in value.items() for word in pair)
    if kind is dict:
        return isinstance(value, dict) and _is_plain(value)
    if kind == tuple[int, int]:
        pair = isinstance(value, tuple) and len(value) == 2
        return pair and all(_is_number(part, int) for part in value)
    return isinstance(value, kind)


def _are_rates(value):
    """Whether a value is a tuple of pairs (rate, number of updates)."""
    return (
        isinstance(value, tuple)
        and len(value) > 0
        and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value)
        and all(_is_number(r, float) and _is_number(n, int) for r, n in value)
        and all(n > 0 for _, n in value)
    )


def _is_number(value, kind):
    kinds = int if kind is int else int | float
    return isinstance(value, kinds) and not isinstance(value, bool)


def _is_plain(options):
    try:
        json.dumps(options)
    except (TypeError, ValueError):
        return False
    return all(isinstance(name, str) for name in options)


def override(recipe, settings):
    """A recipe with some fields changed by text, as on a command line.

    Args:
        recipe: the `Recipe`. settings: strings "field=value"; values are Python
            literals, or bare words for strings.

    Raises:
        ValueError: no such field, or a value that is out of range.

    Source: the fields are those of `Recipe`.
    """
    fields = {field.name for field in dataclasses.fields(recipe)}
    changes = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name not in fields:
            raise ValueError(
                f"Cannot set {setting!r}; write field=value with one of the fields "
                f"{', '.join(sorted(fields))}."
            )
        changes[name] = _literal(text)
    return dataclasses.replace(recipe, **changes)


def _literal(text):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):  # {[]: 1} is a TypeError
        return text
