"""Names of files with an epoch and a metric in them."""

from __future__ import annotations

import os
import string

import attrs

from luzpy.files.atomic import check_writable

FIELDS = ("epoch", "monitor_name", "monitor")


@attrs.frozen
class PathTemplate:
    """A path with the fields `epoch`, `monitor_name` and `monitor`, and no others.

    Only these names and a format are allowed: no attribute, no index, nothing that is evaluated.

    Args:
        template: For example `"model-{epoch:02d}.pt"`.

    Raises:
        ValueError: If it is empty, has another field or a wrong format.
    """

    template: str = attrs.field()

    def __attrs_post_init__(self) -> None:
        if not self.template:
            raise ValueError("`path` must not be empty, got ''.")
        try:
            parts = list(string.Formatter().parse(self.template))
            unknown = [name for _, name, _, _ in parts if name is not None and name not in FIELDS]
            # A format may have fields of its own.
            unknown += [form for _, _, form, _ in parts if form and "{" in form]
            if not unknown:
                self.fill(epoch=1, monitor_name="valid_loss", monitor=0.5)
        except (ValueError, KeyError, IndexError) as err:
            raise ValueError(
                f"`path` must be a valid template, got {self.template!r}: {err}"
            ) from err
        if unknown:
            raise ValueError(
                f"`path` may have the fields {', '.join(FIELDS)}, got {unknown[0]!r} in "
                f"{self.template!r}."
            )

    def fill(self, *, epoch: int, monitor_name: str, monitor: float) -> str:
        """The path of an epoch."""
        return self.template.format(epoch=epoch, monitor_name=monitor_name, monitor=monitor)

    def check_writable(self) -> None:
        """Raise if no file could be written in the folder, as far as it is known.

        Raises:
            LuzError: If none could.
        """
        folder = os.path.dirname(self.template.partition("{")[0])
        filled = self.fill(epoch=1, monitor_name="valid_loss", monitor=0.5)
        check_writable(os.path.join(folder, os.path.basename(filled)))
