"""The vignettes are executed, and what they claim is checked on the executed notebook."""

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbclient
import pytest

VIGNETTES = Path(__file__).parent.parent / "vignettes"
SCRIPT = VIGNETTES / "fashion_mnist.py"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def execute(name, **environment):
    """Run a vignette in a kernel of its own; the executed notebook."""
    notebook = jupytext.read(VIGNETTES / name)
    client = nbclient.NotebookClient(notebook, timeout=180, kernel_name="python3")
    os.environ.update(environment)
    client.execute()
    return notebook


def outputs(notebook, kind):
    """Every output of one MIME type, in order."""
    return [
        output["data"][kind]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if kind in output.get("data", {})
    ]


@pytest.fixture(scope="session")
def fashion_mnist(tmp_path_factory):
    """A data folder with Fashion-MNIST in it."""
    root = Path(os.environ.get("LUZPY_DATA", Path.home() / ".cache" / "luzpy"))
    if not (root / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte").exists():
        if not DEBIAN.exists():
            pytest.skip("Fashion-MNIST is not here: apt-get install dataset-fashion-mnist")
        root = tmp_path_factory.mktemp("data")
        subprocess.run([sys.executable, SCRIPT, "--root", root], check=True)
    return root


def test_the_script_unpacks_the_package_and_keeps_what_is_there(tmp_path):
    source, root = tmp_path / "package", tmp_path / "root"
    source.mkdir()
    names = [
        f"{part}-{what}-ubyte"
        for part in ("train", "t10k")
        for what in ("images-idx3", "labels-idx1")
    ]
    for name in names:
        (source / f"{name}.gz").write_bytes(gzip.compress(name.encode()))
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / names[0]).write_text("already here")
    subprocess.run([sys.executable, SCRIPT, "--source", source, "--root", root], check=True)
    found = {path.name: path.read_text() for path in raw.iterdir()}
    assert found == {names[0]: "already here"} | {name: name for name in names[1:]}


@pytest.mark.slow
def test_lr_finder(fashion_mnist):
    notebook = execute("lr-finder.md", LUZPY_DATA=str(fashion_mnist))
    text = "\n".join(outputs(notebook, "text/plain"))
    assert "[100 rows x 2 columns]" in text
    assert len(outputs(notebook, "image/png")) == 2
    accuracy = float(re.search(r"^acc: ([\d.]+)$", text, re.M).group(1))
    assert accuracy >= 0.75


@pytest.mark.slow
def test_lr_finder_reliability(fashion_mnist):
    notebook = execute("lr-finder-reliability.md", LUZPY_DATA=str(fashion_mnist))
    assert len(outputs(notebook, "image/png")) == 3
    text = "\n".join(outputs(notebook, "text/plain"))
    suggested = float(re.search(r"descent +([\d.]+)", text).group(1))
    assert 2e-4 < suggested < 2e-2  # Adam on this network: a rate of the order of 1e-3
    sizes = re.search(r"0 +8 .*\n1 +32 .*\n2 +128 .*", text)
    assert sizes is not None
