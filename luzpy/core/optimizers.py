"""The optimizers of a run, and how they are created."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import nn

from luzpy.core.arguments import Maker, check_arguments, maker_name
from luzpy.core.context import Context, Optimizers, internals
from luzpy.core.modules import optimized_parameters, unwrapped
from luzpy.core.parameter_groups import default_lr, own_rates, parameter_groups
from luzpy.core.result import Result
from luzpy.core.spec import Spec
from luzpy.ground.arguments import is_number
from luzpy.ground.errors import LuzError, add_note
from luzpy.ground.nested import is_mapping
from luzpy.ground.types import Values

GROUPS = "groups"
"""The one of `opt_hparams` that is luzpy's: parameter groups by name."""

INTERFACE = ("param_groups", "step", "zero_grad", "state_dict", "load_state_dict")
"""What an optimizer must have, of whatever class it is."""


def build_optimizers(
    spec: Spec[Result],
    model: nn.Module,
    opt_hparams: Mapping[str, object],
    loss_parameters: Sequence[nn.Parameter] = (),
) -> tuple[Optimizers, tuple[str, ...]]:
    """The optimizers over `model`, by name, and the names of the losses that they step on.

    What the loss has to train, as ArcFace has, is theirs as well.

    A single one is called `"opt"`. Those of a tuple, `"opt_1"`, `"opt_2"`, step on one loss, which
    is called `"opt"`; each of a dict has a loss of its own name.

    Raises:
        TypeError: If the result is not an optimizer, a tuple or a dict of them, or an argument
            is unknown to it.
        ValueError: If a tuple or a dict of optimizers is empty, or `set_optimizers` cannot know of
            the loss's parameters.
    """
    made, maker = _made(spec, model, opt_hparams, loss_parameters)
    named: dict[Any, Any]
    losses: tuple[str, ...]
    if is_mapping(made):
        named = dict(made)
        losses = tuple(named)
    elif _is_tuple(made):
        named = {f"opt_{index}": optimizer for index, optimizer in enumerate(made, start=1)}
        losses = ("opt",)
    else:
        named, losses = {"opt": made}, ("opt",)
    for name, optimizer in named.items():
        lacks = [part for part in INTERFACE if not hasattr(optimizer, part)]
        if lacks or isinstance(optimizer, type) or not isinstance(name, str):
            why = f", which lacks {', '.join(lacks)}" if lacks else ""
            raise TypeError(
                f"{maker} must make an optimizer, a tuple of them, or a dict name -> optimizer, "
                f"got {name!r}: {type(optimizer).__name__}{why}."
            )
        for group in optimizer.param_groups:
            if isinstance(group.get("lr"), torch.Tensor):
                # Whoever changes it in the run changes it in place: not the user's own.
                group["lr"] = group["lr"].clone()
    if not named:
        kind = "dict" if is_mapping(made) else "tuple"
        raise ValueError(f"{maker} must make at least one optimizer, got an empty {kind}.")
    return named, losses


def _is_tuple(obj: object) -> TypeGuard[tuple[Any, ...]]:
    return isinstance(obj, tuple)


def _made(
    spec: Spec[Result],
    model: nn.Module,
    opt_hparams: Mapping[str, object],
    loss_parameters: Sequence[nn.Parameter],
) -> tuple[Any, str]:
    """What the user's function returns, and the function's name in messages."""
    if spec.optimizer is None:
        if loss_parameters:
            raise ValueError(
                "`loss` must have no parameters where the module has a `set_optimizers`, which "
                f"cannot know of them, got {len(loss_parameters)}: make it a part of the module, "
                "and call it in a method `loss(self, input, target)`."
            )
        maker: Maker = unwrapped(model).set_optimizers  # pyright: ignore[reportAssignmentType]
        check_arguments("opt_hparams", maker, (), opt_hparams)
        return maker(**opt_hparams), "`set_optimizers`"
    maker, own = spec.optimizer, model.parameters()
    parameters = [*own, *loss_parameters] if loss_parameters else own
    if GROUPS in opt_hparams and GROUPS not in _arguments_of(maker):
        others = {name: value for name, value in opt_hparams.items() if name != GROUPS}
        lr = others.get("lr", default_lr(maker))
        lr = float(lr) if is_number(lr) or isinstance(lr, torch.Tensor) else None
        groups = opt_hparams[GROUPS]
        parameters = parameter_groups(unwrapped(model), groups, maker, lr, loss_parameters)
        opt_hparams = others
    check_arguments("opt_hparams", maker, (parameters,), opt_hparams)
    try:
        return maker(parameters, **opt_hparams), "`optimizer`"
    # As torch's optimizers say that something is out of bounds, or no number.
    except (TypeError, ValueError) as err:
        given = ", ".join(f"{name}={value!r}" for name, value in opt_hparams.items())
        raise (TypeError if isinstance(err, TypeError) else ValueError)(
            f"`opt_hparams` must be arguments of {maker_name(maker)}, got {given}: {err}"
        ) from err
    except AttributeError as err:
        add_note(
            err,
            "in `optimizer`, which is called with the model's parameters: "
            "lambda parameters: torch.optim.SGD(parameters, lr=0.1).",
        )
        raise


def needs_closure(optimizer: Any) -> bool:
    """Whether the optimizer's `step` requires a function that recomputes its batch.

    LBFGS does, and what has an argument without a default. Sharpness-aware ones tend to have the
    default None, which they refuse.
    """
    if any(kind.__name__.upper().endswith("SAM") for kind in type(optimizer).__mro__):
        return True
    try:
        parameters = inspect.signature(optimizer.step).parameters.values()
    except (TypeError, ValueError):  # some that are written in C have none
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.default is p.empty and p.kind in positional for p in parameters)


def set_modes(optimizers: Iterable[Any], *, training: bool) -> None:
    """Switch the optimizers that have modes, the schedule-free ones, to train or eval mode.

    They keep different weights in the model for training and for evaluation.
    """
    for optimizer in optimizers:
        put = getattr(optimizer, "train" if training else "eval", None)
        if callable(put):
            put()


@contextmanager
def weights_for_evaluation(optimizers: Iterable[Any]) -> Generator[None]:
    """In the middle of training, the weights for evaluation; then those from before, bit for bit.

    Going to and fro rounds.
    """
    with_modes = [opt for opt in optimizers if callable(getattr(opt, "eval", None))]
    parameters = optimized_parameters(with_modes)
    kept = [parameter.detach().clone() for parameter in parameters]
    set_modes(with_modes, training=False)
    try:
        yield
    finally:
        set_modes(with_modes, training=True)
        with torch.no_grad():
            for parameter, before in zip(parameters, kept, strict=True):
                parameter.copy_(before)


def after_step(optimizer: Any, function: Callable[[], None]) -> Callable[[], None]:
    """Call a function after each step of an optimizer; returns a function that ends this."""

    def note(*_: object) -> None:
        function()

    if hasattr(optimizer, "register_step_post_hook"):
        return optimizer.register_step_post_hook(note).remove
    replaced = _own_attribute(optimizer, "step")
    step = optimizer.step

    def noted(*args: object, **kwargs: object) -> object:
        result = step(*args, **kwargs)
        function()
        return result

    optimizer.step = noted

    def end() -> None:
        if replaced is None:
            del optimizer.step
        else:
            optimizer.step = replaced

    return end


def rate_scales(ctx: Context, name: str) -> list[float | None]:
    """Each parameter group's share of the learning rate that `set_opt_hparams(lr=...)` sets.

    None for a group that has its own rate. Where there is no rate to set, the groups' ratios
    to the first one.

    Raises:
        LuzError: If there is no rate of which they could have a share.
    """
    groups = ctx.optimizers[name].param_groups
    spec = internals(ctx).spec
    own = own_rates(ctx.opt_hparams.get(GROUPS)) if spec and spec.optimizer else set[int]()
    if own >= set(range(len(groups))):
        raise LuzError(f"`{GROUPS}` must leave a group without its own `lr`, got none.")
    rates = [float(group["lr"]) for group in groups]
    base: Any = ctx.opt_hparams.get("lr")
    if base is None and spec is not None:
        maker = spec.optimizer or getattr(unwrapped(ctx.model), "set_optimizers", None)
        base = default_lr(maker)
    if base is None:
        base = rates[0]
    if not float(base):
        raise LuzError(
            f"`lr` of the optimizer {name!r} must not be 0: the groups' rates keep their ratios "
            "to it."
        )
    return [None if i in own else rate / float(base) for i, rate in enumerate(rates)]


def _arguments_of(maker: Maker) -> Collection[str]:
    try:
        return inspect.signature(maker).parameters
    except (TypeError, ValueError):
        return ()


def _own_attribute(obj: Any, name: str) -> Any:
    held: Values = obj.__dict__
    return held.get(name)
