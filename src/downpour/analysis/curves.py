"""Learning curves: of one run, and of several configurations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from downpour.analysis.configurations import ENVIRONMENT_KEYS, Configuration
from downpour.analysis.drawing import GREY, PALETTE, dress, figure_of, save, say, style_of
from downpour.analysis.metrics import (
    MEASURES,
    PHASE_NAMES,
    finite,
    headline,
    less_is_better,
    measured,
    spoken,
)
from downpour.analysis.runs import RunDirectory
from downpour.analysis.statistics import Floats, bootstrap_band, common_grid, step_values

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WINDOW = 100  # episodes in the moving mean
MOST_DOTS = 5_000
MOST_CURVES = 10
BAND_RESAMPLES = 2_000


def learning_curve(run_dir: Path) -> Path:
    """Draw one run into curve.png of its directory; returns the figure's path.

    Episode returns as dots with their moving mean, evaluations with one standard deviation over episodes. For a run
    without returns (supervised, dynamic programming): the loss and other metrics, in training and evaluation.
    """
    run = RunDirectory(Path(run_dir))
    names = measured(run.metrics)
    if not run.episodes.empty or "eval/return_mean" in names:
        figure = figure_of(7.0, 4.4)
        _returns(figure.subplots(), run)
    else:
        panels = _panels(names) or {"": []}
        figure = figure_of(7.0, 1.8 + 2.6 * len(panels))
        grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
        for axes, (measure, members) in zip(grid, panels.items(), strict=True):
            _metrics(axes, run, measure, members)
    seed = "" if run.seed is None else f", seed {run.seed}"
    figure.axes[0].set_title(f"{run.algorithm} on {run.environment}{seed}", parse_math=False)
    figure.axes[-1].set_xlabel(spoken(run.axis))
    dress(figure)
    return save(figure, run.path / "curve.png")


def _returns(axes: Axes, run: RunDirectory) -> None:
    axes.set_ylabel("return (sum of rewards of an episode)")
    if not run.episodes.empty and "return" in run.episodes:
        done = finite(run.episodes, "return").sort_values(run.episodes.columns[0], kind="stable")
        steps, returns = done.iloc[:, 0].to_numpy(), done["return"]
        window = min(WINDOW, max(1, len(done) // 4))
        shown = np.unique(np.linspace(0, len(done) - 1, min(len(done), MOST_DOTS)).astype(int))
        axes.plot(
            steps[shown],
            returns.to_numpy()[shown],
            color=PALETTE[4],
            linestyle="",
            marker="o",
            markersize=2.6,
            markeredgewidth=0,
            alpha=min(0.6, max(0.2, 300 / max(1, len(shown)))),
            rasterized=True,
            label="training episode",
        )
        mean = returns.rolling(window, min_periods=min(window, 5)).mean().to_numpy()
        axes.plot(steps, mean, color=PALETTE[0], linewidth=1.8, label=f"mean of {window} episodes")
    evaluated = finite(run.metrics, "eval/return_mean")
    if len(evaluated):
        episodes = run.summary.get("eval/episodes", run.config.get("eval_episodes"))
        of = f" of {episodes:g}" if isinstance(episodes, (int, float)) else ""
        _curve(axes, evaluated, "eval/return_mean", f"evaluation, mean ± std{of}", PALETTE[1])
    elif not axes.lines:
        say(axes, "no episode has ended and nothing was evaluated yet")


def _panels(names: Sequence[str]) -> dict[str, list[str]]:
    """Panel -> metrics: a panel for the loss, and one for the measure that the run is compared by, over all phases."""
    by_measure: dict[str, list[str]] = {}
    for name in names:
        if not name.endswith("_std"):
            by_measure.setdefault(name.rsplit("/", 1)[-1], []).append(name)
    evaluated = [m for m, of in by_measure.items() if any(not name.startswith("train/") for name in of)]
    ranked = [m for m in MEASURES if m in by_measure and m != "loss"]
    chosen = list(dict.fromkeys([*ranked, *evaluated]))[: 1 if "loss" in by_measure else 2]
    order = (["loss"] if "loss" in by_measure else []) + [m for m in chosen if m != "loss"]
    return {measure: by_measure[measure] for measure in order or list(by_measure)[:2]}


def _metrics(axes: Axes, run: RunDirectory, measure: str, names: Sequence[str]) -> None:
    if not names:
        say(axes, "nothing was measured yet")
        return
    values = run.metrics[list(names)].to_numpy(dtype=np.float64)
    values = values[np.isfinite(values)]
    if less_is_better(measure) and len(values) and values.min() > 0 and values.max() > 100 * values.min():
        axes.set_yscale("log")
    axes.set_ylabel(spoken(measure))
    phases = ["train", *sorted({name.rpartition("/")[0] for name in names} - {"train"})]
    for name in sorted(names, key=lambda name: phases.index(name.rpartition("/")[0])):  # evaluation on top
        phase = name.rpartition("/")[0]
        color = PALETTE[phases.index(phase) % len(PALETTE)]
        label = PHASE_NAMES.get(phase, phase) or spoken(measure)
        _curve(axes, finite(run.metrics, name), name, label, color)


def _curve(axes: Axes, table: pandas.DataFrame, name: str, label: str, color: str) -> None:
    """Draw one metric of one run, with its standard deviation if recorded; long training curves are smoothed."""
    steps, values = table.iloc[:, 0].to_numpy(), table[name].to_numpy(dtype=np.float64)
    marker = "o" if len(table) <= 30 else None
    if len(table) > 400 and name.startswith("train/"):
        axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.6)
        values = table[name].rolling(len(table) // 50, min_periods=1).mean().to_numpy()
    axes.plot(steps, values, color=color, linewidth=1.8, label=label, marker=marker, markersize=3.5)
    spread = name.removesuffix("_mean") + "_std"
    if spread in table:
        std = table[spread].fillna(0).to_numpy(dtype=np.float64)
        axes.fill_between(steps, values - std, values + std, color=color, alpha=0.16, linewidth=0)


def comparison(configurations: Sequence[Configuration], metric: str | None = None) -> Figure:
    """Mean over seeds with its 95 % bootstrap interval: one curve per configuration, one panel per environment.

    Runs are not extrapolated beyond their last step: where only some runs of a configuration have values, their mean is
    drawn thin, without an interval. With more than ten configurations in a panel, only the ten with the best final
    values have colours and names; the others are grey.

    Args:
        metric: to draw; by default the one that the runs are compared by, see `metrics.headline`.
    """
    panels: dict[tuple[str, str, str], list[Configuration]] = {}
    for each in configurations:
        name = headline(each.counted) if metric is None else metric
        if name is not None and any(name in measured(run.metrics) for run in each.counted):
            run = each.counted[0]
            panels.setdefault((run.environment, run.axis, name), []).append(each)
    columns = min(3, max(1, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    figure = figure_of(7.0 if columns == 1 else 4.2 * columns, 4.4 if len(panels) <= 1 else 3.4 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    hidden_keys = ENVIRONMENT_KEYS if len({environment for environment, *_ in panels}) > 1 else ()
    seeds: dict[str, list[int]] = {}  # label -> number of seeds in each panel; its position selects the style
    for place, ((environment, axis, name), members) in enumerate(panels.items()):
        axes = grid[place]
        axes.set_title(environment, parse_math=False)
        axes.set_xlabel(spoken(axis))
        axes.set_ylabel(spoken(name))
        _configurations(axes, members, name, hidden_keys, seeds)
        if place % columns and len({name for *_, name in panels}) == 1:
            axes.set_ylabel("")  # the panel on the left has it
    for axes in grid[max(1, len(panels)) :]:
        axes.set_visible(False)
    if not panels:
        say(grid[0], "nothing was measured yet")
    for line in (line for axes in grid for line in axes.lines if line.get_label() in seeds):
        fewest, most = min(seeds[str(line.get_label())]), max(seeds[str(line.get_label())])
        count = f"{most}" if fewest == most else f"{fewest} to {most}"
        line.set_label(f"{line.get_label()} ({count} seed{'' if most == 1 else 's'})")
    several = any(max(counts) > 1 for counts in seeds.values())
    dress(figure, legend_title="mean over seeds and its 95 % bootstrap interval" if several else "")
    return figure


def _configurations(
    axes: Axes,
    members: Sequence[Configuration],
    metric: str,
    hidden_keys: Sequence[str],
    seeds: dict[str, list[int]],
) -> None:
    curves = [_mean_curve(each, metric) for each in members]
    sign = 1 if less_is_better(metric) else -1
    order = sorted(range(len(members)), key=lambda i: sign * curves[i].last)
    named = set(order[:MOST_CURVES])
    for index, (each, curve) in enumerate(zip(members, curves, strict=True)):
        label = each.label_without(*hidden_keys)
        if index in named:
            seeds.setdefault(label, []).append(curve.n)
            color, stroke = style_of(list(seeds).index(label))
            axes.plot(curve.x, curve.shared, color=color, linestyle=stroke, linewidth=2.0, label=label, zorder=3)
            axes.plot(curve.x, curve.partial, color=color, linestyle=stroke, linewidth=0.8, alpha=0.8, zorder=2)
            axes.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.18, linewidth=0)
        else:
            others = f"{len(members) - len(named)} others" if index == min(set(order) - named) else None
            axes.plot(curve.x, curve.shared, color=GREY, alpha=0.5, linewidth=0.8, label=others, zorder=1)


@dataclass(frozen=True)
class _MeanCurve:
    """Arrays [points]; NaN where undefined.

    Attributes:
        x: steps.
        shared: mean over all runs, where all have a value.
        partial: mean over the runs that have a value, where some have none.
        low, high: interval of `shared`.
        n: number of runs.
        last: the last value of `shared`, or of `partial` if there is none.
    """

    x: Floats
    shared: Floats
    partial: Floats
    low: Floats
    high: Floats
    n: int
    last: float


def _mean_curve(configuration: Configuration, metric: str) -> _MeanCurve:
    tables = [table for run in configuration.counted if len(table := finite(run.metrics, metric))]
    x = common_grid([table.iloc[:, 0] for table in tables])
    values = np.stack([step_values(table.iloc[:, 0], table[metric], x) for table in tables])
    present = np.isfinite(values)
    everywhere = present.all(axis=0)
    mean = np.nansum(values, axis=0) / np.maximum(present.sum(axis=0), 1)
    mean[~present.any(axis=0)] = np.nan
    low, high = np.full(x.shape, np.nan), np.full(x.shape, np.nan)
    if everywhere.any():
        low[everywhere], high[everywhere] = bootstrap_band(values[:, everywhere], resamples=BAND_RESAMPLES)
    shared = np.where(everywhere, mean, np.nan)
    last = mean[everywhere][-1] if everywhere.any() else mean[-1]
    return _MeanCurve(x, shared, np.where(everywhere, np.nan, mean), low, high, len(tables), float(last))
