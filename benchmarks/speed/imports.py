"""What an import takes, in a process that has imported nothing yet."""

from __future__ import annotations

import importlib


def torch_and_pandas() -> None:
    importlib.import_module("torch")
    importlib.import_module("pandas")


def luzpy() -> None:
    importlib.import_module("luzpy")
