"""The learning rate finder."""

from luzpy.finder.finder import lr_finder
from luzpy.finder.lr_records import LRRecords
from luzpy.finder.plot import plot_records, plot_several

__all__ = ["LRRecords", "lr_finder", "plot_records", "plot_several"]
