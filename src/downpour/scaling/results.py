"""Computes the numbers of a scaling measurement from finished runs."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from downpour.analysis.metrics import finite
from downpour.analysis.runs import RunDirectory, read_csv
from downpour.scaling.plan import ALONE, Case, Task


@dataclass
class Row:
    """The measurements of one case; times in seconds.

    Attributes:
        samples: of the task (environment steps, if the run counts those).
        weights: number of weights of the model.
        rates: samples (or environment steps) per second, one per turn.
        efficiencies: E_N = T / (N T_N), (1), one per turn.
        step: seconds per gradient step of each replica; NaN if the run counts environment steps.
        bytes: sent by rank 0 (with servers, also received) per gradient step; see `Parallelism.traffic`.
        communicating: fraction of time that rank 0 spent communicating; NaN if the strategy does not measure it.
        waiting: fraction of a step in which a rank does not compute, but communicates, waits, or shares a core: the
            time beyond a step of one process with the same batch.
        staleness: staleness -> number of updates.
        steps_to: steps to the target accuracy, of each seed that reached it.
        seeds: number of seeds that were trained to the target accuracy.
        failure: the error of a run that failed.
    """

    case: Case
    samples: int
    weights: int = 0
    rates: list[float] = field(default_factory=list)
    efficiencies: list[float] = field(default_factory=list)
    step: float = math.nan
    bytes: float = math.nan
    communicating: float = math.nan
    waiting: float = math.nan
    staleness: dict[int, int] = field(default_factory=dict)
    steps_to: list[int] = field(default_factory=list)
    seeds: int = 0
    failure: str = ""

    @property
    def rate(self) -> float:
        """Samples per second, the median over turns."""
        return statistics.median(self.rates) if self.rates else math.nan

    @property
    def seconds(self) -> float:
        """T_N: the time of the task, without the start-up of the processes."""
        return self.samples / self.rate

    @property
    def efficiency(self) -> float:
        """E_N, the median over turns."""
        return statistics.median(self.efficiencies) if self.efficiencies else math.nan

    @property
    def mean_staleness(self) -> float:
        """Mean over updates; NaN for a synchronous run."""
        total = sum(self.staleness.values())
        return sum(s * count for s, count in self.staleness.items()) / total if total else math.nan

    @property
    def samples_to(self) -> float:
        """Samples of all processes to the target accuracy, the median over the seeds that reached it."""
        return statistics.median(self.steps_to) * self.case.samples if self.steps_to else math.nan

    @property
    def seconds_to(self) -> float:
        """Time to the target accuracy, the median over the seeds that reached it."""
        return self.samples_to / self.rate


def rate(directory: Path, case: Case) -> float:
    """Samples (or environment steps) per second of all processes, without the start of the run."""
    table = read_csv(directory / "timing.csv")
    steps, speed = table.iloc[:, 0].to_numpy(float), table["time/steps_per_second"].to_numpy(float)
    intervals = np.diff(steps, prepend=0)
    if len(intervals) > 1:
        intervals, speed = intervals[1:], speed[1:]
    return float(intervals.sum() / (intervals / speed).sum()) * case.samples


def add(row: Row, directory: Path) -> None:
    """Add the run of one turn to a row."""
    run = RunDirectory(directory)
    row.rates.append(rate(directory, row.case))
    traffic = finite(run.metrics, "strategy/bytes_per_step")
    row.bytes = float(traffic["strategy/bytes_per_step"].iloc[-1]) if len(traffic) else 0.0
    timing = read_csv(directory / "timing.csv")
    if "time/communicating" in timing:
        row.communicating = float(timing["time/communicating"].iloc[-1])
    counts = read_csv(directory / "staleness.csv")
    total: Counter[int] = Counter()
    for staleness, updates in zip(counts.get("staleness", ()), counts.get("updates", ()), strict=True):
        total[int(staleness)] += int(updates)
    row.staleness = dict(sorted(total.items()))


def weights(directory: Path) -> int:
    """Number of weights of the model, target networks included, from the checkpoint of a run of one process."""
    state = torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True, mmap=True)["state_dict"]
    return sum(value.numel() for value in state.values() if value.is_floating_point())


def bases(rows: Iterable[Row]) -> dict[str, Row]:
    """Size -> the row of one process with the batch of the task, with which the others are compared: the first."""
    return {r.case.size: r for r in reversed(list(rows)) if r.case.strategy == ALONE}


def compare(rows: Iterable[Row]) -> None:
    """Compute what depends on the row of one process: efficiencies, step time, waiting."""
    rows = list(rows)
    single = {(r.case.size, r.case.batch): r for r in rows if r.case.strategy == ALONE}
    base_of = bases(rows)
    for r in rows:
        base = base_of[r.case.size]
        r.weights = base.weights
        r.efficiencies = [mine / (r.case.devices * one) for mine, one in zip(r.rates, base.rates, strict=False)]
        alone = single[r.case.size, r.case.batch]
        r.waiting = 1 - r.rate / (r.case.replicas * alone.rate) if r is not alone else 0.0
        if r.case.steps:  # otherwise the rate is one of environment steps
            r.step = r.case.batch * r.case.replicas / r.rate


def reached(directory: Path, task: Task, wanted: float) -> int | None:
    """The gradient step of the first evaluation that reaches `wanted`; None if there is none."""
    table = finite(RunDirectory(directory).metrics, task.monitor)
    sign = 1 if task.maximize else -1
    reaching = table[sign * table[task.monitor] >= sign * wanted] if len(table) else table
    return int(reaching.iloc[0, 0]) if len(reaching) else None


def length(directory: Path) -> int:
    """Length of a run, in the steps that it counts."""
    return RunDirectory(directory).steps
