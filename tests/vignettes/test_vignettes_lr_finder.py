"""What the two articles on the learning rate finder claim, checked on the executed notebooks."""

import re

import pytest
from execution import is_drawn, outputs, texts


@pytest.mark.slow
def test_lr_finder(executed):
    notebook = executed("lr-finder.md")
    text = texts(notebook)
    assert "[100 rows x 2 columns]" in text
    pictures = outputs(notebook, "image/png")
    assert len(pictures) == 2
    assert all(map(is_drawn, pictures))
    assert 1e-3 < float(re.search(r"descent +([\d.]+)", text)[1]) < 1e-2
    assert "same weights: True - same random state: True" in text
    accuracy = float(re.search(r"^acc: ([\d.]+)$", text, re.M).group(1))
    assert accuracy >= 0.75


@pytest.mark.slow
def test_lr_finder_reliability(executed):
    notebook = executed("lr-finder-reliability.md")
    pictures = outputs(notebook, "image/png")
    assert len(pictures) == 3
    assert all(map(is_drawn, pictures))
    text = texts(notebook)
    suggested = float(re.search(r"descent +([\d.]+)", text).group(1))
    assert 2e-4 < suggested < 2e-2  # Adam on this network: a rate of the order of 1e-3
    spreads = dict(re.findall(r"^(descent|valley|minimum|steepest|slide) +([\d.]+)$", text, re.M))
    assert len(spreads) == 5
    assert max(spreads, key=lambda method: float(spreads[method])) == "descent"
    by_size = re.findall(r"^\d +(?:8|32|128) +([\d.]+)$", text, re.M)
    suggestions = [float(value) for value in by_size]
    assert len(suggestions) == 3
    assert max(suggestions) / min(suggestions) < float(spreads["descent"])
