"""The results of a sweep as tables, one row per configuration."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from downpour.analysis.configurations import Configuration
from downpour.analysis.metrics import finite, headline, less_is_better, until
from downpour.analysis.runs import RunDirectory
from downpour.analysis.statistics import Floats, Interval, bootstrap_mean, interquartile_mean
from downpour.analysis.text import aligned, spaced

if TYPE_CHECKING:
    import pandas

LAST_EPISODES = 100


@dataclass(frozen=True)
class Row:
    """The results of one configuration; intervals are over its seeds.

    Attributes:
        label, axis: of the configuration, of its runs.
        metric: of `final`, `iqm` and `best`; "" if nothing was measured.
        seeds, failed: numbers of runs that are counted, and that failed.
        final, iqm: the last value: mean, interquartile mean.
        best: the best value of each run.
        training: mean return of each run's last training episodes.
        steps: the different lengths of the runs, in units of `axis`.
    """

    label: str
    axis: str
    metric: str
    seeds: int
    failed: int
    final: Interval
    iqm: float
    best: Interval
    training: Interval
    steps: Sequence[int]
    steps_per_second: float


def row(configuration: Configuration, metric: str | None = None) -> Row:
    """The results of one configuration by `metric` (default: see `headline`), without failed runs."""
    runs = configuration.counted
    name = metric or headline(runs) or ""
    final = [_final(run, name) for run in runs]
    return Row(
        label=configuration.label,
        axis=(runs or configuration.runs)[0].axis,
        metric=name,
        seeds=len(runs),
        failed=sum(run.status == "failed" for run in configuration.runs),
        final=bootstrap_mean(final),
        iqm=interquartile_mean(final),
        best=bootstrap_mean([_best(run, name) for run in runs]),
        training=bootstrap_mean([last_episodes(run) for run in runs]),
        steps=sorted({run.steps for run in runs}),
        steps_per_second=_mean([_speed(run) for run in runs]),
    )


def _final(run: RunDirectory, metric: str) -> float:
    """The last value: from the summary of a finished run, otherwise from metrics.csv."""
    value = run.summary.get(metric)
    if isinstance(value, (int, float)):
        return float(value)
    values = _values(run.metrics, metric)
    return float(values[-1]) if values.size else math.nan


def _best(run: RunDirectory, metric: str) -> float:
    values = _values(finite(run.metrics, metric), metric)
    if not values.size:
        return math.nan
    return float(values.min() if less_is_better(metric) else values.max())


def last_episodes(run: RunDirectory, steps: float = math.inf) -> float:
    """Mean return of the last 100 training episodes up to `steps`."""
    returns = _values(until(run.episodes, steps), "return")[-LAST_EPISODES:]
    return float(returns.mean()) if returns.size else math.nan


def _values(table: pandas.DataFrame, column: str) -> Floats:
    """The numbers in a column, in the order of the file; none if there is no such column."""
    return np.asarray(table[column].dropna() if column in table else [], dtype=np.float64)


def _speed(run: RunDirectory) -> float:
    speed = run.summary.get(f"{run.axis}_per_second")
    seconds = run.summary.get("wall_seconds")
    if speed is None and isinstance(seconds, (int, float)) and seconds > 0:
        speed = run.steps / seconds
    return float(speed) if isinstance(speed, (int, float)) else math.nan


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan


def markdown(rows: Sequence[Row]) -> str:
    """The rows as Markdown tables, one per metric, aligned for reading in a terminal; "" for no rows."""
    measured = list(dict.fromkeys((r.metric, r.axis) for r in rows if r.metric)) or [("", "steps")]
    # A configuration that measured nothing is listed in the first table.
    table_of = {id(r): (r.metric, r.axis) if r.metric else measured[0] for r in rows}
    return "\n\n".join(_markdown([r for r in rows if table_of[id(r)] == each], *each) for each in measured)


def _markdown(rows: Sequence[Row], metric: str, axis: str) -> str:
    columns: dict[str, Callable[[Row], str]] = {
        "configuration": lambda r: r.label.replace("|", "\\|"),
        "seeds": lambda r: f"{r.seeds}" + (f" (+{r.failed} failed)" if r.failed else ""),
        metric or "final": lambda r: (
            interval(r.final) + (f" ({r.final.n} of {r.seeds})" if 0 < r.final.n < r.seeds else "")
        ),
        "best": lambda r: interval(r.best),
        f"last {LAST_EPISODES} training episodes": lambda r: interval(r.training),
        axis: lambda r: " to ".join(dict.fromkeys(map(spaced, [*r.steps[:1], *r.steps[-1:]]))) or "-",
        "steps/s": lambda r: spaced(r.steps_per_second),
    }
    if all(r.training.n == 0 for r in rows):
        del columns[f"last {LAST_EPISODES} training episodes"]
    return "\n".join(aligned([list(columns), *([write(r) for write in columns.values()] for r in rows)], left=1))


def comma_separated(rows: Sequence[Row]) -> str:
    """The rows as CSV, with 10 digits, and intervals in separate columns; an empty cell for an undefined number."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    interval_columns = [f"{name}{end}" for name in ("final", "best", "training") for end in ("_mean", "_low", "_high")]
    head = ["configuration", "metric", "seeds", "failed", *interval_columns, "final_iqm", "axis", "steps"]
    writer.writerow([*head, "steps_per_second"])
    for r in rows:
        numbers = [v for each in (r.final, r.best, r.training) for v in (each.mean, each.low, each.high)]
        steps = max(r.steps) if r.steps else ""
        cells = [r.label, r.metric, r.seeds, r.failed, *map(_cell, [*numbers, r.iqm]), r.axis, steps]
        writer.writerow([*cells, _cell(r.steps_per_second)])
    return out.getvalue()


def _cell(value: float) -> str:
    return f"{value:.10g}" if math.isfinite(value) else ""


def interval(values: Interval) -> str:
    """Mean and interval, "488.7 [472.6, 500.0]"; the mean alone for one seed; "-" for none."""
    if values.n == 0:
        return "-"
    size = max(abs(v) for v in (values.mean, values.low, values.high) if math.isfinite(v))
    digits = 1 if size >= 100 else 2 if size >= 2 else 4
    if not values.known:
        return f"{values.mean:.{digits}f}"
    return f"{values.mean:.{digits}f} [{values.low:.{digits}f}, {values.high:.{digits}f}]"
