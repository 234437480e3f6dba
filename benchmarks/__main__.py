"""`python -m benchmarks`: the speed of luzpy.

`python -m benchmarks programs`: that of whole programs; `python -m benchmarks gpu`: speed and tests
on an accelerator; `python -m benchmarks suggest`: how good luzpy's suggestions are.
"""

from __future__ import annotations

import argparse


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__.splitlines()[0])
    names = ("speed", "programs", "gpu", "suggest")
    parser.add_argument("which", nargs="?", choices=names, default="speed")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="those of the benchmark")
    chosen = parser.parse_args()
    # Imported only here: one benchmark does without the packages of the other.
    if chosen.which == "speed":
        from benchmarks.speed import __main__ as benchmark
    elif chosen.which == "programs":
        from benchmarks.programs import __main__ as benchmark
    elif chosen.which == "gpu":
        from benchmarks.gpu import __main__ as benchmark
    else:
        from benchmarks.suggestion import __main__ as benchmark
    benchmark.main(chosen.arguments)


if __name__ == "__main__":
    main()
