"""The fields of a specification: the arguments of `setup`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import attrs
import torch
from torch import nn

from luzpy.core.context import Loss
from luzpy.core.result import Result
from luzpy.data.unpacking import Unpack
from luzpy.ground.arguments import check_seed
from luzpy.ground.types import Values
from luzpy.metrics.metric_set import MetricSet

ModuleMaker = nn.Module | type[nn.Module] | Callable[..., nn.Module]
OptimizerMaker = Callable[..., Any]
T = TypeVar("T")
R = TypeVar("R", bound=Result, covariant=True)


def _check_seed(instance: object, attribute: object, seed: int) -> None:
    check_seed(seed)


def _read_only(mapping: Mapping[str, T]) -> Mapping[str, T]:
    return MappingProxyType(dict(mapping))


@attrs.frozen(eq=False, repr=False, kw_only=True)
class Spec(Generic[R]):
    """The fields of a `LuzModule`, which says what each is; R is what fitting it gives."""

    module: ModuleMaker
    loss: Loss | None = None
    optimizer: OptimizerMaker | None = None
    metrics: MetricSet = attrs.field(factory=MetricSet)
    backward: Callable[[torch.Tensor], object] | None = None
    unpack: Unpack | None = None  # what takes a batch apart, if not the module's own
    seed: int = attrs.field(default=0, validator=_check_seed)
    hparams: Mapping[str, Any] = attrs.field(factory=Values, converter=_read_only)
    opt_hparams: Mapping[str, Any] = attrs.field(factory=Values, converter=_read_only)
    reinitialize: bool = False  # whether a module instance is given new weights
    seed_is_given: bool = False  # or drawn, anew at every start of a script

    def result(self, **fields: Any) -> R:
        """What a fit of this specification returns."""
        raise NotImplementedError  # one that was read from a file begins no fit, it goes on

    def __reduce__(self) -> tuple[object, ...]:  # read-only mappings have no pickle of their own
        fields = {field.name: getattr(self, field.name) for field in attrs.fields(type(self))}
        fields |= {name: dict(fields[name]) for name in ("hparams", "opt_hparams")}
        return _remade, (type(self), fields)


def check_spec(model: object) -> None:
    """Raise a TypeError unless `model` is a specification from `setup`."""
    if not isinstance(model, Spec):
        raise TypeError(
            "`model` must be a specification from `setup`, got "
            f"{model.__name__ if isinstance(model, type) else type(model).__name__}: write "
            "luz.setup(module, loss=..., optimizer=...) first."
        )


def _remade(kind: type[T], fields: Values) -> T:
    return kind(**fields)
