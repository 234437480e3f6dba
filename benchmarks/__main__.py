"""`python -m benchmarks`: the speed of luzpy, or (`suggest`) how good its suggestions are."""

from __future__ import annotations

import argparse


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("which", nargs="?", choices=("speed", "suggest"), default="speed")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="those of the benchmark")
    chosen = parser.parse_args()
    # Imported only here: one benchmark does without the packages of the other.
    if chosen.which == "speed":
        from benchmarks.speed import __main__ as benchmark
    else:
        from benchmarks.suggestion import __main__ as benchmark
    benchmark.main(chosen.arguments)


if __name__ == "__main__":
    main()
