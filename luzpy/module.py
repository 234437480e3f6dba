"""`setup`: the specification of a model to fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import attrs
import torch
from torch import nn

from luzpy.core.build import build_model
from luzpy.core.context import Loss
from luzpy.core.own_methods import check_own_names
from luzpy.core.spec import ModuleMaker, OptimizerMaker, Spec
from luzpy.data.unpacking import Unpack
from luzpy.finder.finder import lr_finder
from luzpy.fitted import FittedModule
from luzpy.ground.arguments import shown
from luzpy.metrics.metric_set import as_metric_set
from luzpy.verbs.fit import fit
from luzpy.verbs.hints import with_hints

_EXAMPLE = {"loss": ": for example nn.MSELoss()", "optimizer": ": for example torch.optim.Adam"}


@with_hints
def set_hparams(model: LuzModule, **hparams: object) -> LuzModule:
    """Return a new specification with arguments for the module, merged with earlier ones.

    Port of R luz's `set_hparams()`.

    Args:
        model: What `setup` made.
        **hparams: Arguments of the module.

    Returns:
        A new `LuzModule`; `model` stays as it is.

    Raises:
        ValueError: If `module` is an instance, which no longer takes arguments.
    """
    if hparams and isinstance(model.module, nn.Module):
        raise ValueError(
            "`hparams` cannot be set for a module instance, got "
            f"{', '.join(hparams)}: give the class to `setup`."
        )
    return attrs.evolve(model, hparams={**model.hparams, **hparams})


@with_hints
def set_opt_hparams(model: LuzModule, **opt_hparams: object) -> LuzModule:
    """Return a new specification with arguments for the optimizer, merged with earlier ones.

    Port of R luz's `set_opt_hparams()`, which replaces them all.

    Args:
        model: What `setup` made.
        **opt_hparams: Arguments of `optimizer`, or of the module's `set_optimizers`. `groups`
            defines parameter groups for `optimizer`, name pattern → options: a parameter is in the
            first group that matches, the rest in a last one. Numbers apply to the group alone;
            `lr_scale` multiplies the common `lr`, which the learning rate finder varies.

    Returns:
        A new `LuzModule`; `model` stays as it is.

    Examples:
        >>> import luzpy as luz, torch
        >>> model = luz.setup(torch.nn.Linear, torch.nn.MSELoss(), torch.optim.SGD)
        >>> groups = {"*.bias": {"weight_decay": 0.0}, "backbone.*": {"lr_scale": 0.1}}
        >>> model = model.set_opt_hparams(lr=0.1, weight_decay=1e-4, groups=groups)
    """
    return attrs.evolve(model, opt_hparams={**model.opt_hparams, **opt_hparams})


def set_seed(model: LuzModule, seed: int) -> LuzModule:
    """Return a new specification with other initial weights.

    Args:
        model: What `setup` made.
        seed: The seed of the initial weights.

    Returns:
        A new `LuzModule`. A module instance is copied, and the copy re-initialised with the
        `reset_parameters` of its parts.

    Raises:
        TypeError: If `seed` is not an integer.
        ValueError: If it is negative.
    """
    return attrs.evolve(model, seed=seed, reinitialize=True, seed_is_given=True)


@attrs.frozen(eq=False, repr=False, kw_only=True)
class LuzModule(Spec[FittedModule]):
    """A module with its loss, optimizer and metrics, ready to fit. Returned by `setup`.

    It is immutable: `set_hparams`, `set_opt_hparams` and `set_seed` return a new one. Calling it,
    `model(**hparams)`, builds the plain `nn.Module` with the initial weights of every fit.

    Attributes:
        module: The module's class, a function that creates one, or an instance.
        loss: `loss(input, target)`, if not the module's own.
        optimizer: `optimizer(params, **opt_hparams)`, if not the module's own `set_optimizers`.
        metrics: The metrics computed besides the loss.
        backward: The function that replaces `loss.backward()`.
        unpack: The function that unpacks a batch, if not the module's own.
        hparams: Arguments of the module.
        opt_hparams: Arguments of the optimizer.
        seed: The seed of the initial weights.
    """

    set_hparams = set_hparams
    set_opt_hparams = set_opt_hparams
    set_seed = set_seed
    fit = fit
    lr_finder = lr_finder

    def result(self, **fields: Any) -> FittedModule:
        """Build the result of a fit of this specification."""
        return FittedModule(**fields)

    def __call__(self, **hparams: object) -> nn.Module:
        """Build the plain `nn.Module`, with the initial weights that every fit starts from."""
        return build_model(self, set_hparams(self, **hparams).hparams)

    def __getattr__(self, name: str) -> NoReturn:
        instead = ""
        if hasattr(FittedModule, name):
            instead = f": fit it first, fitted = model.fit(...), then fitted.{name}"
        elif name in ("get_params", "set_params", "score", "transform", "predict_proba"):
            instead = ": scikit-learn takes luz.sklearn.Classifier(model) or Regressor(model)"
        elif hasattr(nn.Module, name) and not name.startswith("_"):
            instead = ": model() makes the module, and fitted.model is the trained one"
        raise AttributeError(f"A LuzModule has no attribute {name!r}{instead}.")

    def __repr__(self) -> str:
        name = getattr(self.module, "__name__", type(self.module).__name__)
        lines = [f"<LuzModule of {name}>"]
        if self.loss is not None:
            lines.append(f"* Loss: {_name(self.loss)}")
        if self.optimizer is not None:
            lines.append(f"* Optimizer: {_name(self.optimizer)}")
        for label, values in (
            ("Hyperparameters", self.hparams),
            ("Optimizer's hyperparameters", self.opt_hparams),
        ):
            if values:
                lines.append(f"* {label}: {', '.join(f'{k}={v!r}' for k, v in values.items())}")
        names = {metric.abbrev: None for metric in self.metrics.train + self.metrics.valid}
        if names:
            lines.append(f"* Metrics: {', '.join(names)}")
        return "\n".join(lines)


@with_hints
def setup(
    module: ModuleMaker,
    loss: Loss | None = None,
    optimizer: OptimizerMaker | None = None,
    metrics: object = None,
    backward: Callable[[torch.Tensor], object] | None = None,
    *,
    unpack: Unpack | None = None,
    seed: int | None = None,
) -> LuzModule:
    """Combine a module, a loss, an optimizer and metrics. Port of R luz's `setup()`.

    A module may define methods that luzpy uses: `loss(input, target)`; `step()`, which processes
    one batch in training and validation; `set_optimizers(**opt_hparams)`, which returns an
    optimizer, a tuple of optimizers that all step on one loss, or a dict name → optimizer, each
    with its own loss; `predict(input)`; `unpack(batch)`. During a run they can read `self.ctx`, the
    `Context`.

    Args:
        module: A class derived from `nn.Module`, any function that returns a module, or an
            instance, which is copied for every run and never changed.
        loss: `loss(input, target)`, a function or module that returns a scalar tensor, or a dict of
            them, which are summed and also reported individually. If it has parameters, they are
            trained with the module's. Not needed if the module has a `loss` or a `step`, or if the
            output of its `forward` has a `.loss`, as with Hugging Face models that get `labels`;
            metrics and `predict` then get the `.logits`.
        optimizer: For example `torch.optim.Adam`, or any function of the parameters that returns an
            object with an optimizer's `param_groups`, `step`, `zero_grad`, `state_dict` and
            `load_state_dict`. If `step` requires a closure (LBFGS, sharpness-aware optimizers),
            luzpy provides it. Not needed if the module has `set_optimizers`.
        metrics: A metric, a list of them, a dict name → metric, or a `MetricSet`.
        backward: `backward(loss)`, called instead of `loss.backward()`.
        unpack: `unpack(batch)` → (input, target), or (input, target, number of rows), for batches
            that are not (input, target). Not needed for a mapping if `forward` has an argument for
            each of its keys: it is passed by keyword, with `labels` or `label` as the target.
        seed: The seed of the initial weights, which are the same in every run. If None, it is drawn
            once from torch's global generator.

    Returns:
        A `LuzModule`, with `fit` and `lr_finder`.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there is no optimizer.

    Examples:
        >>> import luzpy as luz, torch
        >>> luz.setup(torch.nn.Linear, torch.nn.MSELoss(), torch.optim.SGD, luz.metrics.MAE())
        <LuzModule of Linear>
        * Loss: MSELoss
        * Optimizer: SGD
        * Metrics: MAE
    """
    if isinstance(module, type) and not issubclass(module, nn.Module):
        raise TypeError(f"`module` must derive from nn.Module, got the class {module.__name__}.")
    if isinstance(module, LuzModule):
        raise TypeError("`module` must be a plain nn.Module, got what `setup` made of one.")
    if not callable(module):
        raise TypeError(
            "`module` must be an nn.Module class, a function that returns a module, or a module, "
            f"got {module!r}."
        )
    known = isinstance(module, (nn.Module, type))  # what a function makes is seen only later
    if known:
        check_own_names(module)
    if optimizer is None and known and not hasattr(module, "set_optimizers"):
        raise ValueError(
            "`optimizer` must be given, or the module have a method `set_optimizers`, got None."
        )
    if isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            "`optimizer` must be the class, got an instance: write "
            f"optimizer=torch.optim.{type(optimizer).__name__} and set_opt_hparams(lr=...)."
        )
    given = {"loss": loss, "optimizer": optimizer, "backward": backward, "unpack": unpack}
    for name, function in given.items():
        if function is not None and not callable(function):
            raise TypeError(
                f"`{name}` must be a function, got {shown(function)}{_EXAMPLE.get(name, '')}."
            )
    if isinstance(loss, type):
        raise TypeError(
            f"`loss` must be a function or an instance, got the class {loss.__name__}: write "
            f"{loss.__name__}()."
        )
    seed_is_given = seed is not None
    if seed is None:
        seed = int(torch.randint(2**32, ()))
    return LuzModule(
        module=module,
        loss=loss,
        optimizer=optimizer,
        metrics=as_metric_set(metrics),
        backward=backward,
        unpack=unpack,
        seed=seed,
        seed_is_given=seed_is_given,
    )


def _name(function: object) -> str:
    return getattr(function, "__name__", type(function).__name__)
