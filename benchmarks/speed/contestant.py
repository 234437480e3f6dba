"""One contestant, alone in its process: warms up, does its work, writes what it took.

`measure` starts it as `python -m benchmarks.speed.contestant ROW CONTESTANT FILE_DESCRIPTOR`.
Nothing is imported here that a contestant might not import itself, for imports are measured too.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.speed.rows import ROWS, Row

WARM_UP_ROWS = 640


def measured(row: Row | None, contestant: str) -> dict[str, Any]:
    """Seconds, peak memory in MiB and, where there is one, the result as a number.

    Raises:
        ImportError: If a package is missing.
    """
    module, _, call = contestant.partition(".")
    function, _, argument = call.partition(":")
    prepare = getattr(importlib.import_module(f"benchmarks.speed.{module}"), function)
    if argument:
        return {"result": prepare(float(argument))}
    if row is None or not row.work:
        return _timed(lambda: prepare)
    import torch

    from benchmarks.speed import workloads

    work: workloads.Workload = getattr(workloads, row.work)
    torch.set_num_threads(row.threads)
    x, y = work.data()
    prepare(work, (x[:WARM_UP_ROWS], y[:WARM_UP_ROWS]))()
    took = _timed(lambda: prepare(work, (x, y)), row.repeats)
    result = took.pop("result")
    if row.judged:
        result = work.judge(result)
    return {**took, "result": result if isinstance(result, float) else None}


def _timed(prepared: Callable[[], Callable[[], Any]], repeats: int = 1) -> dict[str, Any]:
    """The median of several times the same work, prepared anew for each, and its last result."""
    seconds: list[float] = []
    result: Any = None
    for _ in range(repeats):
        go = prepared()
        gc.collect()
        begun = time.perf_counter()
        result = go()
        seconds.append(time.perf_counter() - begun)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": sorted(seconds)[repeats // 2], "peak": peak, "result": result}


def main() -> None:
    row, contestant, descriptor = sys.argv[1:]
    try:
        found = measured(ROWS.get(row), contestant)
    except ImportError as err:
        found = {"missing": str(err)}
    os.write(int(descriptor), json.dumps(found).encode())


if __name__ == "__main__":
    main()
