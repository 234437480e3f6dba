"""The errors that luzpy raises on purpose, and what it adds to those of others."""

from __future__ import annotations

_MARK = "luzpy: "
# CUDA reports this for a kernel that failed earlier, and for every call after it.
_ASSERTED_LATE = (
    " A GPU reports such an error late: often a class or an index was out of bounds in an earlier "
    "operation. `accelerator=luz.Accelerator(cpu=True)`, in a new process, says in which."
)


class LuzError(Exception):
    """Something went wrong in a run, or a file cannot be used; the message says what and where."""

    __module__ = "luzpy"  # as users know it


class NoSuggestionError(LuzError):
    """The curve of a learning rate finder supports no suggestion; the message says why."""

    __module__ = "luzpy"


def add_note(err: BaseException, text: str) -> None:
    """Say in a note of `err` where it happened; what was said first is nearest, and stays alone."""
    if not has_note(err):
        late = _ASSERTED_LATE if "device-side assert" in str(err) else ""
        err.add_note(f"{_MARK}{text}{late}")


def has_note(err: BaseException) -> bool:
    """Whether a note of luzpy's says where in the user's code an error happened."""
    return any(note.startswith(_MARK) for note in getattr(err, "__notes__", []))
