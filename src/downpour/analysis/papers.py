"""The papers' own tables, ours beside the published numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from downpour.analysis.configurations import Configuration
from downpour.analysis.drawing import INK, dress, figure_of, save, style_of
from downpour.analysis.metrics import finite, until
from downpour.analysis.overestimation import ESTIMATE, truth_of_best
from downpour.analysis.published import HIGHEST, PUBLISHED, TRAINING, Numbers
from downpour.analysis.runs import RunDirectory
from downpour.analysis.statistics import Interval, bootstrap_mean
from downpour.analysis.table import interval, last_episodes
from downpour.analysis.text import aligned, spaced
from downpour.config import ConfigError, nearest

Config = Mapping[str, Any]


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


def _class(node: Config) -> str:
    return str(node["_target_"]).rpartition(".")[2]


@dataclass(frozen=True)
class Paper:
    """A table: games down, columns across.

    Attributes:
        column: which column a run's configuration belongs to.
        caption: the protocol.
        measure: the number of a run (of `MEASURES`) where nothing published is of another kind.
    """

    title: str
    columns: Sequence[str]
    column: Callable[[Config], str]
    caption: str
    measure: str = HIGHEST


COMPARED = (
    "Ours is the mean over seeds of what the row names, [95 % bootstrap interval], at the last step that every run of "
    "the game has reached"
)
BEST = (
    f"{COMPARED}: of each run's highest evaluation (epsilon 0.05, whole games), or of its last 100 training episodes. "
    "Where a cell has several settings (learning rates) it shows the one whose mean is highest, which flatters. "
    "Published numbers follow the protocols that are named."
)
BIAS = (
    f"{COMPARED}: the last mean of max_a Q minus what the best policy received (discounted). The paper's Figure 3 "
    "shows curves, and no table of them has been published: there is no number to put beside ours. overestimation.png "
    "has our curves: median over seeds with 10 and 90 % quantiles, the truth as a line."
)
PARTS = (
    f"{COMPARED}. The paper's Figure 3 shows curves of the median human-normalized score on Atari, and no table of "
    "them has been published: there is no number to put beside ours."
)
ABLATION = [f"{a} replay, {b} target Q" for a in ("with", "without") for b in ("with", "without")]
RAINBOW: dict[frozenset[str], str] = {
    frozenset(): "Rainbow",
    frozenset({"double"}): "no double",
    frozenset({"priorities"}): "no priority",
    frozenset({"n_step"}): "no multi-step",
    frozenset({"dueling"}): "no dueling",
    frozenset({"noise"}): "no noisy",
    frozenset({"distribution"}): "no distribution",
    frozenset({"double", "priorities", "n_step", "dueling", "noise", "distribution"}): "DQN",
}


def missing_parts(config: Config) -> frozenset[str]:
    """Which of Rainbow's parts a run does without."""
    algo, data, model = config["algo"], config["data"], config["model"]
    has = {
        "double": _class(algo) == "DoubleDQN",
        "priorities": data.get("priority_exponent") is not None,
        "n_step": data.get("n_step", 1) > 1,
        "dueling": bool(model.get("dueling")),
        "noise": bool(model.get("noise")),
        "distribution": bool(algo.get("distribution")),
    }
    return frozenset(part for part, there in has.items() if not there)


PAPERS = {
    "mnih2015_ablation": Paper(
        "Mnih et al. 2015, Extended Data Table 3: replay and a separate target network",
        ABLATION,
        lambda config: ABLATION[2 * (not config["data"]["replay"]) + (not config["algo"]["target_network"])],
        BEST,
    ),
    "mnih2015_linear": Paper(
        "Mnih et al. 2015, Extended Data Table 4: a network and a linear function",
        ["DQN", "Linear"],
        lambda config: "Linear" if _class(config["model"]) == "Linear" else "DQN",
        BEST,
    ),
    "mnih2015_scores": Paper(
        "Mnih et al. 2015, Extended Data Table 2: scores",
        ["DQN", "Random Play", "Human"],
        lambda config: "DQN",
        BEST,
    ),
    "vanhasselt2016_bias": Paper(
        "van Hasselt et al. 2016, Figure 3: over-estimation",
        ["DQN", "Double DQN"],
        lambda config: {"DQN": "DQN", "DoubleDQN": "Double DQN"}.get(_class(config["algo"]), ""),
        BIAS,
        "over-estimation",
    ),
    "rainbow_ablation": Paper(
        "Hessel et al. 2018, Figure 3: Rainbow without one of its parts",
        list(RAINBOW.values()),
        lambda config: RAINBOW.get(missing_parts(config), ""),
        PARTS,
        TRAINING,
    ),
}


@dataclass
class Line:
    """One game in one source: a number, or a mean with its interval, a column."""

    game: str
    source: str
    length: str
    cells: dict[str, Interval | float]
    settings: dict[str, str] = field(default_factory=dict)  # which of several was best, by column

    def mean(self, column: str) -> float:
        cell = self.cells.get(column, np.nan)
        return cell.mean if isinstance(cell, Interval) else float(cell)


def lines(paper: Paper, published: Sequence[Numbers], configurations: Sequence[Configuration]) -> list[Line]:
    """Ours and the published ones of each game that was played: ours once for each kind of number there is."""
    found: dict[str, dict[str, list[Configuration]]] = {}
    for each in configurations:
        column = paper.column(each.counted[0].config) if each.counted else ""
        if column in paper.columns:
            found.setdefault(each.counted[0].environment, {}).setdefault(column, []).append(each)
    result = []
    for game, columns in found.items():
        plain = game.split(" (")[0].split("/")[-1].lower()
        beside = [numbers for numbers in published if plain in numbers.games]
        for measure in dict.fromkeys([numbers.measure for numbers in beside] or [paper.measure]):
            mine = ours(game, measure, columns)
            result += [mine] if mine.cells else []
            same = [numbers for numbers in beside if numbers.measure == measure]
            result += [Line(game, each.source, each.length, dict(each.games[plain])) for each in same]
    return result


def ours(game: str, measure: str, columns: Mapping[str, Sequence[Configuration]]) -> Line:
    """A game's runs, all at the last step that each of them has reached: nothing is extrapolated."""
    runs = [run for members in columns.values() for each in members for run in each.counted]
    steps = min(run.steps for run in runs)
    cells: dict[str, Interval | float] = {}
    settings, seeds = {}, set()
    for column, members in columns.items():
        scored = [(bootstrap_mean([MEASURES[measure](run, steps) for run in each.counted]), each) for each in members]
        cell, chosen = max(scored, key=lambda pair: (pair[0].n > 0, pair[0].mean))
        if cell.n:
            cells[column], settings[column] = cell, chosen.label if len(members) > 1 else ""
            seeds.add(cell.n)
    count = " to ".join(dict.fromkeys([str(min(seeds, default=0)), str(max(seeds, default=0))]))
    source = f"ours, {measure}, {count} seed{'' if count == '1' else 's'}"
    return Line(
        game, source, f"{spaced(steps)} {runs[0].axis.replace('env', 'environment').replace('_', ' ')}", cells, settings
    )


def markdown(paper: Paper, table: Sequence[Line]) -> str:
    """As a page shows it."""
    columns = [c for c in paper.columns if any(c in line.cells for line in table)]
    rows = [["game", "", "length", *columns]]
    for line in table:
        cells = [line.cells.get(column) for column in columns]
        rows.append([line.game, line.source, line.length, *("-" if c is None else _shown(c) for c in cells)])
    notes = [f"{line.game}, {column}: {name}" for line in table for column, name in line.settings.items() if name]
    chosen = ["", "Shown of several settings: " + "; ".join(dict.fromkeys(notes)) + "."] if notes else []
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
    """A panel a game, each bar with its number; scores of unlike games are drawn as parts of the first column's."""
    games = list(dict.fromkeys(line.game for line in table))
    figure = figure_of(max(8.5, 4.2 * len(games)), 5.0)
    names = []
    for axes, game in zip(figure.subplots(1, len(games), squeeze=False)[0], games, strict=True):
        members = [line for line in table if line.game == game]
        columns = [c for c in paper.columns if any(c in line.cells for line in members)]
        names.append(columns)
        relative = len(columns) > 1 and all(line.mean(columns[0]) > 0 for line in members)
        for index, line in enumerate(members):
            unit = line.mean(columns[0]) if relative else 1.0
            place = np.arange(len(columns)) + 0.8 * (index + 0.5) / len(members) - 0.4
            means = np.array([line.mean(column) for column in columns]) / unit
            ends = [
                (c.low / unit, c.high / unit) if isinstance(c, Interval) and c.known else (m, m)
                for c, m in zip((line.cells.get(column) for column in columns), means, strict=True)
            ]
            error = np.abs(np.array(ends).T - means)
            color, _ = style_of(index)
            label = f"{line.source}, {line.length}"
            bars = axes.bar(place, means, 0.8 / len(members), color=color, yerr=error, capsize=2, label=label)
            numbers = ["" if np.isnan(mean) else f"{mean * unit:.3g}" for mean in means]
            axes.bar_label(bars, numbers, padding=2, fontsize=7, color=INK)
        axes.set_title(game, parse_math=False)
        axes.set_ylabel(f"part of `{columns[0]}`" if relative else "score")
    letters = int(15 * figure.get_size_inches()[0])
    figure.suptitle(f"{paper.title}\n{fill(paper.caption, letters)}", fontsize=7, color=INK)
    dress(figure)
    for axes, columns in zip(figure.axes, names, strict=True):  # the house's look has numbers below
        axes.set_xticks(range(len(columns)), [c.replace(", ", ",\n") for c in columns])
        axes.set_xlim(-0.5, len(columns) - 0.5)
    save(figure, path)


def find(name: str) -> Paper:
    """The paper's table of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in PAPERS:
        raise ConfigError("paper", name, f"there are {', '.join(PAPERS)}{nearest(name, list(PAPERS))}")
    return PAPERS[name]


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
    (out / "paper.md").write_text(text, encoding="utf-8")
    (out / "paper.csv").write_text(comma_separated(paper, table), encoding="utf-8")
    draw(paper, table, out / "paper.png")
    return text
