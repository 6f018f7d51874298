"""The architectures of the zoo; importing this package registers them.

Source: one module per thesis chapter or network, named in each.
"""

from zoo.models import (
    fusion,
    resnet,
    st_mulnet,
    st_resnet,
    t_resnet,
    two_stream,
    vgg,
)

__all__ = [
    "fusion",
    "resnet",
    "st_mulnet",
    "st_resnet",
    "t_resnet",
    "two_stream",
    "vgg",
]
