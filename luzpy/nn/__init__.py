"""What goes into a network or its loss."""

from luzpy.nn.mixup import MixupLoss, mixup

__all__ = ["MixupLoss", "mixup"]
