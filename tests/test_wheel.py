"""What is published: the archive of the sources, and the wheel that is built from it."""

import email
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

import luzpy

ROOT = Path(__file__).parents[1]
SMOKE = """
import luzpy as luz, torch
from torch import nn

print(luz.__file__)
x = torch.linspace(-1, 1, 64).reshape(-1, 1)
model = luz.setup(nn.Linear, nn.MSELoss(), torch.optim.SGD, seed=1)
model = model.set_hparams(in_features=1, out_features=1).set_opt_hparams(lr=0.1)
assert len(model.lr_finder((x, 2 * x), 10, verbose=False)) == 10
fitted = model.fit((x, 2 * x), 50, verbose=False)
fitted.save("net.luz")
loaded = luz.load("net.luz", module=model)
assert abs(loaded.predict(torch.tensor([[0.5]])).item() - 1) < 0.05
"""

pytestmark = pytest.mark.slow


def build(source, target, out):
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", out]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    return next(out.iterdir())


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    pytest.importorskip("hatchling")
    return build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """Built from the archive, as `pip` builds one."""
    source = tmp_path_factory.mktemp("source")
    with tarfile.open(sdist) as archive:
        archive.extractall(source, filter="data")
    (unpacked,) = source.iterdir()
    return build(unpacked, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def files(folder, pattern):
    found = [path for path in (ROOT / folder).glob(pattern) if path.is_file()]
    return {path.relative_to(ROOT).as_posix() for path in found}


def test_the_archive_has_the_sources_the_tests_and_the_docs(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "Makefile", "docs/conf.py"}
    for folder, pattern in {
        "luzpy": "**/*.py",
        "tests": "**/*.py",
        "vignettes": "*.*",
        "docs": "*.py",
        "docs/reference": "*.md",
    }.items():
        wanted |= files(folder, pattern)
    wanted = {name for name in wanted if "__pycache__" not in name}
    assert wanted <= names
    assert not [name for name in names if re.search(r"/_build/|__pycache__|\.cache|\.ipynb", name)]


def test_the_wheel_has_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == files("luzpy", "**/*.py") | {"luzpy/py.typed"}


def test_the_wheel_has_the_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("LICENSE")]
        assert archive.read(name) == (ROOT / "LICENSE").read_bytes()


def test_metadata_has_the_version_and_the_dependencies(metadata):
    assert metadata["Version"] == luzpy.__version__
    required = {re.match(r"[\w-]+", line)[0] for line in metadata.get_all("Requires-Dist")}
    assert {"torch", "pandas", "plotnine", "torchmetrics", "tqdm"} <= required


def test_metadata_renders_without_what_the_index_lacks(metadata):
    """It shows the README alone, so that a relative link or picture would be broken."""
    assert metadata["Description-Content-Type"] == "text/markdown"
    html = MarkdownIt("gfm-like", {"linkify": False}).render(metadata.get_payload())
    assert "<h1>luzpy</h1>" in html
    assert html.count("<table>") == 1
    assert "<img" not in html
    targets = re.findall(r'(?:href|src)="([^"]*)"', html)
    assert targets
    assert all(target.startswith("https://") for target in targets)


def test_the_wheel_installs_and_works(wheel, tmp_path):
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site]
    subprocess.run([*pip, wheel], check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SMOKE],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[0]).is_relative_to(site)
