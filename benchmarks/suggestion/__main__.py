"""Which rule suggests the best learning rate: `python -m benchmarks.suggestion --jobs 2`.

For every task a short training at 17 rates, from 3 initial weights, says which rate is best; then
the same training at the rate that each rule reads off the finder's records says what is lost by
it. Trainings are kept in `benchmarks/.cache`: a rule that has changed is judged anew with few of
them.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from benchmarks.files import ROOT, write_table
from benchmarks.suggestion.measure import measure
from benchmarks.suggestion.report import judge, markdown, summary
from benchmarks.suggestion.tasks import REPORTED, TASKS, TUNING


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.suggestion", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--curves-only", action="store_true", help="do not judge any rule")
    chosen = parser.parse_args(arguments)
    work = partial(measure, suggested=not chosen.curves_only)
    with ProcessPoolExecutor(chosen.jobs) as pool:
        for line in pool.map(work, [task.name for task in TASKS]):
            print(line, flush=True)
    if chosen.curves_only:
        return
    for half, tasks in {"reported": REPORTED, "tuning": TUNING}.items():
        table = markdown(summary(judge(tasks)))
        print(f"\n{half}:\n\n{table}")
        write_table(ROOT / "benchmarks" / "README.md", half, table)


if __name__ == "__main__":
    main()
