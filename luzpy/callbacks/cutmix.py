"""CutMix."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch

from luzpy.callbacks.mixing import Mixing
from luzpy.nn.mixup import MixedTarget


@final
class CutMix(Mixing):
    """Pastes a rectangle of another image of the batch into every training image.

    The rectangle is that of `torchvision.transforms.v2.CutMix`, one per batch. The target becomes
    `((y1, y2), weight)`, where the weight is the share of the pasted area. `luz.nn.MixupLoss`
    accepts such targets, as does any loss with `auto_loss`. Metrics that need plain targets belong
    in `MetricSet(valid_metrics=)`.

    Args:
        alpha: The parameter of the Beta distribution from which the area is drawn.
        run_valid: Whether validation batches are mixed as well.
        auto_loss: Whether to wrap the run's loss so that it accepts mixed targets. A module with an
            attribute `reduction`, or a function with such an argument, is then evaluated item by
            item; any other loss must return one value per item.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If `alpha` is not positive. In a run: if the input is not a batch of images,
            of the shape (N, C, H, W).

    Source: Yun et al. 2019, "CutMix", arXiv:1905.04899.

    Examples:
        >>> import luzpy as luz
        >>> luz.callbacks.CutMix()
        <luzpy.callbacks.CutMix: alpha 1>
    """

    def __init__(
        self, alpha: float = 1.0, run_valid: bool = False, auto_loss: bool = False
    ) -> None:
        super().__init__(alpha, run_valid, auto_loss)

    def mix(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, MixedTarget]:
        from torchvision.transforms import v2  # pyright: ignore[reportMissingTypeStubs]

        if x.ndim != 4:
            raise ValueError(
                f"`x` must be a batch of images, (N, C, H, W), got the shape {tuple(x.shape)}."
            )
        items = len(y)
        # torchvision mixes one-hot labels. With the items' own numbers as labels these say who was
        # mixed with whom, and by how much, whatever the targets are.
        numbers = torch.arange(items, device=x.device)
        mixer: Callable[..., tuple[torch.Tensor, torch.Tensor]]
        mixer = v2.CutMix(alpha=self.alpha, num_classes=items)
        mixed, shares = mixer(x, numbers)
        own = shares.diagonal()
        other = (shares - torch.diag(own)).argmax(1)
        return mixed, ((y, y[other.to(y.device)]), 1 - own)
