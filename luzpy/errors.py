"""The errors that luzpy raises on purpose."""

from __future__ import annotations


class LuzError(Exception):
    """Something went wrong in a run, or a file cannot be used; the message says what and where."""


class NoSuggestionError(LuzError):
    """The curve of a learning rate finder supports no suggestion; the message says why."""
