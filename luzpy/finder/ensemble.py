"""Many small models trained at once, as one module with all their weights (`torch.func`)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast, final

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from luzpy.core.callback import Callback
from luzpy.core.context import Context, Loss, Optimizers, at_exit
from luzpy.core.loss_shapes import is_crossed
from luzpy.core.optimizers import after_step, rate_scales
from luzpy.ground.random_state import RandomState
from luzpy.ground.types import Batch, Values

# These update every weight by itself, so that weights stacked along a new dimension are updated
# as they would be apart. Others (LBFGS, Adafactor) look at a whole tensor.
ELEMENTWISE: tuple[type[torch.optim.Optimizer], ...] = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
)

# A larger model keeps the processor busy by itself: training several together gains nothing.
MAX_PARAMETERS = 200_000


class Ensemble(nn.Module):
    """Models of one architecture as one module: the same input, a prediction from each.

    Args:
        models: The models. Their weights are copied.

    Attributes:
        size: How many models there are.
        losses: The loss of each model in the current batch, of shape (models,).
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.base = copy.deepcopy(models[0]).requires_grad_(False)
        parameters, buffers = stack_module_state(list(models))
        self.names = list(parameters)
        self.weights = nn.ParameterList(
            nn.Parameter(parameters[name].detach().clone()) for name in self.names
        )
        self.state = {name: buffer.clone() for name, buffer in buffers.items()}
        self.size = len(models)
        self.losses = torch.zeros(self.size)

    def forward(self, x: Batch) -> Batch:
        """The models' predictions, stacked along a new first dimension."""

        def one(weights: Values, state: Values) -> Batch:
            return functional_call(self.base, (weights, state), (x,))

        weights = dict(zip(self.names, self.weights, strict=True))
        return vmap(one, randomness="same")(weights, self.state)

    def summed_loss(self, loss_fn: Loss) -> Loss:
        """A loss whose gradient is each model's own: the sum over the models."""

        def total(preds: Batch, target: Batch) -> torch.Tensor:
            def one(pred: Batch) -> torch.Tensor:
                return loss_fn(pred, target)

            losses = vmap(one, randomness="same")(preds)
            self.losses = losses.detach()
            return losses.sum()

        return total


@final
class RatesApart(Callback):
    """Gives each model of an ensemble a learning rate of its own.

    The optimizers of `ELEMENTWISE` move a weight by the learning rate times what does not depend on
    it. So they step at a rate of 1, and each model goes the share of the way that is its rate.

    Args:
        rates: The learning rate of each model.
    """

    weight: float = float("-inf")

    def __init__(self, rates: Sequence[float]) -> None:
        self.rates = rates

    def on_fit_begin(self, ctx: Context) -> None:
        ((name, optimizer),) = ctx.optimizers.items()
        scales = zip(optimizer.param_groups, rate_scales(ctx, name), strict=True)
        self.weights: list[torch.Tensor] = [
            weight for group, scale in scales if scale is not None for weight in group["params"]
        ]
        at_exit(ctx, optimizer.register_step_pre_hook(self._keep).remove)
        at_exit(ctx, after_step(optimizer, self._scale))

    def _keep(self, *_: object) -> None:
        self.before = [weight.detach().clone() for weight in self.weights]

    @torch.no_grad()
    def _scale(self) -> None:
        for weight, before in zip(self.weights, self.before, strict=True):
            rates = torch.tensor(self.rates, dtype=weight.dtype, device=weight.device)
            weight.copy_(before.lerp(weight, rates.reshape(-1, *[1] * (weight.ndim - 1))))


def why_apart(
    models: Sequence[nn.Module],
    optimizers: Optimizers,
    loss_fn: Loss,
    x: Batch,
    target: Batch,
) -> str | None:
    """Why these models cannot be trained together; None if they can.

    They can if the predictions and losses of a batch, in train mode and from the same random
    state, are those of each model alone.
    """
    if len(optimizers) != 1 or type(next(iter(optimizers.values()))) not in ELEMENTWISE:
        return "the optimizer does not update every weight by itself"
    if sum(p.numel() for p in models[0].parameters()) > MAX_PARAMETERS:
        return "the model is too large to gain by it"
    if isinstance(loss_fn, nn.Module) and next(loss_fn.parameters(), None) is not None:
        return "the loss has parameters"
    state = RandomState.current()
    try:
        # Copies: a forward pass in train mode changes buffers.
        ensemble = Ensemble([copy.deepcopy(model) for model in models]).train()
        with torch.no_grad():
            preds = ensemble(x)
            if isinstance(preds, torch.Tensor) and is_crossed(loss_fn, preds[0], target):
                return "the loss would compare each row with all of them"  # a single run reports it
            ensemble.summed_loss(loss_fn)(preds, target)
            for model, together in zip(models, ensemble.losses, strict=True):
                state.restore()
                apart = copy.deepcopy(model).train()
                loss = loss_fn(apart(x), target)
                if not torch.allclose(loss, together, rtol=1e-4, atol=1e-6):
                    return "the model does not give the same losses under torch.func.vmap"
    except Exception as err:
        return f"torch.func.vmap cannot run the model ({type(err).__name__})"
    finally:
        state.restore()
    return None


def swap_parameters(optimizer: torch.optim.Optimizer, model: nn.Module, ensemble: Ensemble) -> None:
    """Make an optimizer of `model` one of the ensemble's weights, with the groups it has."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    stacked = dict(zip(ensemble.names, ensemble.weights, strict=True))
    for group in optimizer.param_groups:
        parameters = cast("list[nn.Parameter]", group["params"])
        group["params"] = [stacked[names[id(parameter)]] for parameter in parameters]
        for parameter, together in zip(parameters, group["params"], strict=True):
            state = optimizer.state.pop(parameter, {})
            if state:  # Adagrad of an older torch makes it at once, alike for all models
                optimizer.state[together] = {
                    name: item.expand_as(together).clone() if item.ndim else item
                    for name, item in state.items()
                }
