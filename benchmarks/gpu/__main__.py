"""One call on a machine with an accelerator: `python -m benchmarks gpu` (`make gpu`).

It runs the tests that need an accelerator on it, times `fit`, `lr_finder` and `predict`
there beside a bare loop and other packages, prints a table, and writes it into
`docs/step-cost.md` and all figures into a JSON file. It takes some eight minutes at most.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.files import CACHE, ROOT, write_table
from benchmarks.gpu.measure import measure
from benchmarks.gpu.report import as_json, facts, table

PAGE = ROOT / "docs" / "step-cost.md"
TESTS = (
    *("-n", "4", "-m", "accelerator or gpu"),
    *("--continue-on-collection-errors", "tests"),
)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks gpu", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--short", action="store_true", help="a few steps of everything, once")
    parser.add_argument("--minutes", type=float, default=8, help="how long it may take")
    parser.add_argument("--json", type=Path, default=CACHE / "gpu.json", help="for all figures")
    parser.add_argument("--no-tests", action="store_true", help="measure only")
    parser.add_argument("--no-table", action="store_true", help="leave docs/step-cost.md alone")
    chosen = parser.parse_args(arguments)
    begun = time.monotonic()
    if not torch.accelerator.is_available():
        parser.error("torch sees no accelerator here")
    device = torch.empty(0, device=torch.accelerator.current_accelerator()).device
    tests = "not run" if chosen.no_tests else run_tests(60 * chosen.minutes / 2)
    left = 60 * chosen.minutes - (time.monotonic() - begun)
    where = facts(device)
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for row in measure(device, chosen.short, left):
        rows.append(row)
        print(f"{row.verb}: {row.work.title}", flush=True)
        for name, took in row.milliseconds.items():
            each = ", ".join(f"{milliseconds:.1f}" for milliseconds in took)
            print(f"  {name:12s} {each} ms, loss {row.losses[name]:.4f}", flush=True)
        chosen.json.write_text(json.dumps(as_json(rows, where, tests), indent=1))
    written = "\n".join(table(rows, where, tests))
    print(f"\n{written}")
    if not chosen.no_table:
        write_table(PAGE, "accelerator", written)


def run_tests(seconds: float) -> str:
    """pytest's last line about the tests for accelerators; what failed is printed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return f"not finished within {seconds:.0f} s"
    lines = done.stdout.strip().splitlines() or ["no output"]
    print("\n".join(lines[-200:] if done.returncode else lines[-1:]), flush=True)
    return lines[-1]


if __name__ == "__main__":
    main()
