"""Mixup: blending pairs of items, and the loss over both their targets."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeGuard, cast, final

import torch
from torch import nn

from luzpy.ground.nested import is_sequence
from luzpy.ground.types import Batch

Loss = Callable[..., torch.Tensor]
MixedTarget = tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]


def mixup(
    x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, MixedTarget]:
    """Blend every item of a batch with a random other item of the same batch.

    Port of R luz's `nnf_mixup()`. Item i becomes `x[i] + weight[i] * (x[j] - x[i])`: the weight is
    the share of the other item.

    Args:
        x: The input, floating point, items first.
        y: The target, items first.
        weight: The share of the other item, one for each item.

    Returns:
        The blended input, and `((y1, y2), weight)`: the items' own targets, those of the others,
        and the weights, of shape (N).

    Raises:
        TypeError: If `x` is not a floating point tensor, or `y` not a tensor.
        ValueError: If the numbers of items differ.

    Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412.

    Examples:
        >>> import luzpy as luz, torch
        >>> x, y = torch.ones(3, 2), torch.tensor([0, 1, 2])
        >>> mixed, ((y1, y2), weight) = luz.nn.mixup(x, y, torch.tensor([0.5, 0.6, 0.7]))
        >>> mixed.shape, y1
        (torch.Size([3, 2]), tensor([0, 1, 2]))
    """
    items = batch_items(x, y)
    if not x.is_floating_point():
        raise TypeError(f"`x` must be a floating point tensor to be mixed, got {x.dtype}.")
    weight = torch.as_tensor(weight, dtype=x.dtype, device=x.device)
    if weight.numel() != items:
        raise ValueError(
            f"`weight` must have one value for each of the {items} items, got the shape "
            f"{tuple(weight.shape)}."
        )
    weight = weight.reshape(items)
    other = torch.randperm(items).to(y.device)
    mixed = torch.lerp(x, x[other.to(x.device)], weight.reshape(-1, *[1] * (x.ndim - 1)))
    return mixed, ((y, y[other]), weight)


def batch_items(x: Batch, y: Batch) -> int:
    """How many items a batch of one input and one target has.

    Raises:
        TypeError: If one of them is not a tensor.
        ValueError: If their numbers of items differ.
    """
    for name, part in (("x", x), ("y", y)):
        if not isinstance(part, torch.Tensor) or not part.ndim:
            raise TypeError(
                f"`{name}` must be a tensor of items to be mixed, got {type(part).__name__}."
            )
    if len(x) != len(y):
        raise ValueError(f"`y` must have as many items as `x`, {len(x)}, got {len(y)}.")
    return len(x)


def is_mixed(target: Batch) -> TypeGuard[MixedTarget]:
    """Whether `target` has the form ((y1, y2), weight)."""
    if not is_sequence(target) or len(target) != 2:
        return False
    pair, weight = target
    return is_sequence(pair) and len(pair) == 2 and isinstance(weight, torch.Tensor)


def mixed_loss(loss: Loss, input: Batch, target: MixedTarget) -> torch.Tensor:
    """The mean over items of the losses for both targets, each item by its own weight.

    Args:
        loss: Gives one loss for each item, or for each element of each item.
        input: The model's output.
        target: `((y1, y2), weight)`.

    Raises:
        ValueError: If the loss is not given item by item.
    """
    (first, second), weight = target
    own, other = loss(input, first), loss(input, second)
    items = weight.numel()
    if not own.ndim or len(own) != items:
        raise ValueError(
            f"`loss` must give one value for each of the {items} items when targets are mixed, "
            f"got the shape {tuple(own.shape)}: it must not reduce."
        )
    weight = weight.to(own).reshape(-1, *[1] * (own.ndim - 1))
    return torch.lerp(own, other, weight).mean()


@final
class MixupLoss(nn.Module):
    """A loss that also accepts mixed targets. Port of R luz's `nn_mixup_loss()`.

    For a target `((y1, y2), weight)`, the losses for both are computed item by item and combined
    with each item's weight; their mean is the batch's loss. (In R luz the weights of images
    multiply every item by every weight.) Use it with the callbacks `Mixup` and `CutMix`. For any
    other target, the loss is unchanged.

    Args:
        loss: A loss module with an attribute `reduction`, such as `nn.CrossEntropyLoss()`. For
            mixed targets, it is set to `"none"`.

    Raises:
        TypeError: If `loss` is not an `nn.Module`.
        ValueError: If it has no `reduction`.

    Examples:
        >>> import luzpy as luz, torch
        >>> loss = luz.nn.MixupLoss(torch.nn.MSELoss())
        >>> y1, y2 = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 2.0])
        >>> loss(torch.zeros(2), ((y1, y2), torch.tensor([0.5, 1.0])))
        tensor(2.2500)
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        if not isinstance(cast(object, loss), nn.Module):
            raise TypeError(f"`loss` must be an nn.Module, got {loss!r}.")
        if not _is_reducing(loss):
            raise ValueError(f"`loss` must have an attribute `reduction`, got {loss!r}.")
        self.loss = loss

    def forward(self, input: Batch, target: Batch) -> torch.Tensor:
        """The batch's loss."""
        if not is_mixed(target):
            return self.loss(input, target)
        return mixed_loss(unreduced(self.loss), input, target)


class _Reducing(Protocol):
    """A loss that says how it reduces the items' losses, and can be told otherwise."""

    reduction: str

    def __call__(self, input: Batch, target: Batch) -> torch.Tensor: ...


def _is_reducing(loss: nn.Module) -> TypeGuard[_Reducing]:
    return getattr(loss, "reduction", None) is not None


def unreduced(loss: Loss) -> Loss:
    """`loss` without its reduction, if it is one that can be told so; else as it is."""
    if isinstance(loss, nn.Module):
        return partial(_unreduced, loss) if _is_reducing(loss) else loss
    try:
        names = inspect.signature(loss).parameters
    except (TypeError, ValueError):  # written in C
        return loss
    return partial(loss, reduction="none") if "reduction" in names else loss


def _unreduced(loss: _Reducing, input: Batch, target: Batch) -> torch.Tensor:
    reduction = loss.reduction
    loss.reduction = "none"
    try:
        return loss(input, target)
    finally:
        loss.reduction = reduction
