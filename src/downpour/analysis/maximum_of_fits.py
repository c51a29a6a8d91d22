"""The maximum of several good fits overestimates: van Hasselt et al. (2016), Figure 2.

Ten actions have the same true value f(s) in every state s of [-6, 6]. Each is estimated by the polynomial that best
fits f, without noise, at the integers except two adjacent ones, which differ between actions. Near these gaps an
estimate may be far off, and the maximum over the actions selects errors upwards.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from hydra.experimental.callback import Callback
from numpy.typing import NDArray
from omegaconf import DictConfig

from downpour.analysis.drawing import GREY, PALETTE, dress, figure_of, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
ACTIONS = 10
STATES = np.linspace(-6, 6, 1201)
SHIFT = 5  # the second set of estimates has the gaps of the action this much further on


class Case(NamedTuple):
    """A row of the paper's figure."""

    name: str
    f: Callable[[Floats], Floats]
    degree: int


CASES = (
    Case("sin(s)", np.sin, 6),
    Case("2 exp(-s²)", lambda s: 2 * np.exp(-(s**2)), 6),
    Case("2 exp(-s²)", lambda s: 2 * np.exp(-(s**2)), 9),
)


def estimates(case: Case) -> Floats:
    """Q(s, a) of every action at `STATES`, [actions, states]."""
    integers = np.arange(-6.0, 7.0)
    fits = []
    for action in range(ACTIONS):
        seen = np.delete(integers, [action + 1, action + 2])
        fits.append(np.polynomial.Polynomial.fit(seen, case.f(seen), case.degree)(STATES))
    return np.array(fits)


def errors(case: Case) -> tuple[Floats, Floats]:
    """max_a Q(s, a) - f(s), and Q'(s, argmax_a Q(s, a)) - f(s) with a second set Q' of estimates; [states] each."""
    q = estimates(case)
    other = np.roll(q, SHIFT, axis=0)
    double = np.take_along_axis(other, q.argmax(0)[None], axis=0)[0]
    return q.max(0) - case.f(STATES), double - case.f(STATES)


def picture() -> Figure:
    """One row per case: true values and all estimates; errors of the single and of the double estimator."""
    figure = figure_of(8.4, 7.4)
    for (left, right), case in zip(figure.subplots(len(CASES), 2), CASES, strict=True):
        left.set_ylabel(f"{case.name}, degree {case.degree}")
        for curve in estimates(case):
            left.plot(STATES, curve, color=GREY, linewidth=0.7)
        left.plot(STATES, case.f(STATES), color=PALETTE[6], linewidth=1.6, label="true value of every action")
        for error, color, name in zip(errors(case), (PALETTE[1], PALETTE[0]), ("max", "double"), strict=True):
            right.plot(STATES, error, color=color, label=f"error of the {name} estimate")
            right.axhline(error.mean(), color=color, linestyle=":", linewidth=1)
        right.set_ylabel("error")
    dress(figure)
    for axes in figure.axes:
        axes.set_xlim(-6, 6)
    return figure


def table() -> str:
    """The mean errors over [-6, 6], in Markdown."""
    lines = ["| true value | degree | max estimate, mean error | double estimate |", "|---|---:|---:|---:|"]
    for case in CASES:
        single, double = (error.mean() for error in errors(case))
        lines.append(f"| {case.name} | {case.degree} | {single:+.2f} | {double:+.2f} |")
    return "\n".join(lines)


class MaximumOfFits(Callback):
    """Hydra callback: writes maximum_of_fits.png and maximum_of_fits.md into the directory of a run or a sweep."""

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """After a single run."""
        self._write(config.hydra.run.dir)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """After a sweep."""
        self._write(config.hydra.sweep.dir)

    def _write(self, directory: str) -> None:
        out = Path(directory)
        save(picture(), out / "maximum_of_fits.png")
        (out / "maximum_of_fits.md").write_text(table() + "\n", encoding="utf-8")
