"""`python -m luzpy`, as the README's first command runs it."""

import re
import subprocess
import sys

import matplotlib.image
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "luzpy", "--epochs", "3", "--out", str(out)]
    return out, subprocess.run(command, capture_output=True, text=True, check=True)


def printed(name, text):
    return float(re.search(rf"{name}:\s+([\d.e+-]+)", text).group(1))


def test_the_network_beats_the_linear_model(demo):
    _, run = demo
    ours = printed("R² on the held-out rows", run.stdout)
    assert ours > printed("R² of a linear model", run.stdout)
    assert ours > 0.97


def test_the_suggestion_is_within_the_range_and_printed(demo):
    _, run = demo
    assert 1e-5 < printed("suggested learning rate", run.stdout) < 1


def test_one_line_an_epoch_where_nobody_watches(demo):
    _, run = demo
    assert (
        len(
            re.findall(
                r"^Epoch \d/3 - Train metrics: Loss: .* - Valid metrics: Loss: .*", run.stdout, re.M
            )
        )
        == 3
    )
    assert run.stderr == ""


@pytest.mark.parametrize("name", ["lr_finder.png", "history.png"])
def test_the_plots_are_written_where_it_says_and_are_not_blank(demo, name):
    out, run = demo
    assert f"wrote {out / name}" in run.stdout
    pixels = matplotlib.image.imread(out / name)
    assert pixels.std() > 0.05
