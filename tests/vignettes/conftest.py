"""The vignettes, executed once for all tests that look at their outputs."""

import execution
import pytest


@pytest.fixture
def executed(request, monkeypatch):
    """Gives the notebook of a vignette, by its file name; skips where its data are missing."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # as fast as a user's kernel

    def run(name):
        path = execution.HERE / name
        if "FashionMNIST(" in path.read_text():
            monkeypatch.setenv("LUZPY_DATA", str(request.getfixturevalue("fashion_mnist")))
        return execution.executed(path)

    return run
