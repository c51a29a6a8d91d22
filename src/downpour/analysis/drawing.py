"""The style of the project's figures: palette, axes, legends below the data."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, distinguishable with common forms of colour blindness; without its pale yellow.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
STROKES = ("-", "--", ":", "-.")
GREY, INK = "#8A8F98", "#30343B"
RESOLUTION = 200  # dots per inch


def figure_of(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches. Made without pyplot: no window, no global state, safe in any thread."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def style_of(index: int) -> tuple[str, str]:
    """(colour, line style) of the index-th curve; the line style changes when the colours repeat."""
    return PALETTE[index % len(PALETTE)], STROKES[index // len(PALETTE) % len(STROKES)]


def short_number(value: float, _position: int | None = None) -> str:
    """Tick label: 50000 -> "50k", 1500000 -> "1.5M"."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.6g}{unit}"
    return f"{value:.6g}"


def say(axes: Axes, text: str) -> None:
    """Write a message into the middle of axes that have no data."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize=11)


def dress(figure: Figure, *, legend_title: str = "") -> None:
    """Apply the project's style to all axes of a finished figure, and add one legend below them."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    named: dict[str, Artist] = {}
    for axes in figure.axes:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(GREY)
        axes.grid(True, color=GREY, alpha=0.22, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK, labelsize=9, length=3)
        if axes.get_xscale() == "linear":
            axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(short_number))
        if axes.get_yscale() == "linear":
            axes.yaxis.set_major_formatter(FuncFormatter(short_number))
        if axes.get_xscale() == "linear" and axes.has_data() and axes.dataLim.x1 > 0:
            axes.set_xlim(0, axes.dataLim.x1 * 1.015)
        for label, size in ((axes.title, 12), (axes.xaxis.label, 10), (axes.yaxis.label, 10)):
            label.set_color(INK)
            label.set_fontsize(size)
        handles, names = axes.get_legend_handles_labels()
        for handle, name in zip(handles, names, strict=True):
            named.setdefault(name, handle)
    if named:
        # As many columns as fit: a letter is about 0.075 inches wide, the line before a name half an inch.
        width, height = figure.get_size_inches()
        widths = [0.075 * len(name) + 0.55 for name in named]
        columns = len(named) if sum(widths) <= width else max(1, int(width / max(widths)))
        rows = -(-len(named) // columns)
        figure.set_size_inches(width, height + 0.2 * max(0, rows - 2))
        legend = figure.legend(
            list(named.values()),
            list(named),
            loc="outside lower center",
            ncols=-(-len(named) // rows),
            frameon=False,
            fontsize=9,
            labelcolor=INK,
            title=legend_title or None,
            title_fontproperties={"size": 8},
            markerscale=1.4,
        )
        legend.get_title().set_color(GREY)
        for text in legend.get_texts():
            text.set_parse_math(False)  # an override may hold a dollar sign


def save(figure: Figure, path: Path) -> Path:
    """Write a figure atomically: an interrupted save leaves the previous file in place. Returns the path.

    The suffix of the path selects the file type. The same figure gives the same bytes: they contain no date.

    Raises:
        OSError: the file cannot be written.
    """
    part = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    metadata = {"CreationDate": None} if path.suffix == ".pdf" else {"Software": "downpour"}
    try:
        figure.savefig(part, dpi=RESOLUTION, metadata=metadata)
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return path
