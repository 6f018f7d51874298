"""The architectures of the zoo; importing this package registers them.

Source: one module per thesis chapter or network, named in each.
"""

from zoo.models import (
    detect_track,
    fusion,
    resnet,
    resnext,
    rfcn,
    st_mulnet,
    st_resnet,
    t_resnet,
    two_stream,
    vgg,
)

__all__ = [
    "detect_track",
    "fusion",
    "resnet",
    "resnext",
    "rfcn",
    "st_mulnet",
    "st_resnet",
    "t_resnet",
    "two_stream",
    "vgg",
]
