"""Draw the README's two pictures, with the README's own lines: `python docs/draw.py`."""

from __future__ import annotations

import re
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]


def main() -> None:
    (code,) = re.findall(r"```python\n(.+?)```", (ROOT / "README.md").read_text(), re.S)
    torch.manual_seed(1)
    names: dict[str, object] = {}
    exec(code, names)
    plots = {"lr_finder": names["records"].plot(suggest=True), "history": names["fitted"].plot()}
    for name, plot in plots.items():
        plot.save(ROOT / "docs" / "images" / f"{name}.png", dpi=150, verbose=False)


if __name__ == "__main__":
    main()
