"""Shared by the benchmarks: runs of commands, speeds from timing.csv, tables of paired measurements.

The machine's speed drifts. Measurements are therefore taken in turn, and what counts are ratios within the same turn.
"""

import csv
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parent / "src"
TRAIN = str(SOURCES / "train.py")
RUNS = HERE.parent / "outputs" / "bench"


def run(command: Sequence[str], threads: int | None = 1) -> str:
    """Run this interpreter with a command, with the sources of this project; returns its standard output.

    Args:
        threads: of OpenMP; None leaves the default.

    Raises:
        SystemExit: the command failed; with its standard error.
    """
    limit = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), **limit}
    ended = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
    if ended.returncode:
        sys.exit(ended.stderr)
    return ended.stdout


def timing(directory: Path) -> list[dict[str, float]]:
    """The rows of a run's timing.csv; an empty cell is 0."""
    with open(directory / "timing.csv") as file:
        return [{name: float(value or 0) for name, value in row.items()} for row in csv.DictReader(file)]


def step_time(rows: Sequence[Mapping[str, float]]) -> float:
    """Mean seconds per step over rows of timing.csv, which cover the same number of steps each."""
    return statistics.mean(1 / row["time/steps_per_second"] for row in rows)


def compare(measures: Mapping[str, Callable[[], float]], turns: int) -> list[str]:
    """Take measurements in turn; the lines of a table.

    Args:
        measures: name -> measures steps per second. The first is compared with each.
    """
    first = next(iter(measures))
    found: dict[str, list[float]] = {name: [] for name in measures}
    for turn in range(turns):
        for name, measure in measures.items():
            found[name].append(measure())
            print(f"turn {turn + 1}  {name}: {found[name][-1]:.0f} steps/s", file=sys.stderr)
    lines = [f"| | steps/s (median) | {first} is faster by (median) | least | greatest |", "|---|---|---|---|---|"]
    for name, values in found.items():
        lines.append(f"| {name} | {statistics.median(values):.0f} | {ratio_cells(found[first], values)} |")
    return lines


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """The ratios of measurements of the same turn."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def ratio_cells(numerators: Sequence[float], denominators: Sequence[float]) -> str:
    """Median, minimum and maximum of the ratios, as cells of a table."""
    values = ratios(numerators, denominators)
    return " | ".join(f"{value:.2f}" for value in (statistics.median(values), min(values), max(values)))


def spread(values: Sequence[float]) -> str:
    """Median, minimum and maximum, in one cell."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
