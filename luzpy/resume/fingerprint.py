"""Which run a state file belongs to, in plain values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, cast

import attrs
import numpy as np
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Subset, TensorDataset

from luzpy._version import __version__
from luzpy.core.context import Context, internals
from luzpy.data.dataset import InMemoryDataset, Split, length_of
from luzpy.ground.nested import is_mapping, is_sequence, tensors_in
from luzpy.ground.primitives import is_array, to_primitives
from luzpy.ground.types import Batch, Values
from luzpy.metrics.adapters import FunctionMetric, TorchMetric
from luzpy.metrics.metric import Metric

_SCALARS = (type(None), bool, int, float, complex, str)
_NAMED = (type, FunctionType, BuiltinFunctionType, MethodType)
_MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))
_LONG = 200  # what is longer is kept as a checksum
NOTHING = "nothing"
_ENDS = ("first rows", "last rows")
_ENDS_OF = tuple(f"{part} {end}" for part in ("data", "valid_data") for end in _ENDS)


@attrs.frozen
class Difference:
    """Something that has changed.

    Attributes:
        part: Which entry of the fingerprint it is in.
        name: What it is called.
        before: How it was.
        now: How it is.
    """

    part: str
    name: str
    before: object
    now: object


def fingerprint(ctx: Context) -> Values:
    """The settings and the data of a run.

    Of an object its class counts, and its public attributes that are plain values.
    """
    spec = internals(ctx).spec
    metrics = {name: getattr(spec.metrics, name) for name in ("train", "valid")}
    return {
        "module": _described(spec.module),
        "hparams": _described(spec.hparams),
        "optimizer": _described(spec.optimizer),
        "opt_hparams": _described(spec.opt_hparams),
        "loss": _described(spec.loss),
        "unpack": _described(spec.unpack),
        "metrics": {
            f"{name} metrics": {m.abbrev or str(i): _metric(m) for i, m in enumerate(chosen)}
            for name, chosen in metrics.items()
        },
        "seed": spec.seed if spec.seed_is_given else None,  # else it is drawn at every start
        "seed of fit": internals(ctx).fit_seed,
        "epochs before": ctx.epoch,  # of a fitted model that is trained further
        "data": _loader(ctx.train_data),
        "valid_data": _loader(ctx.valid_data, is_validation=True),
        "groups": {name: _groups(optimizer) for name, optimizer in ctx.optimizers.items()},
        "luzpy": __version__,
    }


def differences(before: Values, now: Values, *, same_processes: bool) -> list[Difference]:
    """What differs between two fingerprints, each by name.

    Args:
        before: That of the file.
        now: That of the run.
        same_processes: Whether there are as many processes as there were: fewer of them may take
            larger batches.
    """
    found: list[Difference] = []
    for part in before:
        if part in now and part not in ("groups", "luzpy"):
            found += [
                Difference(part, name, *values)
                for name, *values in _differing(part, before[part], now[part])
            ]
    told = {(one.name, str(one.before), str(one.now)) for one in found}
    return [one for one in found if not _follows(one, told, same_processes)]


def _follows(one: Difference, told: set[tuple[str, str, str]], same_processes: bool) -> bool:
    """Whether a difference does not count, or follows from another one."""
    if one.name.endswith(" batch_size"):
        return not same_processes
    if one.name.endswith(_ENDS):  # as many as a batch has
        return any(name.startswith(f"{one.part} ") and name not in _ENDS_OF for name, *_ in told)
    if one.name.startswith("valid metrics"):  # one list for both sets
        return ("train" + one.name.removeprefix("valid"), str(one.before), str(one.now)) in told
    return False


def _differing(name: str, before: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    if before == now:
        return
    if _class(before) != _class(now):
        yield name, _class(before) or before, _class(now) or now
        return
    if not (is_mapping(before) and is_mapping(now)):
        yield name, before, now
        return
    if name.endswith(" metrics") and before.keys() != now.keys():
        yield name, ", ".join(before) or NOTHING, ", ".join(now) or NOTHING
        return
    for key in dict.fromkeys([*before, *now]):
        below = key if name == "metrics" else f"{name} {key}"
        yield from _differing(below, before.get(key, NOTHING), now.get(key, NOTHING))


def _class(described: Any) -> str | None:
    """The class of the object that this describes, if it describes one."""
    return described.get("class") if is_mapping(described) else None


def _described(value: Any) -> Any:
    """A value as plain values, nested as needed."""
    if isinstance(value, partial):
        positional = [_described(item) for item in value.args]
        named = {name: _described(item) for name, item in value.keywords.items()}
        return {"class": _name(value.func), **({"args": positional} if positional else {}), **named}
    if _is_plain(value):
        return _plain(value)
    if is_mapping(value):
        return {str(key): _described(item) for key, item in value.items()}
    if is_sequence(value):
        return [_described(item) for item in value]
    found = {
        name: _plain(item)
        for name, item in getattr(value, "__dict__", {}).items()
        if not name.startswith("_") and _is_plain(item)
    }
    if isinstance(value, nn.Module):
        states = getattr(value, "_defaults", {})  # what a metric of torchmetrics accumulates
        found = {k: v for k, v in found.items() if k not in _MODULE_ATTRIBUTES | states.keys()}
        found |= {name: _plain(buffer) for name, buffer in value.named_buffers(recurse=False)}
        found |= {name: _described(part) for name, part in value.named_children()}
    return {"class": _name(type(value)), **found}


def _is_plain(value: object) -> bool:
    """Whether it is a value, or a list of values."""
    if is_sequence(value):
        return all(isinstance(item, _SCALARS) for item in value)
    kinds = (torch.Tensor, np.ndarray, np.generic, torch.dtype, torch.device)
    return isinstance(value, (*_SCALARS, *_NAMED, *kinds))


def _plain(value: Any) -> Any:
    if isinstance(value, _NAMED):
        return _name(value)
    if is_array(value):
        if value.dtype.kind not in "biufc":
            return f"{value.dtype} array of {value.shape}"
        value = torch.as_tensor(np.ascontiguousarray(value))
    if isinstance(value, torch.Tensor):
        tensor = value.detach()
        if tensor.numel() == 1 and tensor.layout is torch.strided:
            return tensor.item()
        return f"{tensor.dtype} of {tuple(tensor.shape)}, {checksum([tensor])}"
    value = to_primitives(value)
    if is_sequence(value) or isinstance(value, str):
        text = repr(value)
        if len(text) > _LONG:
            return f"{len(value)} items, {hashlib.sha256(text.encode()).hexdigest()[:16]}"
        return value if isinstance(value, str) else [*value]
    return value if isinstance(value, _SCALARS) else str(value)


def _name(value: Any) -> str:
    """The name of a class or function: the same in every start of a script."""
    name = getattr(value, "__qualname__", type(value).__qualname__)
    return name.rpartition("<locals>.")[2]


def _metric(metric: Metric) -> Any:
    if isinstance(metric, FunctionMetric):
        return _described(metric.function)
    return _described(metric.metric if isinstance(metric, TorchMetric) else metric)


def _loader(loader: Iterable[Batch] | None, *, is_validation: bool = False) -> Values | None:
    """How batches are made, and from which rows."""
    if loader is None:
        return None
    found: Values = {}
    accumulate = getattr(loader, "accumulate", None)
    while not isinstance(loader, DataLoader) and hasattr(loader, "loader"):
        loader = getattr(loader, "loader")  # noqa: B009  (one of luzpy's around the user's)
    if not isinstance(loader, DataLoader):
        return {"class": _name(type(loader)), "batches": length_of(loader)}
    inner = cast(Any, loader)
    found["batch_size"], found["drop_last"] = inner.batch_size, inner.drop_last
    if accumulate is not None and accumulate > 1:
        found["accumulate"] = accumulate
    if type(inner.batch_sampler) not in (BatchSampler, type(None)):
        found["batch_sampler"] = _name(type(inner.batch_sampler))
        found["batch_size"] = getattr(inner.batch_sampler, "batch_size", None)
    elif inner.batch_sampler is not None or not hasattr(inner.dataset, "__iter__"):
        found["sampler"] = _name(type(inner.sampler))
    dataset: Any = inner.dataset
    found["dataset"] = _name(type(dataset))
    found["rows"] = length_of(dataset)
    held: Any = cast(Any, dataset).dataset if isinstance(dataset, Subset) else dataset
    # Of rows that luzpy has split off for validation, those of `data` say all.
    is_memory = isinstance(held, (TensorDataset, InMemoryDataset))
    if is_memory and not (is_validation and isinstance(dataset, Split)):
        found |= _ends(held, found["batch_size"] or 1)
    return found


def _ends(dataset: TensorDataset | InMemoryDataset, rows: int) -> Values:
    """Checksums of the first and the last batch's rows."""
    nested = dataset.tensors if isinstance(dataset, TensorDataset) else dataset.structure
    tensors = [t for t in tensors_in(nested) if t.layout is torch.strided]
    return {
        _ENDS[0]: checksum(tensor[:rows] for tensor in tensors),
        _ENDS[1]: checksum(tensor[-rows:] for tensor in tensors),
    }


def checksum(tensors: Iterable[torch.Tensor]) -> str:
    """A checksum of tensors, whatever their dtype and device."""
    found = hashlib.sha256()
    for tensor in tensors:
        if tensor.layout is not torch.strided:
            tensor = tensor.to_dense()
        copied = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        stored = torch.empty(0, dtype=torch.uint8).set_(copied.untyped_storage())  # pyright: ignore
        found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(cast(Any, stored.numpy()))
    return found.hexdigest()[:16]


def _groups(optimizer: torch.optim.Optimizer) -> list[Values]:
    """The optimizer's settings at the start, group by group."""
    groups: list[Any] = optimizer.param_groups
    return [{k: _described(v) for k, v in group.items() if k != "params"} for group in groups]
