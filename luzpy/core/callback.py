"""The `Callback` base class."""

from __future__ import annotations

import inspect
from typing import ClassVar, final

import torch
from torch.optim.lr_scheduler import LRScheduler

from luzpy.core.context import Context
from luzpy.core.hooks import HOOKS, Hook, check_hook
from luzpy.ground.arguments import shown
from luzpy.ground.nested import is_sequence


class Callback:
    """Something that runs at chosen points of `fit`, `evaluate`, `predict` and `lr_finder`.

    Subclass it and define the hooks you need, each of which takes the run's `Context`. Other hooks
    cost nothing. Port of R luz's `luz_callback()`.

    The order of the hooks::

        on_fit_begin
          on_epoch_begin
            on_train_begin
              on_train_batch_begin
                on_train_batch_after_pred         once per optimizer
                on_train_batch_after_loss
                on_train_batch_before_backward
                on_train_batch_before_step
                on_train_batch_after_step
              on_train_batch_end
            on_train_end
            on_valid_begin                        with validation data; `evaluate` is this part
              on_valid_batch_begin
                on_valid_batch_after_pred         once per optimizer
                on_valid_batch_after_loss
              on_valid_batch_end
            on_valid_end
          on_epoch_end
        on_fit_end                                after on_early_stopping or on_interrupt, if any

        on_predict_begin
          on_predict_batch_begin
          on_predict_batch_end
        on_predict_end

    Hooks run with gradients disabled. Callbacks run in order of their `weight`; callbacks of equal
    weight run in the order given, after luzpy's own. One instance may be used in several runs:
    reset its state in `on_fit_begin`.

    Checkpoints save the state of callbacks that define `state_dict` and `load_state_dict(state)`.

    Attributes:
        weight: The callback's place among the others; `float("inf")` is last.
        runs_last: Whether it runs after all others, whatever their weight.
        every_gradient: Whether its `on_train_batch_before_step` changes gradients. If so, it is
            also called for those that an optimizer such as LBFGS computes within its step.

    Examples:
        >>> import luzpy as luz
        >>> class PrintLoss(luz.Callback):
        ...     def on_epoch_end(self, ctx: luz.Context) -> None:
        ...         print(ctx.epoch, ctx.get_metric("loss", "train", ctx.epoch))
    """

    weight: ClassVar[float] | float = 0
    runs_last: ClassVar[bool] | bool = False
    every_gradient: ClassVar[bool] | bool = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, item in vars(cls).items():
            if name.startswith("on_") and callable(item):
                check_hook(name)

    def on_fit_begin(self, ctx: Context) -> None:
        """Called once, before the first epoch."""

    def on_epoch_begin(self, ctx: Context) -> None:
        """Called at the start of every epoch."""

    def on_train_begin(self, ctx: Context) -> None:
        """Called before the first training batch of an epoch."""

    def on_train_batch_begin(self, ctx: Context) -> None:
        """Called when a training batch is on the device."""

    def on_train_batch_after_pred(self, ctx: Context) -> None:
        """Called once `ctx.pred` is computed."""

    def on_train_batch_after_loss(self, ctx: Context) -> None:
        """Called once `ctx.loss_grad` and `ctx.loss` are computed."""

    def on_train_batch_before_backward(self, ctx: Context) -> None:
        """Called just before the backward pass of `ctx.loss_grad`."""

    def on_train_batch_before_step(self, ctx: Context) -> None:
        """Called once the gradients are computed, before the optimizer's step."""

    def on_train_batch_after_step(self, ctx: Context) -> None:
        """Called after the optimizer's step."""

    def on_train_batch_end(self, ctx: Context) -> None:
        """Called after a training batch."""

    def on_train_end(self, ctx: Context) -> None:
        """Called after the last training batch of an epoch."""

    def on_valid_begin(self, ctx: Context) -> None:
        """Called before the first validation batch."""

    def on_valid_batch_begin(self, ctx: Context) -> None:
        """Called when a validation batch is on the device."""

    def on_valid_batch_after_pred(self, ctx: Context) -> None:
        """Called once `ctx.pred` is computed."""

    def on_valid_batch_after_loss(self, ctx: Context) -> None:
        """Called once `ctx.loss` is computed."""

    def on_valid_batch_end(self, ctx: Context) -> None:
        """Called after a validation batch."""

    def on_valid_end(self, ctx: Context) -> None:
        """Called after the last validation batch."""

    def on_epoch_end(self, ctx: Context) -> None:
        """Called at the end of every epoch."""

    def on_fit_end(self, ctx: Context) -> None:
        """Called once, when training has ended: completed, or stopped for any reason."""

    def on_predict_begin(self, ctx: Context) -> None:
        """Called before the first batch of `predict`."""

    def on_predict_batch_begin(self, ctx: Context) -> None:
        """Called when a batch of `predict` is on the device."""

    def on_predict_batch_end(self, ctx: Context) -> None:
        """Called when `ctx.pred` holds the batch's prediction; a new value there is kept."""

    def on_predict_end(self, ctx: Context) -> None:
        """Called after the last batch of `predict`."""

    def on_interrupt(self, ctx: Context) -> None:
        """Called when Ctrl-C has ended training, before `on_fit_end`."""

    def on_early_stopping(self, ctx: Context) -> None:
        """Called when early stopping has ended training, before `on_fit_end`."""

    def hook(self, name: str) -> Hook | None:
        """The hook of that name, or None if the callback does not define it."""
        written = name in vars(self) or getattr(type(self), name) is not getattr(Callback, name)
        return getattr(self, name) if written else None

    @staticmethod
    def from_functions(*, weight: float = 0, **hooks: Hook) -> Callback:
        """Make a callback from functions, without a class.

        Args:
            weight: Its place among the other callbacks.
            **hooks: Hook name → function of the `Context`.

        Returns:
            A callback.

        Raises:
            TypeError: If a name is not a hook, or a value not callable.

        Examples:
            >>> import luzpy as luz
            >>> luz.Callback.from_functions(on_epoch_end=lambda ctx: print(ctx.epoch))
            <luzpy.Callback from on_epoch_end>
        """
        return _FunctionCallback(weight, hooks)


@final
class _FunctionCallback(Callback):
    def __init__(self, weight: float, hooks: dict[str, Hook]) -> None:
        for name, function in hooks.items():
            check_hook(name)
            if not callable(function):
                raise TypeError(f"`{name}` must be a function of the context, got {function!r}.")
        self.weight = weight
        self._hooks = dict(hooks)
        for name, function in hooks.items():
            setattr(self, name, function)

    def __repr__(self) -> str:
        return f"<luzpy.Callback from {', '.join(self._hooks)}>"


def check_callbacks(callbacks: object) -> list[Callback]:
    """`callbacks` as a list.

    Raises:
        TypeError: If it is not a callback or a sequence of them.
    """
    if callbacks is None:
        return []
    given = [callbacks] if isinstance(callbacks, (Callback, type)) else callbacks
    if not is_sequence(given):
        raise TypeError(f"`callbacks` must be a list of luzpy callbacks, got {shown(callbacks)}.")
    return [_checked(callback) for callback in given]


def _checked(callback: object) -> Callback:
    if isinstance(callback, Callback):
        for name in HOOKS:
            _check_arguments(callback, name)
        return callback
    kind = callback if isinstance(callback, type) else object
    if issubclass(kind, Callback):
        raise TypeError(
            f"`callbacks` must hold instances, got the class {kind.__name__}: write "
            f"{kind.__name__}()."
        )
    instead = ""
    if callable(callback):
        instead = ": write luz.Callback.from_functions(on_epoch_end=...)"
    elif isinstance(callback, LRScheduler):
        instead = f": write luz.callbacks.LRScheduler({type(callback).__name__}, ...)"
    elif isinstance(callback, torch.Tensor):
        instead = ": validation data are valid_data=(x, y)"
    raise TypeError(f"`callbacks` must hold luzpy callbacks, got {shown(callback)}{instead}.")


def _check_arguments(callback: Callback, name: str) -> None:
    """Raise unless a hook can be called with the context alone."""
    hook = callback.hook(name)
    try:
        signature = None if hook is None else inspect.signature(hook)
    except (TypeError, ValueError):  # some that are written in C have none
        return
    if signature is None:
        return
    try:
        signature.bind(None)
    except TypeError:
        raise TypeError(
            f"`{name}` of the callback {type(callback).__name__} must take the context alone: "
            f"`def {name}(self, ctx)`."
        ) from None
