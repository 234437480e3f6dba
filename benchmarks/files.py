"""Where the benchmarks keep what they measured, and how they write their tables."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
CACHE = ROOT / "benchmarks" / ".cache"


def write_table(page: Path, name: str, table: str) -> None:
    """Put the table between `<!-- name: begin -->` and `<!-- name: end -->`.

    Raises:
        ValueError: If the page does not have each of these marks once.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = page.read_text().split(begin)
    _, after = rest.split(end)
    page.write_text(f"{before}{begin}\n{table}\n{end}{after}")
