"""What `Mixup` and `CutMix` share: when batches are mixed, and the loss that fits them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch

from luzpy.core.callback import Callback
from luzpy.core.context import Context
from luzpy.ground.arguments import check_flag, check_number
from luzpy.ground.types import Batch
from luzpy.nn.mixup import (
    Loss,
    MixedTarget,
    MixupLoss,
    batch_items,
    is_mixed,
    mixed_loss,
    unreduced,
)


class Mixing(Callback, ABC):
    """Mixes the items of every training batch; a subclass says how.

    Args:
        alpha: The parameter of the Beta distribution from which the shares are drawn.
        run_valid: Whether validation batches are mixed as well.
        auto_loss: Whether to wrap the run's loss so that it accepts mixed targets.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If `alpha` is not positive.
    """

    def __init__(self, alpha: float, run_valid: bool, auto_loss: bool) -> None:
        check_number("alpha", alpha, above=0)
        check_flag("run_valid", run_valid)
        check_flag("auto_loss", auto_loss)
        self.alpha: float = float(alpha)
        self.run_valid = run_valid
        self.auto_loss = auto_loss

    @abstractmethod
    def mix(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, MixedTarget]:
        """The mixed input and `((y1, y2), weight)`, where `weight` is the share of y2."""

    def on_fit_begin(self, ctx: Context) -> None:
        self._fit_loss(ctx)

    def on_train_batch_begin(self, ctx: Context) -> None:
        self._mix_batch(ctx)

    def on_valid_begin(self, ctx: Context) -> None:
        self._fit_loss(ctx)

    def on_valid_batch_begin(self, ctx: Context) -> None:
        if self.run_valid:
            self._mix_batch(ctx)

    def _mix_batch(self, ctx: Context) -> None:
        batch_items(ctx.input, ctx.target)
        ctx.input, ctx.target = self.mix(ctx.input, ctx.target)

    def _fit_loss(self, ctx: Context) -> None:
        loss = ctx.loss_fn
        if self.auto_loss and loss is not None and not isinstance(loss, (MixupLoss, _AutoLoss)):
            ctx.loss_fn = _AutoLoss(loss)

    def __repr__(self) -> str:
        return f"<luzpy.callbacks.{type(self).__name__}: alpha {self.alpha:g}>"


@final
class _AutoLoss:
    """`loss`, item by item for mixed targets, otherwise its mean."""

    def __init__(self, loss: Loss) -> None:
        self.loss = loss
        self.unreduced = unreduced(loss)

    def __call__(self, input: Batch, target: Batch) -> torch.Tensor:
        if is_mixed(target):
            return mixed_loss(self.unreduced, input, target)
        return self.loss(input, target).mean()
