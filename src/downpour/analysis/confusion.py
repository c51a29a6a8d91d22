"""The figure of a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from downpour.analysis.drawing import figure_of, save

MOST_NUMBERS = 20  # classes; with more, the cells have no room for numbers


def confusion_matrix(counts: np.ndarray, names: Sequence[str], path: Path) -> Path:
    """Draw counts [true classes, predicted classes] into a PNG at `path`; colours are fractions of the row."""
    size = max(4.0, 0.5 * len(names) + 1.5)
    figure = figure_of(size, size)
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for axis, what in ((axes.xaxis, "predicted"), (axes.yaxis, "true")):
        axis.set_ticks(range(len(names)), labels=list(names), parse_math=False)
        axis.set_label_text(what)
    if len(names) <= MOST_NUMBERS:
        for row, column in np.argwhere(counts > 0):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(int(counts[row, column])), ha="center", va="center", color=color)
    return save(figure, path)
