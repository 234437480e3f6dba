"""Exact resume: a killed run continues where it was."""
