"""Parameters that are unfrozen at an epoch."""

from __future__ import annotations

from typing import Any, final

from torch import nn

from luzpy.core.callback import Callback
from luzpy.core.context import Context, at_exit
from luzpy.core.modules import optimized_parameters, unwrapped
from luzpy.core.parameter_groups import matching
from luzpy.ground.arguments import check_count, shown

_DDP: Any = nn.parallel.DistributedDataParallel


@final
class Unfreeze(Callback):
    """Keeps parameters frozen until a given epoch, and trains them from then on.

    Until then they have no gradients, so no optimizer changes them. Batch norm statistics are not
    parameters, and keep changing. The parameters must be in an optimizer from the start; to give
    them a different learning rate, use `set_opt_hparams(groups={"backbone.*": {"lr_scale": 0.1}})`.
    With `AutoResume`, a run killed before or after that epoch ends bit for bit like an
    uninterrupted one.

    Args:
        pattern: Which parameters, by their names in `model.named_parameters()`: `"backbone.*"`.
        at_epoch: The first epoch, counted from 1, in which they are trained.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If `at_epoch` is not positive; in a run, if nothing matches, or no optimizer has
            the matching parameters.

    Examples:
        >>> import luzpy as luz
        >>> luz.callbacks.Unfreeze("backbone.*", at_epoch=3)
        <luzpy.callbacks.Unfreeze: backbone.* at epoch 3>
    """

    def __init__(self, pattern: str, at_epoch: int) -> None:
        if not isinstance(pattern, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"`pattern` must be a string, got {shown(pattern)}.")
        check_count("at_epoch", at_epoch)
        self.pattern = pattern
        self.at_epoch = at_epoch
        self._parameters: list[nn.Parameter] = []
        self._drops_gradients = False

    def on_fit_begin(self, ctx: Context) -> None:
        model = unwrapped(ctx.model)
        found = matching(model, self.pattern)
        if not found:
            names = [name for name, _ in model.named_parameters()]
            raise ValueError(
                f"`pattern` must match names of parameters, which are {shown(names)}, got "
                f"{self.pattern!r}."
            )
        optimized = {id(p) for p in optimized_parameters(ctx.optimizers.values())}
        for name, parameter in found.items():
            if id(parameter) not in optimized:
                raise ValueError(
                    f"`pattern` must match parameters that an optimizer has, got {self.pattern!r}: "
                    f"{name} is in no optimizer."
                )
        self._parameters = list(found.values())
        # These have made their plans for all gradients when they were made.
        self._drops_gradients = isinstance(ctx.model, _DDP) or ctx.accelerator.is_sharded
        self._set(ctx.epoch + 1)
        at_exit(ctx, self._end)

    def on_epoch_begin(self, ctx: Context) -> None:
        self._set(ctx.epoch)

    def on_train_batch_before_step(self, ctx: Context) -> None:
        if self._drops_gradients and ctx.epoch < self.at_epoch:
            for parameter in self._parameters:
                parameter.grad = None

    def __repr__(self) -> str:
        return f"<luzpy.callbacks.Unfreeze: {self.pattern} at epoch {self.at_epoch}>"

    def _set(self, epoch: int) -> None:
        for parameter in () if self._drops_gradients else self._parameters:
            parameter.requires_grad_(epoch >= self.at_epoch)

    def _end(self) -> None:
        self._parameters = []
