"""Runs scenarios: as one process, or as a rank of several.

    python rank.py FOLDER MODULE.SCENARIO...
    torchrun --nproc_per_node 2 rank.py FOLDER MODULE.SCENARIO...

Each rank writes what it found to FOLDER/rank-R.pt.
"""

import os
import sys
import traceback
from importlib import import_module
from pathlib import Path

import torch

sys.path.insert(1, str(Path(__file__).parents[1]))  # models.py


def main(folder, *names):
    os.environ["LUZPY_SCENARIO_FOLDER"] = folder
    results = {}
    for name in names:
        module, _, function = name.rpartition(".")
        try:
            results[function] = getattr(import_module(module), function)()
        except Exception:
            if len(names) == 1:
                raise
            results[function] = {"failed": traceback.format_exc()}
        torch.save(results, Path(folder) / f"rank-{os.environ.get('RANK', '0')}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
