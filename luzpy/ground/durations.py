"""Durations in words."""

from __future__ import annotations


def pretty_seconds(duration: float) -> str:
    """A duration for people: `340ms`, `1.5s`, `2m 3s`, `1h 2m 3s`."""
    if duration < 1:
        return f"{duration * 1000:.0f}ms"
    if duration < 60:
        return f"{duration:.1f}s"
    minutes, rest = divmod(round(duration), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes}m {rest}s" if hours else f"{minutes}m {rest}s"
