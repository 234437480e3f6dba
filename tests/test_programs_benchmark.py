"""`python -m benchmarks programs`, shortened, and its table."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_every_program_has_a_row():
    command = [sys.executable, "-m", "benchmarks", "programs", "--no-table", "--rounds", "2"]
    command += ["--epochs", "1", "--programs", "weights or lbfgs"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    number = r"\d+\.\d\d"
    rows = re.findall(
        rf"^\| `(\S+)`: .* \| {number} \| {number} \({number} to {number}\) \| 2 \|$",
        done.stdout,
        flags=re.MULTILINE,
    )
    assert sorted(rows) == ["lbfgs[closure]", "lbfgs[step]", "weights"]


def test_the_table_has_medians_and_ranges(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    from benchmarks.programs.__main__ import table
    from benchmarks.programs.measure import Took

    slow = Took("Slow.", loop=[1.0, 2.0, 4.0], luzpy=[2.0, 3.0, 4.0])
    quick = Took("Quick.", loop=[1.0, 1.0, 1.0], luzpy=[0.5, 1.5, 1.25])
    assert list(table({"slow": slow, "quick": quick}))[2:] == [
        "| `quick`: Quick. | 1.00 | 1.25 (0.50 to 1.50) | 3 |",
        "| `slow`: Slow. | 2.00 | 1.50 (1.00 to 2.00) | 3 |",
        "| median of all | | 1.38 | |",
    ]
