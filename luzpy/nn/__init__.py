"""Functions and losses for networks."""

from luzpy.nn.mixup import MixupLoss, mixup

__all__ = ["MixupLoss", "mixup"]
