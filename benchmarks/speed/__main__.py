"""How fast luzpy is: `python -m benchmarks.speed --rounds 7 --rows W1,W2`.

Every contestant of every row works in a fresh process; what the rows took is kept in
`benchmarks/.cache`, and the tables of `docs/step-cost.md` are written from it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from benchmarks.files import CACHE
from benchmarks.speed.measure import Outcome, run_contestant, run_row
from benchmarks.speed.report import write_tables
from benchmarks.speed.rows import ROWS

KEPT = CACHE / "speed"
MEASURED_ELSEWHERE = ("importtime", "steps")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.speed", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--rounds", type=int, default=7, help="how often each contestant works")
    parser.add_argument("--rows", help=f"some of {', '.join([*ROWS, *MEASURED_ELSEWHERE])}")
    parser.add_argument("--seconds", type=float, default=60, help="how long the long run takes")
    parser.add_argument("--no-table", action="store_true", help="leave docs/step-cost.md alone")
    chosen = parser.parse_args(arguments)
    names = chosen.rows.split(",") if chosen.rows else [*ROWS, *MEASURED_ELSEWHERE]
    unknown = [name for name in names if name not in [*ROWS, *MEASURED_ELSEWHERE]]
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}")
    for name in names:
        print(name, flush=True)
        if name == "importtime":
            found: Any = import_times()
        elif name == "steps":
            found = run_contestant("", f"ours.long_run:{chosen.seconds}", 1)["result"]
        else:
            found = {who: asdict(outcome) for who, outcome in run_row(name, chosen.rounds).items()}
        print(f"  {json.dumps(found)}" if name in MEASURED_ELSEWHERE else "", flush=True)
        KEPT.mkdir(parents=True, exist_ok=True)
        (KEPT / f"{name}.json").write_text(json.dumps(found))
    rows, facts = kept()
    write_tables(rows, facts, in_docs=not chosen.no_table)


def kept() -> tuple[dict[str, dict[str, Outcome]], dict[str, dict[str, float]]]:
    """What all rows took when they were last run: by contestant, and the rows of another kind."""
    read = {path.stem: json.loads(path.read_text()) for path in KEPT.glob("*.json")}
    rows = {
        name: {who: Outcome(**took) for who, took in read[name].items()}
        for name in ROWS
        if name in read
    }
    return rows, {name: read[name] for name in MEASURED_ELSEWHERE if name in read}


def import_times() -> dict[str, float]:
    """How much of luzpy's import is spent on what torch and pandas would not import."""
    base, ours = _self_times("torch, pandas"), _self_times("luzpy")
    beyond = {name: time for name, time in ours.items() if name not in base}
    return {
        "share": sum(beyond.values()) / sum(ours.values()),
        "modules": len(beyond),
        "own": sum(name.split(".")[0] == "luzpy" for name in beyond),
    }


def _self_times(modules: str) -> dict[str, int]:
    """Module → microseconds for itself, as `python -X importtime` says."""
    command = [sys.executable, "-X", "importtime", "-c", f"import {modules}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    lines = re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$", said, flags=re.MULTILINE)
    return {name: int(time) for time, name in lines}


if __name__ == "__main__":
    main()
