"""Mixup."""

from __future__ import annotations

from typing import final

import torch

from luzpy.callbacks.mixing import Mixing
from luzpy.nn.mixup import MixedTarget, mixup


@final
class Mixup(Mixing):
    """Blends every training item with another one of its batch. Port of `luz_callback_mixup()`.

    The target becomes `((y1, y2), weight)`, which `luz.nn.MixupLoss` accepts, as does any loss with
    `auto_loss`. Targets are class indices or floats. Each item has its own weight, drawn from
    Beta(alpha, alpha) with torch's global generator and folded to `max(w, 1 - w)`, as in R luz.
    Metrics that need plain targets belong in `MetricSet(valid_metrics=)`.

    Args:
        alpha: The parameter of the Beta distribution.
        run_valid: Whether validation batches are mixed as well.
        auto_loss: Whether to wrap the run's loss so that it accepts mixed targets. A module with an
            attribute `reduction`, or a function with such an argument, is then evaluated item by
            item; any other loss must return one value per item.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If `alpha` is not positive.

    Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412.

    Examples:
        >>> import luzpy as luz
        >>> luz.callbacks.Mixup(auto_loss=True)
        <luzpy.callbacks.Mixup: alpha 0.4>
    """

    def __init__(
        self, alpha: float = 0.4, run_valid: bool = False, auto_loss: bool = False
    ) -> None:
        super().__init__(alpha, run_valid, auto_loss)

    def mix(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, MixedTarget]:
        weight = torch.distributions.Beta(self.alpha, self.alpha).sample((len(y),))
        return mixup(x, y, torch.maximum(weight, 1 - weight))
