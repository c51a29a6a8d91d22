"""The figure of runs with many independent trials (`env.trials`): means over trials for each episode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from downpour.analysis.configurations import Configuration
from downpour.analysis.drawing import dress, figure_of, style_of
from downpour.analysis.runs import RunDirectory
from downpour.analysis.statistics import Floats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STANDARD_ERRORS = 1.96  # of a 95 % interval; with a thousand trials the bootstrap gives the same


def has_trials(configuration: Configuration) -> bool:
    """Whether any of its runs has several trials, each of which has finished an episode."""
    return any(trials_of(run) > 1 and complete(run) for run in configuration.counted)


def trials_of(run: RunDirectory) -> int:
    """Number of trials of a run."""
    return int((run.config.get("env") or {}).get("trials", 1))


def complete(run: RunDirectory) -> int:
    """Number of episodes that every trial of a run has finished."""
    if not len(run.episodes):
        return 0
    finished = (run.episodes["environment"] % trials_of(run)).value_counts()
    return int(finished.reindex(range(trials_of(run)), fill_value=0).min())


def by_episode(run: RunDirectory) -> tuple[Floats, Floats]:
    """Returns and lengths, [trials, episodes] each; as many episodes as every trial has finished.

    If a trial has several environments, its episodes are those of all, in the order in which they ended.
    """
    episodes = run.episodes.copy()
    episodes["trial"] = episodes["environment"] % trials_of(run)
    episodes["number"] = episodes.groupby("trial").cumcount()
    shape = trials_of(run), complete(run)
    table = episodes[episodes["number"] < shape[1]].sort_values(["trial", "number"])
    returns, lengths = (table[name].to_numpy(np.float64).reshape(shape) for name in ("return", "length"))
    return returns, lengths


def trials(configurations: Sequence[Configuration]) -> Figure:
    """Mean return and mean length of the k-th episode over all trials of all seeds, with 95 % intervals."""
    figure = figure_of(8.4, 4.0)
    panels = figure.subplots(1, 2)
    for axes, name in zip(panels, ("return", "length"), strict=True):
        axes.set_xlabel("episode")
        axes.set_ylabel(f"{name} of an episode, mean over trials")
    for index, each in enumerate(filter(has_trials, configurations)):
        runs = [by_episode(run) for run in each.counted if complete(run)]
        for axes, columns in zip(panels, zip(*runs, strict=True), strict=True):
            episodes = min(column.shape[1] for column in columns)
            values = np.concatenate([column[:, :episodes] for column in columns])
            x, mean = np.arange(1, episodes + 1), values.mean(0)
            margin = STANDARD_ERRORS * values.std(0, ddof=1) / np.sqrt(len(values))
            color, stroke = style_of(index)
            label = f"{each.label} ({len(values)} trials)"
            axes.plot(x, mean, color=color, linestyle=stroke, linewidth=1.4, label=label)
            axes.fill_between(x, mean - margin, mean + margin, color=color, alpha=0.18, linewidth=0)
    dress(figure)
    return figure
