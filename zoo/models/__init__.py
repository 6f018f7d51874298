"""The architectures of the zoo; importing this package registers them.

Source: one module per thesis chapter or network, named in each.
"""

from zoo.models import resnet, t_resnet

__all__ = ["resnet", "t_resnet"]
