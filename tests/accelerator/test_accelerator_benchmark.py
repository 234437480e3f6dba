"""`make gpu`, shortened: it works at the first call on a machine with an accelerator."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # other packages'
def test_every_row_is_measured(device, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    from benchmarks.gpu import __main__ as benchmark
    from benchmarks.gpu import measure

    path = tmp_path / "gpu.json"
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- accelerator: begin -->\n<!-- accelerator: end -->\nafter\n")
    monkeypatch.setattr(benchmark, "PAGE", page)
    benchmark.main(["--short", "--no-tests", "--json", str(path)])
    found = json.loads(path.read_text())
    expected = list(measure.rows(short=True))
    assert [row["verb"] for row in found["rows"]] == [row.verb for row in expected]
    for row in found["rows"]:
        assert {"bare loop", "luzpy"} <= row["milliseconds"].keys()
        assert all(took > 0 for each in row["milliseconds"].values() for took in each)
        if row["verb"] != "fit":  # which tells the mean loss of an epoch, not the last one
            bare = row["losses"]["bare loop"]
            assert row["losses"]["luzpy"] == pytest.approx(bare, rel=1e-4)
    written = page.read_text()
    assert written.startswith("before\n")
    assert written.endswith("after\n")
    for row in expected:
        assert f"| `{row.verb}`: {row.work.title} |" in written
    assert found["where"]["device"] in written
