"""What whole programs cost: `python -m benchmarks programs`.

Every program of `tests/programs` trains in its plain loop and then with luzpy, and again, round by
round, in one process with one thread. What counts is the time of the processor, which other
processes do not add to. The table goes into `docs/step-cost.md`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from statistics import median

from benchmarks.files import ROOT, write_table
from benchmarks.programs.measure import Took, measure

PAGE = ROOT / "docs" / "step-cost.md"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks programs", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each program runs")
    parser.add_argument("--epochs", type=int, default=50, help="how long each of them trains")
    parser.add_argument("--programs", default="", help="some of them, as in `pytest -k`")
    parser.add_argument("--no-table", action="store_true", help="leave docs/step-cost.md alone")
    chosen = parser.parse_args(arguments)
    written = "\n".join(table(measure(chosen.rounds, chosen.epochs, chosen.programs)))
    print(f"\n{written}")
    if not chosen.no_table:
        write_table(PAGE, "programs", written)


def table(programs: dict[str, Took]) -> Iterator[str]:
    """The programs, the cheapest first, and the median of all."""
    yield "| program | its loop, s | luzpy ÷ loop (range) | rounds |"
    yield "| --- | ---: | ---: | ---: |"
    for name, took in sorted(programs.items(), key=lambda item: item[1].ratio):
        each = took.ratios
        yield (
            f"| `{name}`: {took.what} | {median(took.loop):.2f} | "
            f"{took.ratio:.2f} ({min(each):.2f} to {max(each):.2f}) | {len(each)} |"
        )
    yield f"| median of all | | {median(took.ratio for took in programs.values()):.2f} | |"


if __name__ == "__main__":
    main()
