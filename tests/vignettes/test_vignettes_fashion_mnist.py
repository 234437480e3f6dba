"""The script that puts Debian's Fashion-MNIST where torchvision looks for it."""

import gzip
import subprocess
import sys

from execution import HERE

SCRIPT = HERE / "fashion_mnist.py"


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
