"""The figure of data and generated samples side by side."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from downpour.analysis.drawing import PALETTE, figure_of, save


def side_by_side(data: np.ndarray, samples: np.ndarray, path: Path) -> Path:
    """Draw data and samples, [rows, *shape] each, into a PNG: images as mosaics, others by their first two numbers."""
    figure = figure_of(8.0, 4.2)
    panels = figure.subplots(1, 2)
    for axes, rows, title, color in zip(panels, (data, samples), ("data", "samples"), PALETTE, strict=False):
        axes.set_title(title)
        if rows.ndim == 4:
            axes.imshow(_mosaic(rows), cmap="gray_r", vmin=data.min(), vmax=data.max())
            axes.set_axis_off()
            continue
        flat = rows.reshape(len(rows), -1)
        axes.scatter(flat[:, 0], flat[:, -1] if flat.shape[1] < 2 else flat[:, 1], s=4, alpha=0.5, color=color)
        axes.set_aspect("equal", adjustable="box")
        axes.sharex(panels[0])
        axes.sharey(panels[0])
    return save(figure, path)


def _mosaic(images: np.ndarray) -> np.ndarray:
    """[rows, channels, height, width] -> an approximately square mosaic, [height, width] or [height, width, 3]."""
    columns = math.ceil(math.sqrt(len(images)))
    missing = -len(images) % columns
    blank = np.full((missing, *images.shape[1:]), images.min())
    padded = np.pad(np.concatenate([images, blank]), ((0, 0), (0, 0), (1, 0), (1, 0)), constant_values=images.min())
    channels, height, width = padded.shape[1:]
    grid = padded.reshape(-1, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    mosaic = grid.reshape(-1, columns * width, channels)
    return mosaic[:, :, :3].clip(0, 1) if channels >= 3 else mosaic[:, :, 0]
