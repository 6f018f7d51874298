"""What a served model promises, and how much a request may ask of it.

Source: thesis 7.3.3 for the view; the rest is arithmetic.
"""

import dataclasses

from zoo.models.testing import MAX_VIEW_PIXELS

NUMBERS = (
    "frames",
    "shorter_side",
    "top_k",
    "max_pixels",
    "max_view_pixels",
    "max_frames",
)


@dataclasses.dataclass(frozen=True)
class Contract:
    """What a served model promises, and how much a request may ask of it.

    Attributes:
        labels: names of the classes in order; empty for "class_0", "class_1", ...
        frames: number of equally spaced frames taken from a clip.
        shorter_side: to which they are resized, in pixels.
        flip: average the raw scores over the frames and their mirror images.
        top_k: number of best classes returned, at most the number of classes.
        max_pixels: that a request may send, B x T x H x W, three bytes each; of JPEG
            files those of the frames that are decoded. The default is 1.6 GB, e.g. one
            clip of 1,700 frames of 640 x 480.
        max_view_pixels: that the network may see of it after sampling and resizing,
            B x frames x H' x W'; memory and time go with it. The default holds 18
            clips of 16 frames of 256 x 455. A thin frame is large here, since its
            shorter side is stretched.
        max_frames: that a request may send, B x T. The default is one clip of five
            minutes of 25 frames a second.
        features: endpoints that the signature `features` returns, as of
            `zoo.features`; empty for the last ones before the classifiers.
        provenance: what else to write into zoo.json, e.g. the options of the model
            and the data it was trained on; anything that JSON can hold.

    Raises:
        ValueError: a number that is no positive integer, labels that are no names of
            one line, or endpoints that are no names.

    Source: thesis 7.3.3 for the view; the rest is arithmetic.
    """

    labels: tuple = ()
    frames: int = 16
    shorter_side: int = 256
    flip: bool = True
    top_k: int = 5
    max_pixels: int = 2**29
    max_view_pixels: int = MAX_VIEW_PIXELS
    max_frames: int = 2**13
    features: tuple = ()
    provenance: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for name in NUMBERS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"{name} must be an integer of at least 1, got {value!r}."
                )
        for name in ("labels", "features"):
            object.__setattr__(self, name, _names(name, getattr(self, name)))


def _names(field, names):
    if isinstance(names, str):
        raise ValueError(
            f"{field} must be a sequence of names, got the string {names!r}."
        )
    for name in names:
        if not (isinstance(name, str) and name.strip()):
            raise ValueError(f"{field} must be names, not empty; got {name!r}.")
        if len(name.splitlines()) > 1:  # a file of them has one a line
            raise ValueError(f"{field} must be names of one line, got {name!r}.")
    return tuple(names)
