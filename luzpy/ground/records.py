"""What a run logs: plain dicts and lists. Their layout is known here alone."""

from __future__ import annotations

import math
from functools import singledispatch
from typing import TYPE_CHECKING, Any, TypeGuard

from luzpy.ground.nested import is_mapping, is_sequence

if TYPE_CHECKING:
    import pandas as pd

Records = dict[str, dict[str, list[Any]]]
SETS = ("train", "valid")


def new_records() -> Records:
    """Empty records, with the sets and timings that every run has."""
    return {
        "metrics": {"train": [], "valid": []},
        "profile": {"fit": [], "epoch": [], "train": [], "valid": []},
    }


def is_records(value: object) -> TypeGuard[Records]:
    """Whether `value` has the layout of records, of any run or of none."""
    if not is_mapping(value) or not all(map(is_mapping, value.values())):
        return False
    lists = [items for what in value.values() for items in what.values()]
    if not all(isinstance(items, list) for items in lists):
        return False
    rows = [row for epochs in value.get("metrics", {}).values() for row in epochs]
    return all(map(is_mapping, rows))


def append(records: Records, what: str, set: str, value: object) -> None:
    """Append `value` to `records[what][set]`."""
    records.setdefault(what, {}).setdefault(set, []).append(value)


def set_metric(records: Records, set: str, epoch: int, name: str, value: object) -> None:
    """Keep `value` as the metric `name` of a set in an epoch, counted from 1."""
    epochs = records["metrics"].setdefault(set, [])
    while len(epochs) < epoch:
        epochs.append({})
    epochs[epoch - 1][name] = value


def epoch_metrics(records: Records, set: str, epoch: int | None = None) -> dict[str, float]:
    """The metrics of a set in an epoch, by name; of the last epoch if None, empty if there is none.

    Args:
        records: The records.
        set: `"train"` or `"valid"`.
        epoch: Which one, counted from 1.
    """
    epochs = records.get("metrics", {}).get(set, [])
    index = len(epochs) if epoch is None else epoch
    return epochs[index - 1] if 1 <= index <= len(epochs) else {}


def set_array(records: Records, set: str, epoch: int, name: str, values: list[Any]) -> None:
    """Keep an array that a metric has computed: `records["arrays"][set][epoch - 1][name]`."""
    epochs = records.setdefault("arrays", {}).setdefault(set, [])
    while len(epochs) < epoch:
        epochs.append({})
    epochs[epoch - 1][name] = values


def epoch_arrays(records: Records, set: str, epoch: int | None = None) -> dict[str, list[Any]]:
    """The arrays that metrics have computed in an epoch; see `epoch_metrics`."""
    epochs = records.get("arrays", {}).get(set, [])
    index = len(records.get("metrics", {}).get(set, [])) if epoch is None else epoch
    return epochs[index - 1] if 1 <= index <= len(epochs) else {}


def array_rows(records: Records) -> dict[str, list[str]]:
    """The arrays that metrics have computed, by name, and the names of their entries' rows."""
    arrays = [row for epochs in records.get("arrays", {}).values() for row in epochs]
    names = dict.fromkeys(name for row in arrays for name in row)
    rows = dict.fromkeys(
        row for epochs in records["metrics"].values() for metrics in epochs for row in metrics
    )
    return {name: [row for row in rows if row.startswith(f"{name}_")] for name in names}


def epochs_done(records: Records) -> int:
    """How many epochs of training were logged."""
    return len(records.get("metrics", {}).get("train", []))


def loss_names(records: Records) -> tuple[str, ...]:
    """The names of the optimizers that have their own loss in the last epoch."""
    rows = (epoch_metrics(records, set) for set in SETS)
    found = [name.removeprefix("loss_") for row in rows for name in row if name[:5] == "loss_"]
    return tuple(dict.fromkeys(found))


def seconds(records: Records, what: str) -> list[float]:
    """The timings of `"fit"`, `"epoch"`, `"train"` or `"valid"`."""
    return records.get("profile", {}).get(what, [])


# `records["lr"][optimizer][epoch - 1]` is a list with an entry for each parameter group: the
# learning rate of the epoch, or where a schedule goes by batch a list of those of its batches.


def add_batch_rates(records: Records, optimizer: str, epoch: int, rates: list[float]) -> None:
    """Keep the learning rates of a batch, one for each parameter group."""
    groups = _rates_of(records, optimizer, epoch)
    groups.extend([] for _ in range(len(rates) - len(groups)))
    for kept, rate in zip(groups, rates, strict=True):
        kept.append(rate)


def set_epoch_rates(records: Records, optimizer: str, epoch: int, rates: list[float]) -> None:
    """Keep the learning rates of an epoch, unless those of its batches are kept."""
    groups = _rates_of(records, optimizer, epoch)
    if not groups:
        groups.extend(rates)


def forget_rates(records: Records, optimizer: str, epoch: int) -> None:
    """Forget the learning rates of an epoch that begins again."""
    _rates_of(records, optimizer, epoch).clear()


def _rates_of(records: Records, optimizer: str, epoch: int) -> list[Any]:
    epochs = records.setdefault("lr", {}).setdefault(optimizer, [])
    while len(epochs) < epoch:
        epochs.append([])
    return epochs[epoch - 1]


def rates_frame(records: Records) -> pd.DataFrame:
    """The learning rates as `metrics_frame` gives metrics; those of batches are within the epoch.

    The column set is the optimizer, with the number of the group where it has several.
    """
    import pandas as pd

    rows: list[tuple[str, str, float, float]] = []
    for optimizer, epochs in records.get("lr", {}).items():
        for epoch, groups in enumerate(epochs, start=1):
            if not is_sequence(groups):  # what a callback logged
                continue
            for number, rates in enumerate(groups, start=1):
                label = f"{optimizer} {number}" if len(groups) > 1 else optimizer
                batches = rates if is_sequence(rates) else [rates]
                for batch, rate in enumerate(batches, start=1):
                    rows.append((label, "lr", epoch - 1 + batch / len(batches), rate))
    return pd.DataFrame(rows, columns=["set", "metric", "epoch", "value"])


def set_partial(records: Records, epoch: int, set: str, batch: int) -> None:
    """Record that an epoch was cut short, and after which batch."""
    for what, value in (("epoch", epoch), ("set", set), ("batch", batch)):
        append(records, "partial", what, value)


def partial_epoch(records: Records) -> tuple[int, str, int] | None:
    """The epoch, set and batch after which the last epoch was cut short, if it was."""
    epoch, split, batch = (_last(records, "partial", what) for what in ("epoch", "set", "batch"))
    return None if epoch is None or epoch != epochs_done(records) else (epoch, split, batch)


def set_best(records: Records, epoch: int | None, monitor: str = "") -> None:
    """Note of which epoch the weights were put back, and by what it was chosen; None: of none."""
    if epoch is None:
        records.pop("best", None)
    else:
        records["best"] = {"epoch": [epoch], "monitor": [monitor]}


def restored_epoch(records: Records) -> tuple[int, str] | None:
    """The epoch whose weights were restored, and the metric that chose it, if any."""
    epoch, monitor = (_last(records, "best", what) for what in ("epoch", "monitor"))
    return None if epoch is None else (epoch, monitor)


def best_epoch(records: Records) -> int | None:
    """The epoch whose weights were restored; else that of the lowest valid (or train) loss.

    Epochs that were broken off do not count.

    Returns:
        The epoch, from 1; None if no epoch has one loss that is a number.
    """
    restored = restored_epoch(records)
    if restored:
        return restored[0]
    partial = records.get("partial", {}).get("epoch", [])
    metrics = records.get("metrics", {})
    rows = metrics.get("valid", [])
    rows = rows if any(rows) else metrics.get("train", [])
    losses = {
        epoch: row["loss"]
        for epoch, row in enumerate(rows, start=1)
        if epoch not in partial and not math.isnan(row.get("loss", math.nan))
    }
    return min(losses, key=lambda epoch: losses[epoch], default=None)


def _last(records: Records, what: str, name: str) -> Any:
    found = records.get(what, {}).get(name)
    return found[-1] if found else None


def add_warning(records: Records, text: str) -> None:
    """Keep a warning of the run."""
    append(records, "warnings", "fit", text)


def warnings_of(records: Records) -> tuple[str, ...]:
    """The warnings of the run, in order."""
    return tuple(records.get("warnings", {}).get("fit", ()))


def metrics_frame(records: Records) -> pd.DataFrame:
    """One row per set, epoch and metric: columns set, metric, epoch (from 1), value."""
    import pandas as pd

    rows = [
        (set_name, metric, epoch, value)
        for set_name, epochs in records.get("metrics", {}).items()
        for epoch, metrics in enumerate(epochs, start=1)
        for metric, value in metrics.items()
    ]
    return pd.DataFrame(rows, columns=["set", "metric", "epoch", "value"])


@singledispatch
def get_metrics(x: object) -> pd.DataFrame:
    """Return the metrics of a fitted model, a running context or an evaluation, as a frame.

    Port of R luz's `get_metrics()`.

    Args:
        x: A `FittedModule`, a `Context` or an `Evaluation`.

    Returns:
        A frame with one row per value and the columns set, metric, epoch (from 1), value; for an
        evaluation only metric and value.

    Raises:
        TypeError: If `x` is none of these.
    """
    raise TypeError(f"`x` must be a FittedModule, an Evaluation or a Context, got {x!r}.")
