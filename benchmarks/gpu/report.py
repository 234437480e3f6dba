"""From the rows to a table, and to JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import torch

from benchmarks.gpu.contestants import CONTESTANTS
from benchmarks.gpu.measure import Row


def facts(device: torch.device) -> dict[str, Any]:
    """On what it was measured."""
    module: Any = torch.get_device_module(device)
    name = getattr(module, "get_device_name", lambda device: str(device))(device)
    return {"device": name, "torch": torch.__version__, "count": torch.accelerator.device_count()}


def table(rows: Sequence[Row], where: dict[str, Any], tests: str) -> Iterator[str]:
    """The table of `docs/step-cost.md`."""
    names = list(CONTESTANTS["fit"])
    yield f"On {where['device']}, torch {where['torch']}. Tests on it: {tests}."
    yield ""
    yield "| work | bare loop, ms | " + " | ".join(f"{name} ÷ bare" for name in names[1:]) + " |"
    yield "| --- | ---: |" + " ---: |" * (len(names) - 1)
    for row in rows:
        cells = [_cell(row, name) for name in names[1:]]
        milliseconds = median(row.milliseconds["bare loop"])
        yield f"| `{row.verb}`: {row.work.title} | {milliseconds:.1f} | {' | '.join(cells)} |"
    for row in rows:
        if any(row.busy.values()):
            shares = ", ".join(f"{name} {share:.0%}" for name, share in row.busy.items())
            yield ""
            yield f"The device is busy, of the time of `{row.verb}`, {row.work.title}: {shares}."
    missing = {name: why for row in rows for name, why in row.missing.items()}
    if missing:
        yield ""
        yield "Not measured: " + "; ".join(f"{name} ({why})" for name, why in missing.items()) + "."


def _cell(row: Row, name: str) -> str:
    return f"{row.ratio(name):.2f}" if name in row.milliseconds else ""


def as_json(rows: Sequence[Row], where: dict[str, Any], tests: str) -> dict[str, Any]:
    return {"where": where, "tests": tests, "rows": [asdict(row) for row in rows]}
