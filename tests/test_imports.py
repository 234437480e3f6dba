"""What `import luzpy` imports: it takes a tenth of a second, and must go on to do so."""

import subprocess
import sys

import pytest

CODE = "import sys, torch, luzpy; print(*sys.modules)"


@pytest.fixture(scope="module")
def imported():
    ran = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    return ran.stdout.split()


@pytest.mark.parametrize(
    "name",
    [
        "torch._dynamo",  # two seconds, which the first optimizer of a process takes
        "torch._inductor",
        "torchmetrics",
        "pandas",
        "plotnine",
        "matplotlib",
        "sklearn",
        "accelerate",
        "tensorboard",
    ],
)
def test_what_takes_long_is_imported_when_it_is_used(name, imported):
    assert name not in imported
