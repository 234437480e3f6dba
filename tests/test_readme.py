"""The README's fifteen lines, run as they stand there."""

import re
from pathlib import Path

import pytest
import torch

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.fixture
def one_thread():
    """Other tests run beside this one: threads of so small a network would wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_fifteen_lines_work(tmp_path, one_thread):
    (code,) = re.findall(r"```python\n(.+?)```", README, re.S)
    lines = [line for line in code.splitlines() if line]
    assert len(lines) == 15
    shared = {}
    exec(code, shared)
    assert len(shared["records"]) == 100
    error = shared["fitted"].evaluate((shared["x"], shared["y"]), verbose=False)["mae"]
    assert error < 0.25  # of the standardised logarithm; the mean price of all has 0.86
    for name, figure in (("lr", shared["records"].plot()), ("history", shared["fitted"].plot())):
        path = tmp_path / f"{name}.png"
        figure.save(path, verbose=False)
        assert path.stat().st_size > 10_000
