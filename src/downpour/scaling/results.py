"""From finished runs to the numbers of a scaling measurement."""

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
    """What was measured of one case; times in seconds.

    Attributes:
        samples: of the task (environment steps, where the run counts those).
        weights: numbers that the model holds.
        rates: samples (or environment steps) a second, one a turn.
        efficiencies: E_N = T / (N T_N) of each turn, (1).
        step: seconds a gradient step of each copy of the model.
        bytes: that rank 0 sends (and receives, of servers) a gradient step; see `Parallelism.traffic`.
        communicating: part of the time in which the strategy says it did (rank 0; NaN where it cannot tell).
        waiting: part of a step in which a rank does not compute: what is left beyond the step of one process with the
            same batch. It communicates, waits for others, or shares a core.
        staleness: how many updates had it.
        steps_to, seconds_to: to the accuracy asked for, of each seed that reached it.
        failure: why there is nothing.
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
        """Samples a second, the median over turns."""
        return statistics.median(self.rates) if self.rates else math.nan

    @property
    def seconds(self) -> float:
        """T_N: the time of the task, without the start of the processes."""
        return self.samples / self.rate

    @property
    def efficiency(self) -> float:
        """E_N, the median over turns."""
        return statistics.median(self.efficiencies) if self.efficiencies else math.nan

    @property
    def mean_staleness(self) -> float:
        """Of an update; NaN where nothing is stale."""
        total = sum(self.staleness.values())
        return sum(s * count for s, count in self.staleness.items()) / total if total else math.nan

    @property
    def samples_to(self) -> float:
        """To the accuracy, over all processes: a stale gradient is worth less than a fresh one."""
        return statistics.median(self.steps_to) * self.case.samples if self.steps_to else math.nan

    @property
    def seconds_to(self) -> float:
        """To the accuracy, the median over the seeds that reached it."""
        return self.samples_to / self.rate


def rate(directory: Path, case: Case) -> float:
    """Samples (or environment steps) a second over all processes, without the start of the run."""
    table = read_csv(directory / "timing.csv")
    steps, speed = table.iloc[:, 0].to_numpy(float), table["time/steps_per_second"].to_numpy(float)
    taken = np.diff(steps, prepend=0)
    if len(taken) > 1:
        taken, speed = taken[1:], speed[1:]
    return float(taken.sum() / (taken / speed).sum()) * case.samples


def add(row: Row, directory: Path) -> None:
    """Add a turn's run to a row."""
    run = RunDirectory(directory)
    row.rates.append(rate(directory, row.case))
    sent = finite(run.metrics, "strategy/bytes_per_step")
    row.bytes = float(sent["strategy/bytes_per_step"].iloc[-1]) if len(sent) else 0.0
    timing = read_csv(directory / "timing.csv")
    if "time/communicating" in timing:
        row.communicating = float(timing["time/communicating"].iloc[-1])
    counts = read_csv(directory / "staleness.csv")
    total: Counter[int] = Counter()
    for staleness, updates in zip(counts.get("staleness", ()), counts.get("updates", ()), strict=True):
        total[int(staleness)] += int(updates)
    row.staleness = dict(sorted(total.items()))


def weights(directory: Path) -> int:
    """How many numbers the model of a run of one process holds."""
    state = torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True, mmap=True)["state_dict"]
    return sum(value.numel() for value in state.values() if value.is_floating_point())


def compare(rows: Iterable[Row]) -> None:
    """Fill in what follows from a row and that of one process: efficiency, time of a step, waiting."""
    rows = list(rows)
    alone = {(r.case.size, r.case.batch): r for r in rows if r.case.strategy == ALONE}
    whole: dict[str, Row] = {}
    for r in rows:
        if r.case.strategy == ALONE:
            whole.setdefault(r.case.size, r)  # the first is the task itself
    for r in rows:
        base = whole[r.case.size]
        r.weights = base.weights
        r.efficiencies = [mine / (r.case.devices * one) for mine, one in zip(r.rates, base.rates, strict=False)]
        if r.case.batch and r.rates:
            r.step = r.case.batch * r.case.copies / r.rate
            r.waiting = 1 - alone[r.case.size, r.case.batch].step / r.step if r.case.strategy != ALONE else 0.0


def reached(directory: Path, task: Task, wanted: float) -> int | None:
    """The gradient step of the first evaluation that is as good as `wanted`."""
    table = finite(RunDirectory(directory).metrics, task.monitor)
    sign = 1 if task.maximize else -1
    good = table[sign * table[task.monitor] >= sign * wanted] if len(table) else table
    return int(good.iloc[0, 0]) if len(good) else None


def length(directory: Path) -> int:
    """Steps that a run counted."""
    return RunDirectory(directory).steps
