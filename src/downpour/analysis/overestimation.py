"""The figure of estimated and actual values, as in van Hasselt et al. (2016), Figure 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from downpour.analysis.configurations import ENVIRONMENT_KEYS, Configuration
from downpour.analysis.drawing import dress, figure_of, style_of
from downpour.analysis.metrics import finite, measured, spoken, until
from downpour.analysis.runs import RunDirectory
from downpour.analysis.statistics import Floats, common_grid, step_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ESTIMATE, ACTUAL = "eval/value_estimate", "eval/value_actual"


def measures_it(configuration: Configuration) -> bool:
    """Whether any of its runs has measured estimates and actual values."""
    return any({ESTIMATE, ACTUAL} <= set(measured(run.metrics)) for run in configuration.counted)


def overestimation(configurations: Sequence[Configuration]) -> Figure:
    """One panel per environment: the median estimate over seeds, with the 10 and 90 % quantiles of the paper.

    The horizontal line is the median over seeds of the actual value of each seed's best policy.
    """
    panels: dict[tuple[str, str], list[Configuration]] = {}
    for each in filter(measures_it, configurations):
        run = each.counted[0]
        panels.setdefault((run.environment, run.axis), []).append(each)
    figure = figure_of(7.0 if len(panels) < 2 else 4.2 * len(panels), 4.4)
    grid = figure.subplots(1, max(1, len(panels)), squeeze=False)[0]
    for axes, ((environment, axis), members) in zip(grid, panels.items(), strict=False):
        axes.set_title(environment, parse_math=False)
        axes.set_xlabel(spoken(axis))
        axes.set_ylabel("value (discounted return)")
        for index, each in enumerate(members):
            color, stroke = style_of(index)
            x, estimates, truths = curves_of(each)
            low, middle, high = np.nanquantile(estimates, [0.1, 0.5, 0.9], axis=0)
            label = each.label_without(*ENVIRONMENT_KEYS)
            seeds = f"{len(estimates)} seed{'s' * (len(estimates) > 1)}"
            axes.plot(x, middle, color=color, linestyle=stroke, linewidth=2.0, label=f"{label}: estimate ({seeds})")
            axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
            axes.axhline(
                np.median(truths), color=color, linewidth=1.0, linestyle="--", label=f"{label}: actual, best policy"
            )
    dress(figure, legend_title="median over seeds; band: 10 and 90 % quantiles")
    return figure


def curves_of(configuration: Configuration) -> tuple[Floats, Floats, Floats]:
    """(steps [points], estimates [seeds, points], actual value of each seed's best policy [seeds])."""
    tables = [table for run in configuration.counted if len(table := finite(run.metrics, ESTIMATE))]
    x = common_grid([table.iloc[:, 0] for table in tables])
    estimates = np.stack([step_values(table.iloc[:, 0], table[ESTIMATE], x) for table in tables])
    truths = np.array([truth_of_best(run) for run in configuration.counted if ESTIMATE in run.metrics])
    return x, estimates, truths


def truth_of_best(run: RunDirectory, steps: float = np.inf) -> float:
    """The actual value of the policy with the best evaluation up to `steps`: mean return from the states it visited."""
    metrics = until(run.metrics, steps)
    returns, actual = finite(metrics, "eval/return_mean"), finite(metrics, ACTUAL)
    by_step = dict(zip(actual.iloc[:, 0], actual[ACTUAL], strict=True))
    judged = returns[returns.iloc[:, 0].isin(list(by_step))]
    best = judged.loc[judged["eval/return_mean"].idxmax()].iloc[0] if len(judged) else actual.iloc[-1, 0]
    return float(by_step[best])
