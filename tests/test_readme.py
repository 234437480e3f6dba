"""The README's fifteen lines, run as they stand there."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def draw():
    """The script that draws the README's pictures."""
    spec = importlib.util.spec_from_file_location("draw", ROOT / "docs" / "draw.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shared(draw):
    """What the lines leave behind.

    On one thread: other tests run beside this one, and threads of so small a network would wait
    for one another.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield draw.run()
    torch.set_num_threads(before)


@pytest.mark.slow
def test_the_fifteen_lines_work(shared, tmp_path):
    (code,) = re.findall(r"```python\n(.+?)```", README, re.S)
    lines = [line for line in code.splitlines() if line]
    assert len(lines) == 15
    assert len(shared["records"]) == 100
    error = shared["fitted"].evaluate((shared["x"], shared["y"]), verbose=False)["mae"]
    assert error < 0.25  # of the standardised logarithm; the mean price of all has 0.86
    for name, figure in (("lr", shared["records"].plot()), ("history", shared["fitted"].plot())):
        path = tmp_path / f"{name}.png"
        figure.save(path, verbose=False)
        assert path.stat().st_size > 10_000


def test_the_pictures_show_what_the_lines_draw_now(shared, draw):
    kept = json.loads((draw.IMAGES / "drawn.json").read_text())
    now = draw.drawn(shared)
    assert now["suggested"] == pytest.approx(kept["suggested"], rel=0.02)
    assert now["valid_mae"] == pytest.approx(kept["valid_mae"], rel=0.05)


def test_the_readme_counts_the_diamonds_right(shared):
    assert set(re.findall(r"([\d,]+) diamonds", README)) == {f"{len(shared['x']):,}"}
