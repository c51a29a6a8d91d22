"""The papers' own tables, ours beside the published numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from downpour.analysis.configurations import Configuration
from downpour.analysis.drawing import dress, figure_of, save, style_of
from downpour.analysis.metrics import finite
from downpour.analysis.overestimation import ESTIMATE, truth_of_best
from downpour.analysis.published import PUBLISHED, Numbers
from downpour.analysis.runs import RunDirectory
from downpour.analysis.statistics import Interval, bootstrap_mean
from downpour.analysis.table import interval, spaced
from downpour.config import ConfigError, nearest

Config = Mapping[str, Any]


def best_score(run: RunDirectory) -> float:
    """The highest average score of an evaluation, as Mnih et al. report it."""
    return float(finite(run.metrics, "eval/return_mean")["eval/return_mean"].max())


def overestimation(run: RunDirectory) -> float:
    """The last estimate minus what the best policy received."""
    return float(finite(run.metrics, ESTIMATE)[ESTIMATE].iloc[-1]) - truth_of_best(run)


def _class(node: Config) -> str:
    return str(node["_target_"]).rpartition(".")[2]


@dataclass(frozen=True)
class Paper:
    """A table: games down, columns across.

    Attributes:
        column: which column a run's configuration belongs to.
        measure: the number of a run.
        caption: the protocol.
    """

    title: str
    columns: Sequence[str]
    column: Callable[[Config], str]
    caption: str
    measure: Callable[[RunDirectory], float] = best_score


BEST = (
    "Ours is the mean over seeds of each run's highest evaluation, [95 % bootstrap interval]. Where a cell has several "
    "settings (learning rates) it shows the one whose mean is highest, which flatters. Published numbers follow the "
    "protocols that are named."
)
BIAS = (
    "The last mean of max_a Q minus what the best policy received (discounted); mean over seeds [95 % interval]. The "
    "paper shows curves and no numbers; overestimation.png has ours: median over seeds with 10 and 90 % quantiles, the "
    "truth as a line."
)
ABLATION = [f"{a} replay, {b} target Q" for a in ("with", "without") for b in ("with", "without")]
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
        overestimation,
    ),
}


@dataclass
class Line:
    """One game in one source: a number, or a mean with its interval, a column."""

    game: str
    source: str
    cells: dict[str, Interval | float]
    settings: dict[str, str] = field(default_factory=dict)  # which of several was best, by column

    def mean(self, column: str) -> float:
        cell = self.cells.get(column, np.nan)
        return cell.mean if isinstance(cell, Interval) else float(cell)


def lines(paper: Paper, published: Sequence[Numbers], configurations: Sequence[Configuration]) -> list[Line]:
    """Ours and the published ones of each game that was played."""
    found: dict[str, dict[str, list[Configuration]]] = {}
    for each in configurations:
        column = paper.column(each.counted[0].config) if each.counted else ""
        if column in paper.columns:
            found.setdefault(each.counted[0].environment, {}).setdefault(column, []).append(each)
    result = []
    for game, columns in found.items():
        cells, settings, steps, seeds = {}, {}, set(), set()
        for column, members in columns.items():
            scored = [(bootstrap_mean([paper.measure(run) for run in each.counted]), each) for each in members]
            cells[column], chosen = max(scored, key=lambda pair: pair[0].mean)
            steps |= {run.steps for run in chosen.counted}
            seeds.add(cells[column].n)
            settings[column] = chosen.label if len(members) > 1 else ""
        span = " to ".join(dict.fromkeys([spaced(min(steps)), spaced(max(steps))]))
        count = " to ".join(dict.fromkeys([str(min(seeds)), str(max(seeds))]))
        source = f"ours: {span} environment steps, {count} seed{'' if count == '1' else 's'}"
        result.append(Line(game, source, dict(cells), settings))
        plain = game.split(" (")[0].split("/")[-1].lower()
        for numbers in published:
            if plain in numbers.games:
                result.append(Line(game, numbers.source, dict(numbers.games[plain])))
    return result


def markdown(paper: Paper, table: Sequence[Line]) -> str:
    """As a page shows it."""
    columns = [c for c in paper.columns if any(c in line.cells for line in table)]
    rows = [["game", "", *columns]]
    for line in table:
        cells = [line.cells.get(column) for column in columns]
        rows.append([line.game, line.source, *("-" if c is None else _shown(c) for c in cells)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    text = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    notes = [f"{line.game}, {column}: {name}" for line in table for column, name in line.settings.items() if name]
    chosen = ["", "Shown of several settings: " + "; ".join(notes) + "."] if notes else []
    return "\n".join([f"## {paper.title}", "", text[0], rule, *text[1:], "", paper.caption, *chosen, ""])


def _shown(cell: Interval | float) -> str:
    return interval(cell) if isinstance(cell, Interval) else f"{cell:g}"


def comma_separated(paper: Paper, table: Sequence[Line]) -> str:
    """A row a number, at full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["game", "source", "column", "mean", "low", "high", "seeds"])
    for line in table:
        for column, cell in line.cells.items():
            known = isinstance(cell, Interval) and cell.known
            ends = [f"{cell.low:.10g}", f"{cell.high:.10g}"] if isinstance(cell, Interval) and known else ["", ""]
            count = cell.n if isinstance(cell, Interval) else ""
            writer.writerow([line.game, line.source, column, f"{line.mean(column):.10g}", *ends, count])
    return out.getvalue()


def draw(paper: Paper, table: Sequence[Line], path: Path) -> None:
    """A panel a game; scores of unlike games are drawn as parts of the first column's, where there are several."""
    games = list(dict.fromkeys(line.game for line in table))
    figure = figure_of(max(5.0, 4.2 * len(games)), 4.4)
    names = []
    for axes, game in zip(figure.subplots(1, len(games), squeeze=False)[0], games, strict=True):
        members = [line for line in table if line.game == game]
        columns = [c for c in paper.columns if any(c in line.cells for line in members)]
        names.append(columns)
        relative = len(columns) > 1 and all(line.mean(columns[0]) > 0 for line in members if columns[0] in line.cells)
        for index, line in enumerate(members):
            unit = line.mean(columns[0]) if relative and columns[0] in line.cells else 1.0
            place = np.arange(len(columns)) + 0.8 * (index + 0.5) / len(members) - 0.4
            means = np.array([line.mean(column) for column in columns]) / unit
            ends = [
                (c.low / unit, c.high / unit) if isinstance(c, Interval) and c.known else (m, m)
                for c, m in zip((line.cells.get(column) for column in columns), means, strict=True)
            ]
            error = np.abs(np.array(ends).T - means)
            color, _ = style_of(index)
            axes.bar(place, means, 0.8 / len(members), color=color, yerr=error, capsize=2, label=line.source)
        axes.set_title(game, parse_math=False)
        axes.set_ylabel(f"part of `{columns[0]}`" if relative else "score")
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
