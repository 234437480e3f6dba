"""The vignettes, executed once for all tests that look at their outputs."""

import execution
import pytest


@pytest.fixture
def executed(fashion_mnist, monkeypatch):
    """Gives the notebook of a vignette, by its file name."""
    monkeypatch.setenv("LUZPY_DATA", str(fashion_mnist))
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # as fast as a user's kernel
    return lambda name: execution.executed(execution.HERE / name)
