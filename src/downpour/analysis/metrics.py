"""The metric that runs are compared by, and the names of metrics in figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from downpour.analysis.runs import RunDirectory
from downpour.config import ConfigError, nearest

if TYPE_CHECKING:
    import pandas

# Runs are compared by the first of these that they have measured: evaluation before training, task before loss.
MEASURES = (
    "return_mean",
    "return",
    "accuracy",
    "f1",
    "value_error",
    "bellman_residual",
    "error",
    "mse",
    "energy_distance",
    "loss",
)
PHASES = ("eval", "test", "validation", "val", "train")
LESS_IS_BETTER = ("loss", "error", "residual", "mse", "distance", "perplexity")
NAMES = {
    "env_steps": "environment steps",
    "gradient_steps": "gradient steps",
    "eval/return_mean": "evaluation return",
    "train/return_mean": "training return",
    "accuracy": "accuracy (fraction)",
}
PHASE_NAMES = {"eval": "evaluation", "val": "validation", "train": "training"}


def measured(table: pandas.DataFrame) -> list[str]:
    """The metrics with at least one finite value in `table`, whose first column is the axis."""
    return [str(name) for name in table.columns[1:] if np.isfinite(table[name].to_numpy(np.float64)).any()]


def finite(table: pandas.DataFrame, metric: str) -> pandas.DataFrame:
    """The rows of `table` in which `metric` is finite; none if it has no such column."""
    if metric not in table:
        return table.iloc[:0]
    return table[np.isfinite(table[metric].to_numpy(np.float64))]


def until(table: pandas.DataFrame, steps: float) -> pandas.DataFrame:
    """The rows of `table` up to `steps`, by its first column."""
    return table[table.iloc[:, 0] <= steps] if len(table) else table


def headline(runs: Sequence[RunDirectory], wanted: str | None = None) -> str | None:
    """The metric to compare `runs` by; None if they have measured nothing.

    Args:
        wanted: the user's choice.

    Raises:
        ConfigError: none of the runs has the metric `wanted`.
    """
    known = list(dict.fromkeys(name for run in runs for name in measured(run.metrics)))
    if wanted is not None:
        if wanted not in known:
            there = f"{nearest(wanted, known) or '.'} There are: {', '.join(known) or 'none'}"
            raise ConfigError("metric", wanted, f"none of the runs has this metric{there}")
        return wanted
    ranked = [f"{phase}/{measure}" for phase in PHASES for measure in MEASURES]
    evaluated = [name for name in known if name.split("/")[0] in PHASES[:-1]]
    return next((name for name in [*ranked, *evaluated, *known] if name in known), None)


def less_is_better(metric: str) -> bool:
    """Whether lower values of `metric` are better."""
    return any(word in metric.rsplit("/", 1)[-1] for word in LESS_IS_BETTER)


def spoken(metric: str) -> str:
    """The name of a metric or an axis in words: "eval/return_mean" -> "evaluation return"."""
    if metric in NAMES:
        return NAMES[metric]
    phase, _, measure = metric.rpartition("/")
    return f"{PHASE_NAMES.get(phase, phase)} {measure}".replace("_", " ").strip()
