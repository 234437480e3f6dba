"""A progress bar, and lines that others print above it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any, final

from luzpy.ground.types import Values

Shape = tuple[int | None, int | None]
STREAMS = ("stdout", "stderr")


def in_notebook() -> bool:
    """Whether we run in a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def is_interactive() -> bool:
    """Whether somebody is watching: standard output is a terminal or a notebook."""
    return in_notebook() or _is_terminal(sys.stdout)


@final
class Bar:
    """A tqdm bar, for the terminal or the notebook, that vanishes when closed.

    While it is drawn in a terminal, lines that are printed appear above it.

    Args:
        title: What stands before it.
        total: How many steps there are, if that is known.
        began: When they began, by `perf_counter`.
    """

    def __init__(self, title: str, total: int | None, began: float | None = None) -> None:
        from tqdm.auto import tqdm

        in_terminal: Values = {}
        if not in_notebook():
            # Within the bar of another run: that one's terminal.
            in_terminal = {"file": _behind(sys.stdout), "dynamic_ncols": True}
            if total is not None:
                # A narrow terminal keeps the time left and the metrics, and shortens the bar.
                width = 24 if shutil.get_terminal_size().columns >= 100 else 10
                in_terminal["ascii"] = " ="
                bar = f"[{{bar:{width}}}] - ETA: {{remaining}}{{postfix}}"
                in_terminal["bar_format"] = f"{{desc}}: {{n_fmt}}/{{total_fmt}} {bar}"
        self._bar: Any = tqdm(total=total, desc=title, leave=False, unit="batch", **in_terminal)
        measure = self._bar.dynamic_ncols if in_terminal else None
        if measure:
            self._bar.dynamic_ncols = partial(_with_room, measure)
        if began is not None:
            self._bar.start_t -= perf_counter() - began
        self._above: dict[str, AboveBar] = {}
        for name in STREAMS if in_terminal else ():
            stream = getattr(sys, name)
            if _is_terminal(stream):
                self._above[name] = AboveBar(stream, self._bar)
                setattr(sys, name, self._above[name])

    def update(self, steps: int, text: str = "") -> None:
        """Go on by so many steps, and show a text behind the bar."""
        for above in self._above.values():
            above.end_line()
        self._bar.update(steps)
        if text:
            self._bar.set_postfix_str(text, refresh=True)

    def close(self) -> None:
        """Take it away."""
        for name, above in self._above.items():
            above.end_line()
            above.bar = None
            if getattr(sys, name) is above:  # else whoever replaced it puts it back
                setattr(sys, name, above.stream)
        self._bar.close()
        for above in self._above.values():
            above.flush()
        self._above = {}


@final
class AboveBar:
    """Replaces a terminal's stream: complete lines are written above a bar.

    Args:
        stream: The stream.
        bar: The tqdm bar; None once it is gone.
    """

    def __init__(self, stream: Any, bar: Any) -> None:
        self.stream = stream
        self.bar = bar
        self._rest = ""  # of a line whose end has not come
        self._is_open = False  # whether such a part was written

    def write(self, text: str) -> int:
        """Write what is whole, and keep the rest."""
        if self.bar is None:
            return self.stream.write(text)
        lines, newline, self._rest = (self._rest + text).rpartition("\n")
        if newline:
            self._write(lines + newline)
            self._is_open = False
            self.bar.refresh()
        return len(text)

    def flush(self) -> None:
        """Write the rest, such as a question to whoever is watching."""
        if self._rest:
            self._write(self._rest)
            self._rest, self._is_open = "", True
        self.stream.flush()

    def end_line(self) -> None:
        """End a partly written line: the bar starts on a new one."""
        if self._is_open:
            self.stream.write("\n")
            self.stream.flush()
            self._is_open = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _write(self, text: str) -> None:
        if self.bar is not None and not self._is_open:
            self.bar.clear()
            self.bar.fp.flush()  # it may be the other stream
        self.stream.write(text)
        self.stream.flush()


def _with_room(measure: Callable[[Any], Shape], file: Any) -> Shape:
    """Room for the `^C` that a terminal writes behind the bar, which would wrap the line."""
    columns, rows = measure(file)
    return (columns and columns - len("^C")), rows


def _behind(stream: Any) -> Any:
    while isinstance(stream, AboveBar):
        stream = stream.stream
    return stream


def _is_terminal(stream: Any) -> bool:
    return bool(getattr(stream, "isatty", lambda: False)())
