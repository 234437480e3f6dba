"""What several folders of tests need."""

import os
import subprocess
import sys
from pathlib import Path

import execution
import pytest

# They hold no doctests, and all have one name.
collect_ignore_glob = ["*conftest.py"]

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(scope="session")
def fashion_mnist(tmp_path_factory):
    """A data folder with Fashion-MNIST in it."""
    root = Path(os.environ.get("LUZPY_DATA", Path.home() / ".cache" / "luzpy"))
    if not (root / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte").exists():
        if not DEBIAN.exists():
            pytest.skip("Fashion-MNIST is not here: apt-get install dataset-fashion-mnist")
        root = tmp_path_factory.mktemp("data")
        script = execution.HERE / "fashion_mnist.py"
        subprocess.run([sys.executable, script, "--root", root], check=True)
    return root
