"""Exact resume: a run that was killed goes on where it was."""
