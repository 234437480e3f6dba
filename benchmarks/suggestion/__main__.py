"""Which rule suggests the best learning rate: `python -m benchmarks.suggestion --jobs 2`.

For every task a training at 17 rates, from 3 initial weights, says which rate is best; then the
same training at the rate that each rule reads off the finder's records says what is lost by it.
Trainings are kept in `benchmarks/.cache`: what was stopped goes on where it was, and a rule that
has changed is judged anew with few of them.
"""

from __future__ import annotations

import argparse
import re
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from benchmarks.files import ROOT, write_table
from benchmarks.suggestion import frozen
from benchmarks.suggestion.measure import measure
from benchmarks.suggestion.report import confirmations, horizons, judge, markdown, summary
from benchmarks.suggestion.tasks import REPORTED, TUNING

HALVES = {"reported": REPORTED, "tuning": TUNING}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.suggestion", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--half", choices=HALVES, help="one half alone")
    parser.add_argument("--tasks", default="", help="a pattern: these alone, no table is written")
    parser.add_argument("--curves-only", action="store_true", help="do not judge any rule")
    parser.add_argument("--freeze", action="store_true", help="fix the halves and the rules")
    chosen = parser.parse_args(arguments)
    if chosen.freeze:
        print(f"{frozen.PATH.name}: {frozen.freeze()}")
        return
    if not chosen.tasks and chosen.half != "tuning":
        frozen.check()
    halves = {half: tasks for half, tasks in HALVES.items() if chosen.half in (None, half)}
    work = partial(measure, suggested=not chosen.curves_only)
    wanted = {
        half: [task for task in tasks if re.search(chosen.tasks, task.name)]
        for half, tasks in halves.items()
    }
    # The longest first, so that no process waits for another at the end.
    tasks = sorted((t for half in wanted.values() for t in half), key=lambda task: -task.steps)
    with ProcessPoolExecutor(chosen.jobs) as pool:
        for line in pool.map(work, [task.name for task in tasks]):
            print(line, flush=True)
    if chosen.curves_only:
        return
    for half, tasks in wanted.items():
        if not tasks:
            continue
        judged = judge(tasks)
        parts = [markdown(summary(judged)), confirmations(judged), horizons(tasks)]
        table = "\n\n".join(part for part in parts if part)
        if half == "reported":
            table += f"\n\n`frozen.json`: {frozen.digest()}"
        print(f"\n{half}:\n\n{table}")
        if not chosen.tasks:
            write_table(ROOT / "benchmarks" / "README.md", half, table)


if __name__ == "__main__":
    main()
