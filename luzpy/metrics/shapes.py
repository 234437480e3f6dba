"""How predictions and targets of different shapes are aligned, or refused."""

from __future__ import annotations

import torch

ROUNDING = 1e-5  # how far probabilities may lie outside of [0, 1]


def aligned(tensor: torch.Tensor, like: torch.Tensor, name: str, like_name: str) -> torch.Tensor:
    """`tensor` in the shape of `like`, if they differ only by dimensions of length 1.

    Raises:
        ValueError: If they differ by more: broadcasting one against the other would compare
            every row with every other.
    """
    if [n for n in tensor.shape if n != 1] != [n for n in like.shape if n != 1]:
        raise ValueError(
            f"`{name}` must have the shape of {like_name}, {tuple(like.shape)}, got "
            f"{tuple(tensor.shape)}."
        )
    return tensor.reshape(like.shape)
