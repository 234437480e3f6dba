"""What the vignettes on text, tables, series and schedules show."""

import re

import pytest
from execution import is_drawn, outputs, texts

pytestmark = pytest.mark.slow


def number(text, before):
    """The first number after `before`."""
    found = re.search(re.escape(before) + r"\s+(-?[\d.]+)", text)
    assert found, f"{before!r} is not in the outputs"
    return float(found[1])


def row(text, name):
    """The numbers of a printed frame's row."""
    found = re.search(rf"^{re.escape(name)}((?:\s+-?[\d.]+)+)", text, re.MULTILINE)
    assert found, f"{name!r} is not in the outputs"
    return [float(value) for value in found[1].split()]


def assert_drawn(notebook, count):
    pictures = outputs(notebook, "image/png")
    assert len(pictures) == count
    assert all(is_drawn(picture) for picture in pictures)


def test_chargpt(executed):
    notebook = executed("chargpt.md")
    text = texts(notebook)
    # A model that sees only the last character cannot do better than the pairs' table.
    assert number(text, "the GPT") < number(text, "pairs") - 0.5
    assert number(text, "pairs") < number(text, "single characters")
    # Of random strings of letters with the right frequencies hardly any are words.
    share, n_words = map(int, re.search(r"(\d+)% of (\d+)", text).groups())
    assert share > 60
    assert n_words > 300
    assert text.count("-- Epoch") == 4
    assert_drawn(notebook, 1)


def test_text_classification(executed):
    notebook = executed("text-classification.md")
    text = texts(notebook)
    # 73 % of the test texts are of the larger class.
    assert number(text, "always the larger class") < 80
    assert number(text, "network") > 87
    # Sentences as from matplotlib, then as from SciPy.
    scores = [float(score) for score in re.findall(r"^(\d\.\d\d)  ", text, re.MULTILINE)]
    assert len(scores) == 4
    assert max(scores[:2]) < 0.5 < min(scores[2:])
    assert_drawn(notebook, 2)


def test_text_generation(executed):
    notebook = executed("text-generation.md")
    text = texts(notebook)
    prose, code, both = (
        row(text, name) for name in ("prose only", "code only", "prose, then code")
    )
    # log(400), about 6, is a guess among the tokens.
    assert prose[0] < 4
    assert both[1] < code[1] - 0.1
    assert both[1] < prose[1] - 0.5
    assert prose[0] < both[0] < code[0]  # it has forgotten some of the prose, not all
    assert_drawn(notebook, 1)


def test_cyclical_rates(executed):
    notebook = executed("cyclical-rates.md")
    text = texts(notebook)
    rates = ("0.0003", "0.001", "0.003", "0.01", "0.03")
    constant = [row(text, f"constant {lr}")[0] for lr in rates]
    best = max(constant)
    assert best > 0.8  # the best opponent is no broken one
    assert 0 < constant.index(best) < len(constant) - 1
    assert row(text, "cyclical")[0] > best
    one_cycle, falling = row(text, "one cycle")[0], row(text, "falling")[0]
    assert min(one_cycle, falling) > best
    assert abs(one_cycle - falling) < 0.005
    assert_drawn(notebook, 3)


def test_diamonds(executed):
    notebook = executed("diamonds.md")
    text = texts(notebook)
    linear, network = (row(text, name) for name in ("linear regression", "network"))
    assert linear[0] > 0.97
    # Of what the linear model leaves unexplained, the network explains at least a quarter.
    assert 1 - network[0] < 0.75 * (1 - linear[0])
    # luzpy's and torchmetrics' metrics agree with the table's, computed with NumPy.
    assert number(text, "r2score:") == pytest.approx(network[0], abs=1e-3)
    assert number(text, "rmse:") == pytest.approx(network[1], abs=1e-3)
    for grade in ("color", "clarity"):
        assert number(text, f"{grade:8} rank correlation") > 0.9
    assert_drawn(notebook, 4)


def test_time_series(executed):
    notebook = executed("time-series.md")
    text = texts(notebook)
    naive = number(text, "a year ago")
    assert naive == pytest.approx(0.118, abs=0.001)  # computed with pandas alone
    assert number(text, "network") < 0.9 * naive
    assert number(text, "linear") < 0.9 * naive
    assert abs(number(text, "network") - number(text, "linear")) < 0.1 * naive
    assert_drawn(notebook, 4)
