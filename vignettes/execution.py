"""Execute the vignettes once: for the tests, which check their results, and for the site.

    python vignettes/execution.py [NAME.md ...]

executes those named, or all of them, two at a time. What has been executed is kept under
`docs/_build/executed` and is used again as long as neither the vignette's code nor luzpy changes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jupytext
import nbclient
import nbformat
from filelock import FileLock

HERE = Path(__file__).parent
ROOT = HERE.parent
CACHE = ROOT / "docs" / "_build" / "executed"
CELL_TIMEOUT = 600  # seconds; most cells take one
WIDGET = "application/vnd.jupyter.widget-view+json"


def vignettes() -> list[Path]:
    """The vignettes, sorted by name."""
    return sorted(HERE.glob("*.md"))


def all_executed(
    paths: Iterable[Path],
) -> Iterator[tuple[Path, nbformat.NotebookNode]]:
    """Each of the vignettes with its notebook, two executed at a time; the first failure raises."""
    paths = list(paths)
    with ThreadPoolExecutor(2) as pool:
        yield from zip(paths, pool.map(executed, paths), strict=True)


def executed(path: Path) -> nbformat.NotebookNode:
    """The vignette as a notebook with its outputs, from the cache if it is there.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell fails.
    """
    notebook = jupytext.read(path)
    cached = CACHE / f"{path.stem}-{digest(notebook)}.ipynb"
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{cached}.lock"):
        if cached.exists():
            take_outputs(notebook, nbformat.read(cached, as_version=4))
        else:
            try:
                run(notebook)
            except nbclient.exceptions.CellExecutionError as error:
                error.add_note(f"in {path.name}")
                raise
            nbformat.write(notebook, cached)
    return notebook


def digest(notebook: nbformat.NotebookNode) -> str:
    """What the outputs depend on: the code of the vignette, its helpers and luzpy."""
    helpers = sorted(set(HERE.glob("*.py")) - {Path(__file__)})
    sources = [*sorted((ROOT / "luzpy").rglob("*.py")), *helpers]
    whole = hashlib.sha256()
    for text in [*code(notebook), *(source.read_text() for source in sources)]:
        whole.update(text.encode() + b"\0")
    return whole.hexdigest()[:16]


def code(notebook: nbformat.NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def run(notebook: nbformat.NotebookNode) -> None:
    """Execute in a kernel of its own, on one thread: two vignettes run side by side."""
    client = nbclient.NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(HERE)}},
    )
    client.execute(env=os.environ | {"OMP_NUM_THREADS": "1"})
    for cell in notebook.cells:
        if cell.cell_type == "code":  # progress bars move only where a kernel runs
            cell.outputs = whole_streams(
                one for one in cell.outputs if WIDGET not in one.get("data", {})
            )


def whole_streams(outputs: Iterable[Any]) -> list[Any]:
    """What a cell printed in a row as one: a busy kernel sends it in pieces."""
    joined: list[Any] = []
    for one in outputs:
        last = joined[-1] if joined else {}
        if one.output_type == "stream" and last.get("name") == one.name:
            last["text"] += one.text
        else:
            joined.append(one)
    return joined


def take_outputs(notebook: nbformat.NotebookNode, other: nbformat.NotebookNode) -> None:
    """Put the outputs of `other`, which has the same code, into `notebook`."""
    ours = (cell for cell in notebook.cells if cell.cell_type == "code")
    theirs = (cell for cell in other.cells if cell.cell_type == "code")
    for mine, executed_cell in zip(ours, theirs, strict=True):
        mine.outputs = executed_cell.outputs
        mine.execution_count = executed_cell.execution_count
    notebook.metadata.update(other.metadata)


def outputs(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    """Every output of one MIME type, in order."""
    return [
        output["data"][kind]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if kind in output.get("data", {})
    ]


def texts(notebook: nbformat.NotebookNode) -> str:
    """What the notebook printed and showed as text."""
    return "\n".join(
        output["text"] if "text" in output else output["data"].get("text/plain", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "text" in output or "data" in output
    )


def is_drawn(png: str) -> bool:
    """Whether a picture, as base64, shows anything: a blank one has one colour."""
    from matplotlib.image import imread

    return float(imread(io.BytesIO(base64.b64decode(png)))[..., :3].std()) > 0.02


def main(names: list[str]) -> None:
    for path, _ in all_executed([HERE / name for name in names] or vignettes()):
        print(f"{path.name}: executed", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
