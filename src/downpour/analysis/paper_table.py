"""A paper's table of runs, next to the published numbers: paper.md, paper.csv, paper.png."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill

import numpy as np

from downpour.analysis.configurations import Configuration
from downpour.analysis.drawing import INK, dress, figure_of, save, style_of
from downpour.analysis.metrics import finite, spoken, until
from downpour.analysis.overestimation import ESTIMATE, truth_of_best
from downpour.analysis.papers import Config, Paper, class_name, find
from downpour.analysis.published import HIGHEST, PUBLISHED, TRAINING, Numbers
from downpour.analysis.runs import RunDirectory
from downpour.analysis.statistics import Interval, bootstrap_mean
from downpour.analysis.table import interval, last_episodes
from downpour.analysis.text import aligned, spaced
from downpour.directory import write_text


def best_score(run: RunDirectory, steps: float) -> float:
    """The highest average score of an evaluation within so many steps, as Mnih et al. report it."""
    evaluated = finite(until(run.metrics, steps), "eval/return_mean")
    return float(evaluated["eval/return_mean"].max()) if len(evaluated) else np.nan


def overestimation(run: RunDirectory, steps: float) -> float:
    """The last estimate within so many steps, minus what the best policy received."""
    judged = finite(until(run.metrics, steps), ESTIMATE)
    return float(judged[ESTIMATE].iloc[-1]) - truth_of_best(run, steps) if len(judged) else np.nan


Measure = Callable[[RunDirectory, float], float]
MEASURES: dict[str, Measure] = {HIGHEST: best_score, TRAINING: last_episodes, "over-estimation": overestimation}


@dataclass
class Line:
    """One game in one source: a number, or a mean with its interval, a column."""

    game: str
    source: str
    length: str
    cells: dict[str, Interval | float]
    settings: dict[str, str] = field(default_factory=dict)  # which of several was best, by column

    @property
    def name(self) -> str:
        """As a legend has it."""
        return f"{self.source}, {self.length}"

    def mean(self, column: str) -> float:
        cell = self.cells.get(column, np.nan)
        return cell.mean if isinstance(cell, Interval) else float(cell)


def lines(paper: Paper, published: Sequence[Numbers], configurations: Sequence[Configuration]) -> list[Line]:
    """Ours and the published ones of each game that was played: ours once for each kind of number there is."""
    found: dict[str, dict[str, dict[str, list[Configuration]]]] = {}
    for each in configurations:
        config = each.counted[0].config if each.counted else {}
        if config and class_name(config["algo"]) in paper.algorithms and (column := paper.column(config)):
            env = config["env"]
            worlds = found.setdefault(env.get("game") or each.counted[0].environment, {})
            worlds.setdefault(_played(env), {}).setdefault(column, []).append(each)
    result = []
    for game, worlds in found.items():
        beside = [numbers for numbers in published if game in numbers.games]
        for measure in dict.fromkeys([paper.measure, *(numbers.measure for numbers in beside)]):
            mine = [ours(game, world, measure, columns) for world, columns in worlds.items()]
            result += [line for line in mine if line.cells]
            same = [numbers for numbers in beside if numbers.measure == measure]
            result += [Line(game, each.source, each.length, dict(each.games[game])) for each in same]
    return result


def _played(env: Config) -> str:
    """Where and how a game was played: "MinAtar", "Atari mnih2015"."""
    return f"{class_name(env)} {env.get('protocol') or ''}".strip()


def ours(game: str, world: str, measure: str, columns: Mapping[str, Sequence[Configuration]]) -> Line:
    """A game's runs, all at the last step that each of them has reached: nothing is extrapolated."""
    runs = [run for members in columns.values() for each in members for run in each.counted]
    steps = min(run.steps for run in runs)
    cells: dict[str, Interval | float] = {}
    settings, seeds = {}, set()
    for column, members in columns.items():
        scored = [(bootstrap_mean([MEASURES[measure](run, steps) for run in each.counted]), each) for each in members]
        cell, chosen = max(scored, key=lambda pair: (pair[0].n > 0, pair[0].mean))
        if cell.n:
            cells[column], settings[column] = cell, _apart(chosen, members)
            seeds.add(cell.n)
    count = " to ".join(dict.fromkeys([str(min(seeds, default=0)), str(max(seeds, default=0))]))
    source = f"ours, {world}, {measure}, {count} seed{'' if count == '1' else 's'}"
    return Line(game, source, f"{spaced(steps)} {spoken(runs[0].axis)}", cells, settings)


def _apart(chosen: Configuration, members: Sequence[Configuration]) -> str:
    """What sets one setting of a cell apart from the cell's others: "lr=0.001"; "" where there are none."""
    same = [key for key in chosen.settings if len({each.settings[key] for each in members}) == 1]
    return chosen.label_without(*same) if len(members) > 1 else ""


def markdown(paper: Paper, table: Sequence[Line]) -> str:
    """As a page shows it."""
    columns = [c for c in paper.columns if any(c in line.cells for line in table)]
    rows = [["game", "", "length", *columns]]
    for line in table:
        cells = [line.cells.get(column) for column in columns]
        rows.append([line.game, line.source, line.length, *("-" if c is None else _shown(c) for c in cells)])
    chosen: list[str] = []
    for line in table:
        if notes := [f"{column}: {name}" for column, name in line.settings.items() if name]:
            chosen += ["", f"Shown of several settings ({line.game}, {line.source}): {'; '.join(notes)}."]
    return "\n".join([f"## {paper.title}", "", *aligned(rows, left=len(rows[0])), "", paper.caption, *chosen, ""])


def _shown(cell: Interval | float) -> str:
    return interval(cell) if isinstance(cell, Interval) else f"{cell:g}"


def comma_separated(paper: Paper, table: Sequence[Line]) -> str:
    """A row a number, at full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["game", "source", "length", "column", "mean", "low", "high", "seeds"])
    for line in table:
        for column, cell in line.cells.items():
            known = isinstance(cell, Interval) and cell.known
            ends = [f"{cell.low:.10g}", f"{cell.high:.10g}"] if isinstance(cell, Interval) and known else ["", ""]
            count = cell.n if isinstance(cell, Interval) else ""
            writer.writerow([line.game, line.source, line.length, column, f"{line.mean(column):.10g}", *ends, count])
    return out.getvalue()


def draw(paper: Paper, table: Sequence[Line], path: Path) -> None:
    """A panel a game, each bar with its number; beside published ones, whose scale differs, all are drawn relative to
    the first column's."""
    games = list(dict.fromkeys(line.game for line in table))
    colors = {name: style_of(index)[0] for index, name in enumerate(dict.fromkeys(line.name for line in table))}
    across = min(3, len(games))
    down = -(-len(games) // across)
    figure = figure_of(max(8.5, 4.2 * across), 1.0 + 4.0 * down)
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    for axes in panels[len(games) :]:
        axes.remove()
    shown = [c for c in paper.columns if any(c in line.cells for line in table)]
    number = "score" if paper.measure in (HIGHEST, TRAINING) else paper.measure
    for axes, game in zip(panels, games, strict=False):
        members = [line for line in table if line.game == game]
        relative = len(members) > 1 and len(shown) > 1 and all(line.mean(shown[0]) > 0 for line in members)
        for index, line in enumerate(members):
            unit = line.mean(shown[0]) if relative else 1.0
            place = np.arange(len(shown)) + 0.8 * (index + 0.5) / len(members) - 0.4
            means = np.array([line.mean(column) for column in shown]) / unit
            cells = [line.cells.get(column) for column in shown]
            ends = [(c.low, c.high) if isinstance(c, Interval) and c.known else (np.nan, np.nan) for c in cells]
            error = np.abs(np.array(ends).T / unit - means)
            width = 0.8 / len(members)
            bars = axes.bar(place, means, width, color=colors[line.name], yerr=error, capsize=2, label=line.name)
            numbers = [
                "" if np.isnan(mean) else f"{mean:.3g}" if mean < 1000 else f"{mean:.0f}" for mean in means * unit
            ]
            axes.bar_label(bars, numbers, padding=2, fontsize=7, color=INK)
        axes.set_title(game, parse_math=False)
        axes.set_ylabel(f"{number} relative to `{shown[0]}`" if relative else number)
    letters = int(15 * figure.get_size_inches()[0])
    figure.suptitle(f"{paper.title}\n{fill(paper.caption, letters)}", fontsize=7, color=INK)
    dress(figure)
    for axes in figure.axes:  # the house's look has numbers below
        axes.set_xticks(range(len(shown)), [c.replace(", ", ",\n") for c in shown])
        axes.set_xlim(-0.5, len(shown) - 0.5)
    save(figure, path)


def write(name: str, configurations: Sequence[Configuration], out: Path) -> str:
    """Write paper.md, paper.csv and paper.png into `out`; returns what paper.md says ("" where nothing belongs in it).

    Raises:
        ConfigError: there is no such paper's table.
    """
    paper = find(name)
    table = lines(paper, PUBLISHED.get(name, []), configurations)
    if not table:
        return ""
    text = markdown(paper, table)
    write_text(out / "paper.md", text)
    write_text(out / "paper.csv", comma_separated(paper, table))
    draw(paper, table, out / "paper.png")
    return text
