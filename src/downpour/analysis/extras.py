"""Additional figures of runs that have measured what the figures show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from downpour.analysis.configurations import Configuration
from downpour.analysis.drawing import save
from downpour.analysis.overestimation import measures_it, overestimation
from downpour.analysis.trials import has_trials, trials

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXTRAS: dict[str, tuple[Callable[[Configuration], bool], Callable[[Sequence[Configuration]], Figure]]] = {
    "overestimation": (measures_it, overestimation),
    "trials": (has_trials, trials),
}


def draw_extras(configurations: Sequence[Configuration], out: Path) -> list[Path]:
    """Draw the figures for which there are measurements into `out`; returns their paths."""
    fitting = {name: figure for name, (fits, figure) in EXTRAS.items() if any(map(fits, configurations))}
    return [save(figure(configurations), out / f"{name}.png") for name, figure in fitting.items()]
