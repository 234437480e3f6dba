"""Put Fashion-MNIST where the vignettes look for it, without a download.

    apt-get install dataset-fashion-mnist
    python vignettes/fashion_mnist.py

Debian's package `dataset-fashion-mnist` holds the original files, compressed. This unpacks them
under `$LUZPY_DATA` (by default `~/.cache/luzpy`), in the folder that
`torchvision.datasets.FashionMNIST` reads. Elsewhere than on Debian and its descendants
`download=True` does the same from the network.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
from pathlib import Path

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def data_root() -> Path:
    """Where the vignettes keep their data."""
    return Path(os.environ.get("LUZPY_DATA", Path.home() / ".cache" / "luzpy"))


def unpack(source: Path, root: Path) -> Path:
    """Unpack the four files of `source` under `root`; those already there stay."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        target = raw / name
        if target.exists():
            continue
        partial = target.with_suffix(".part")
        with gzip.open(source / f"{name}.gz") as packed, partial.open("wb") as plain:
            shutil.copyfileobj(packed, plain)
        partial.replace(target)
    return raw


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, default=DEBIAN, help="folder of the .gz files")
    parser.add_argument("--root", type=Path, default=data_root(), help="where to put them")
    chosen = parser.parse_args()
    print(f"Fashion-MNIST is in {unpack(chosen.source, chosen.root)}")
