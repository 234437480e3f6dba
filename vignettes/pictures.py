"""What the vignettes share for drawing: a grid of images, and a theme for other plots."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from plotnine import (
    aes,
    coord_fixed,
    element_blank,
    element_line,
    element_rect,
    element_text,
    facet_wrap,
    geom_raster,
    ggplot,
    scale_fill_identity,
    scale_x_continuous,
    scale_y_continuous,
    theme,
    theme_minimal,
    theme_void,
)


def image_grid(
    images: torch.Tensor, labels: Sequence[object] | None = None, columns: int = 8
) -> ggplot:
    """Draw images side by side, row after row.

    Args:
        images: Floats in [0, 1], of shape (N, H, W) or (N, 1, H, W) for grey images and
            (N, 3, H, W) for coloured ones. Values beyond are drawn as black or white.
        labels: What to write above each image, if anything.
        columns: How many images stand in a row.

    Returns:
        A plotnine plot.

    Raises:
        ValueError: If the images have another shape, or there is not a label for each.
    """
    colours = _as_rgb(images)
    n, height, width = colours.shape[:3]
    if labels is not None and len(labels) != n:
        raise ValueError(f"`labels` must be one for each of {n} images, got {len(labels)}.")
    index = torch.cartesian_prod(torch.arange(n), torch.arange(height), torch.arange(width))
    pixels = pd.DataFrame(index.numpy(), columns=["image", "row", "x"])
    pixels["y"] = height - 1 - pixels["row"]
    pixels["fill"] = [f"#{value:06x}" for value in _as_number(colours).flatten().tolist()]
    text = [""] * n if labels is None else [str(label) for label in labels]
    lines = 0 if labels is None else 1 + max(label.count("\n") for label in text)
    columns = min(columns, n)
    rows = -(-n // columns)
    side = min(1.3, 8.0 / columns)
    return (
        ggplot(pixels, aes("x", "y", fill="fill"))
        + geom_raster()
        + facet_wrap("image", ncol=columns, labeller=lambda image: text[int(image)])
        + scale_fill_identity()
        + scale_x_continuous(expand=(0, 0))
        + scale_y_continuous(expand=(0, 0))
        + coord_fixed()
        + theme_void()
        + theme(
            figure_size=(columns * side, rows * (side * height / width + 0.2 * lines)),
            panel_spacing=0.012,
            plot_background=element_rect(fill="white", colour="white"),
            plot_margin=0.01,
            strip_background=element_blank(),
            strip_text=_label_text() if lines else element_blank(),
        )
    )


def quiet_theme(width: float = 6.4, height: float = 4.0) -> theme:
    """A light grid on white, which can be read on a dark page, too; the size is in inches."""
    return theme_minimal(base_size=11) + theme(
        figure_size=(width, height),
        panel_grid_minor=element_blank(),
        panel_grid_major=element_line(colour="#dddddd", size=0.5),
        plot_background=element_rect(fill="white", colour="white"),
        strip_text=element_text(weight="bold"),
    )


def _label_text() -> element_text:
    return element_text(size=9, colour="#333333", margin={"t": 2, "b": 4, "units": "pt"})


def _as_rgb(images: torch.Tensor) -> torch.Tensor:
    """Whole numbers from 0 to 255, of shape (N, H, W, 3)."""
    if images.ndim == 3:
        images = images.unsqueeze(1)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.numel():
        raise ValueError(
            "`images` must have the shape (N, H, W), (N, 1, H, W) or (N, 3, H, W), got "
            f"{tuple(images.shape)}."
        )
    scaled = (images.detach().cpu().float().clamp(0, 1) * 255).round().long()
    return scaled.expand(-1, 3, -1, -1).permute(0, 2, 3, 1)


def _as_number(colours: torch.Tensor) -> torch.Tensor:
    """Each pixel's 24 bits as one number."""
    return (colours * torch.tensor([256 * 256, 256, 1])).sum(dim=-1)
