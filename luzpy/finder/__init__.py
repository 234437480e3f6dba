"""The learning rate finder."""

from luzpy.finder.finder import lr_finder

__all__ = ["lr_finder"]
