"""Data and samples side by side."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from downpour.analysis.drawing import PALETTE, figure_of, save


def side_by_side(true: np.ndarray, made: np.ndarray, path: Path) -> Path:
    """Draw both [rows, *shape] into a PNG: images as mosaics, anything else by its first two numbers."""
    figure = figure_of(8.0, 4.2)
    panels = figure.subplots(1, 2)
    for axes, rows, title, color in zip(panels, (true, made), ("data", "samples"), PALETTE, strict=False):
        axes.set_title(title)
        if rows.ndim == 4:
            axes.imshow(_mosaic(rows), cmap="gray_r", vmin=true.min(), vmax=true.max())
            axes.set_axis_off()
            continue
        flat = rows.reshape(len(rows), -1)
        axes.scatter(flat[:, 0], flat[:, -1] if flat.shape[1] < 2 else flat[:, 1], s=4, alpha=0.5, color=color)
        axes.set_aspect("equal", adjustable="box")
        axes.sharex(panels[0])
        axes.sharey(panels[0])
    return save(figure, path)


def _mosaic(images: np.ndarray) -> np.ndarray:
    """[rows, channels, height, width] -> one picture [height, width] or [height, width, 3], as square as it goes."""
    columns = math.ceil(math.sqrt(len(images)))
    spare = -len(images) % columns
    blank = np.full((spare, *images.shape[1:]), images.min())
    padded = np.pad(np.concatenate([images, blank]), ((0, 0), (0, 0), (1, 0), (1, 0)), constant_values=images.min())
    channels, height, width = padded.shape[1:]
    grid = padded.reshape(-1, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    whole = grid.reshape(-1, columns * width, channels)
    return whole[:, :, :3].clip(0, 1) if channels >= 3 else whole[:, :, 0]
