"""What several folders of tests need."""

import gc
import os
import subprocess
import sys
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores, and so do their children
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import execution
import pytest
import torch

# They hold no doctests, and all have one name.
collect_ignore_glob = ["*conftest.py"]

TESTS = Path(__file__).parent
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def pytest_collection_modifyitems(items):
    """The vignettes come first, since they take longest, and the site, which shows them, last.

    What needs a GPU is skipped where there is none.
    """
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))
    first, last = TESTS / "vignettes", TESTS / "test_site.py"
    items.sort(key=lambda item: (first not in item.path.parents, item.path == last))


def pytest_collection_finish():
    """What is imported by now stays: no test that collects garbage need look through it."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """By default a worker that has no more to do takes over tests of another one."""
    if config.getvalue("dist") != "load":
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


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
