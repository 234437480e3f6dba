"""Draw the README's two pictures, with the README's own lines: `python docs/draw.py`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"


def run() -> dict[str, Any]:
    """What the lines leave behind: `records`, `fitted` and the rest."""
    (code,) = re.findall(r"```python\n(.+?)```", (ROOT / "README.md").read_text(), re.S)
    torch.manual_seed(2)
    names: dict[str, Any] = {}
    exec(code, names)
    return names


def drawn(names: dict[str, Any]) -> dict[str, Any]:
    """The numbers that the pictures show."""
    return {
        "suggested": names["records"].suggest(),
        "valid_mae": [metrics["mae"] for metrics in names["fitted"].records["metrics"]["valid"]],
    }


def main() -> None:
    names = run()
    plots = {"lr_finder": names["records"].plot(suggest=True), "history": names["fitted"].plot()}
    for name, plot in plots.items():
        plot.save(IMAGES / f"{name}.png", dpi=150, verbose=False)
    (IMAGES / "drawn.json").write_text(json.dumps(drawn(names)) + "\n")


if __name__ == "__main__":
    main()
