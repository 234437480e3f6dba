"""Areas under ROC curves, from counts of rows by intervals of their scores."""

from __future__ import annotations

import torch


def counted(intervals: torch.Tensor, positive: torch.Tensor, size: int) -> torch.Tensor:
    """How many rows of each column lie in each interval between thresholds.

    Nothing is read from the device. (torchmetrics counts with `torch.bincount`, which waits for a
    GPU, and compares every score with every threshold.)

    Args:
        intervals: The row's interval, in the order of scores; of the shape (rows, columns).
        positive: Whether the row is of the column's class, of the same shape.
        size: How many intervals there are.

    Returns:
        Of the shape (columns, 2, size): rows not of the class, and rows of it.
    """
    columns = intervals.shape[1]
    cells = (torch.arange(columns, device=intervals.device) * 2 + positive) * size + intervals
    counts = torch.zeros(columns * 2 * size, dtype=torch.int64, device=intervals.device)
    counts.index_add_(0, cells.flatten(), torch.ones_like(cells).flatten())
    return counts.reshape(columns, 2, size)


def areas(counts: torch.Tensor) -> torch.Tensor:
    """The area of each column that was `counted`, NaN without rows of both kinds.

    It is the share of pairs, a row of the class and another, in which the former has the higher
    score (Mann and Whitney's statistic). Pairs in one interval count half, as they do under a
    curve that is straight between two thresholds.
    """
    others, own = counts.cpu().double().unbind(1)
    below = others.cumsum(1) - others / 2
    return (own * below).sum(1) / (own.sum(1) * others.sum(1))


def exact_area(scores: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """The area of one column, where every score has an interval of its own."""
    ordered, order = scores.sort()
    intervals = ordered.ne(ordered.roll(1)).cumsum(0)  # from 1, or 0 where all are equal
    return areas(counted(intervals[:, None], positive[order, None], len(scores) + 1))
