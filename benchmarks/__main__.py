"""`python -m benchmarks`: the speed of luzpy, and (`suggest`) how good its suggestions are."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    what, *arguments = sys.argv[1:] or ["speed"]
    if what == "speed":
        from benchmarks import speed

        speed.main(arguments)
    elif what == "suggest":
        from benchmarks import suggest

        sys.argv = [f"{sys.argv[0]} suggest", *arguments]
        suggest.main()
    else:
        sys.exit(f"python -m benchmarks [speed|suggest], got {what!r}")
