"""What the two articles on the learning rate finder claim, checked on the executed notebooks."""

import re

import pytest
from execution import outputs, texts


@pytest.mark.slow
def test_lr_finder(executed):
    notebook = executed("lr-finder.md")
    text = texts(notebook)
    assert "[100 rows x 2 columns]" in text
    assert len(outputs(notebook, "image/png")) == 2
    accuracy = float(re.search(r"^acc: ([\d.]+)$", text, re.M).group(1))
    assert accuracy >= 0.75


@pytest.mark.slow
def test_lr_finder_reliability(executed):
    notebook = executed("lr-finder-reliability.md")
    assert len(outputs(notebook, "image/png")) == 3
    text = texts(notebook)
    suggested = float(re.search(r"descent +([\d.]+)", text).group(1))
    assert 2e-4 < suggested < 2e-2  # Adam on this network: a rate of the order of 1e-3
    sizes = re.search(r"0 +8 .*\n1 +32 .*\n2 +128 .*", text)
    assert sizes is not None
