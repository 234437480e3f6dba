"""What is fixed before the reported half is run: the tasks of the halves, and the rules.

`frozen.json` has them, with a hash of the code that decides, without its comments. It is written by
`python -m benchmarks.suggestion --freeze`, and committed, before the half is run; whoever changes a
rule afterwards has to say so by another file.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
from pathlib import Path
from typing import Any

from benchmarks.suggestion import data, measure, rules, tables, tasks, training
from luzpy.finder import confirm, curves, noise, onset, suggest, verdict

PATH = Path(__file__).with_name("frozen.json")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)
CODE = (
    *(suggest, noise, onset, curves, confirm, verdict),
    *(rules, data, tables, tasks, training, measure),
)


def current() -> dict[str, Any]:
    """The halves, the contestants, and the hash of the code that decides."""
    code = hashlib.sha256()
    for module in CODE:
        code.update(_statements(inspect.getsource(module)).encode())
    halves = {"tuning": tasks.TUNING, "reported": tasks.REPORTED}
    return {
        "halves": {
            half: {task.name: task.definition for task in chosen} for half, chosen in halves.items()
        },
        "rules": [*rules.RULES, *(f"luzpy confirm=3, {cost}" for cost in measure.CONFIRMED)],
        "others": list(measure.OTHERS),
        "code": code.hexdigest(),
    }


def _statements(source: str) -> str:
    """The code without comments and docstrings, which decide nothing."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def freeze() -> str:
    """Write the file; returns its hash."""
    PATH.write_text(json.dumps(current(), indent=1) + "\n")
    return digest()


def digest() -> str:
    """The SHA-256 of the file."""
    return hashlib.sha256(PATH.read_bytes()).hexdigest()


def check() -> None:
    """Raise unless the file says what the code is.

    Raises:
        SystemExit: If they differ; it says in what.
    """
    kept = json.loads(PATH.read_text()) if PATH.exists() else {}
    now = current()
    changed = [part for part in now if kept.get(part) != now[part]]
    if changed:
        raise SystemExit(
            f"{PATH.name} does not fit the code ({', '.join(changed)}): `--freeze` first, and "
            "commit it before the reported half is run."
        )
