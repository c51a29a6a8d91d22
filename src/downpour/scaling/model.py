"""The cost model of a measurement: fitted to some of it, tried on the rest, and carried on to thousands of ranks."""

import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls

from downpour.analysis.table import spaced
from downpour.cost_model import ALL_REDUCE, Link, fit, ring, service, simulate, stops_paying, synchronous
from downpour.scaling.plan import ALONE
from downpour.scaling.results import Row

BYTES = 4  # of a weight, or of its gradient

Measured = Sequence[tuple[int, float, float]]
"""(ranks, bytes, seconds) of an all-reduce."""


@dataclass(frozen=True)
class Model:
    """What was fitted.

    Attributes:
        link: alpha and beta from all-reduces of `fitted` ranks; gamma measured by itself.
        straggle: mean delay of a rank, in parts of its fastest step, from steps that ranks make without a word.
        overhead: seconds that a synchronous step of `fitted` ranks takes beside: hooks, buckets, waking up.
        compute: size -> (seconds a step, seconds a sample) of one process.
        fitted, unseen: numbers of ranks that it was fitted to, and those it was not.
        errors: what -> median relative error of its predictions on `unseen`, and how many they are.
        cores: ranks that this machine lets compute as fast as one alone. Fewer than it has, where they share caches,
            memory or what lies beneath a virtual core.
    """

    link: Link
    straggle: float
    overhead: float
    compute: dict[str, tuple[float, float]]
    fitted: list[int]
    unseen: list[int]
    errors: dict[str, tuple[float, int]]
    cores: float

    def step(
        self, size: str, weights: int, batch: float, ranks: int, *, how: str = "ring", shared: bool = True
    ) -> float:
        """Seconds a synchronous gradient step.

        Args:
            batch: samples of each rank.
            shared: all ranks are on this machine, and share its cores.
        """
        crowd = max(1.0, ranks / self.cores) if shared else 1.0
        fastest = self.of_one(size, batch) * crowd / (1 + self.straggle)
        seconds = synchronous(fastest, self.link, ranks, BYTES * weights, straggle=self.straggle, how=how)
        return seconds + self.overhead * (ranks > 1)

    def of_one(self, size: str, batch: float) -> float:
        """Seconds a gradient step of one process."""
        each, sample = self.compute[size]
        return each + sample * batch

    def server_rate(self, size: str, weights: int, batch: float, ranks: int, servers: int) -> tuple[float, float]:
        """(updates a second, mean staleness) of asynchronous gradient descent, simulated; a core for every rank."""
        fastest = self.of_one(size, batch) / (1 + self.straggle)
        busy = service(self.link, BYTES * weights, servers)
        found = simulate(fastest, ranks, busy, straggle=self.straggle)
        return found.rate, found.mean_staleness

    def server_pays_to(self, size: str, weights: int, batch: float, servers: int) -> float:
        """Ranks from which on the servers are never idle."""
        return stops_paying(self.of_one(size, batch), self.link, BYTES * weights, servers)


def fit_model(
    rows: Sequence[Row],
    times: Measured,
    gamma: float,
    computing: Mapping[int, Sequence[float]],
    synchronous_strategy: str = "ddp",
) -> Model:
    """Fit to all numbers of ranks but the greatest, where there are two or more beside one process.

    Args:
        rows: of the scaling measurement; those of `synchronous_strategy` tell of the overhead.
        times: of all-reduces.
        computing: ranks -> seconds of steps of one rank while all make such steps; of one rank by itself too.
    """
    ranks = sorted({r for r, _, _ in times if r > 1})
    unseen = ranks[-1:] if len(ranks) > 1 else []
    fitted = [r for r in ranks if r not in unseen]
    link = fit([t for t in times if t[0] in fitted], gamma)
    has = max(1, os.cpu_count() or 1)
    mean = {r: statistics.fmean(seconds) for r, seconds in computing.items()}
    cores = has * min([1.0, *(mean[1] / mean[r] * max(1, r / has) for r in fitted)])
    late = computing[fitted[-1]] if fitted else computing[1]
    straggle = statistics.fmean(late) / min(late) - 1
    compute = {size: _compute([r for r in rows if r.case.size == size]) for size in {r.case.size for r in rows}}
    model = Model(link, straggle, 0.0, compute, fitted, unseen, {}, cores)
    stepped = [r for r in rows if r.case.strategy == synchronous_strategy and math.isfinite(r.step)]
    seen = [r for r in stepped if r.case.devices in fitted]
    if seen:  # the overhead that makes the squares of the relative errors least
        missing = sum((1 - _predicted(model, r) / r.step) / r.step for r in seen)
        model = replace(model, overhead=max(0.0, missing / sum(1 / r.step**2 for r in seen)))
    errors = {}
    reduced = [abs(ring(link, r, n) / t - 1) for r, n, t in times if r in unseen]
    if reduced:
        errors["an all-reduce"] = (statistics.median(reduced), len(reduced))
    steps = [abs(_predicted(model, r) / r.step - 1) for r in stepped if r.case.devices in unseen]
    if steps:
        errors["a synchronous step"] = (statistics.median(steps), len(steps))
    return replace(model, errors=errors)


def _predicted(model: Model, row: Row) -> float:
    return model.step(row.case.size, row.weights, row.case.batch, row.case.devices)


def _compute(rows: Sequence[Row]) -> tuple[float, float]:
    """Seconds a step and a sample, neither negative; of one batch size only, all of it goes by the sample."""
    alone = {r.case.batch: r.step for r in rows if r.case.strategy == ALONE and math.isfinite(r.step)}
    if len(alone) < 2:
        return 0.0, next((step / batch for batch, step in alone.items()), math.nan)
    batches, steps = np.array(list(alone)), np.array(list(alone.values()))
    (each, sample), _ = nnls(np.stack([1 / steps, batches / steps], 1), np.ones(len(steps)))
    return float(each), float(sample)


def report(model: Model, rows: Sequence[Row], servers: int) -> str:
    """What was fitted, how far off it is, and where a parameter server stops paying."""
    link = model.link
    lines = [
        f"Fitted to {_and(model.fitted)} ranks: alpha {1e6 * link.alpha:.1f} us a message, "
        f"beta {1e9 * link.beta:.3f} ns a byte,",
        f"gamma {1e9 * link.gamma:.3f} ns a byte added up; a rank is late by {100 * model.straggle:.0f} % of its",
        f"fastest step in the mean; a synchronous step takes {1e3 * model.overhead:.2f} ms beside.",
        f"Ranks that say no word to each other compute here as fast as {model.cores:.2f} cores would, so that E_N",
        f"is at most {_most(model)}.",
    ]
    if model.errors:
        found = ", ".join(f"{what} {100 * error:.0f} % (median of {n})" for what, (error, n) in model.errors.items())
        lines.append(f"Error on {_and(model.unseen)} ranks, which the fit has not seen: {found}.")
    else:
        lines.append("No number of ranks is left that the fit has not seen: give three or more in devices=.")
    bases = [r for r in rows if r.case.strategy == ALONE and r.case.batch]
    first = {r.case.size: r for r in reversed(bases)}
    for size, row in reversed(first.items()):
        most = model.server_pays_to(size, row.weights, row.case.batch, servers)
        what = f"{size or 'The model'} ({spaced(row.weights)} weights, {1000 * row.step:.2f} ms a step)"
        lines.append(f"{what}: {servers} parameter server(s) stop paying at N = {most:.1f}.")
    return "\n".join(lines)


def _most(model: Model) -> str:
    ranks = [*model.fitted, *model.unseen]
    return ", ".join(f"{min(1.0, model.cores / r):.2f} (N = {r})" for r in ranks)


def _and(numbers: Sequence[int]) -> str:
    return " and ".join(map(str, numbers)) or "no"


def curves(model: Model, row: Row, scaling: str, servers: int, most: int) -> tuple[list[int], dict[str, list[float]]]:
    """E_N predicted for 1, 2, 4, ... ranks on machines of their own: (ranks, name -> efficiencies)."""
    size, weights, batch = row.case.size, row.weights, row.case.batch
    ranks = [2**k for k in range(int(math.log2(most)) + 1)]
    if scaling == "strong":
        ranks = [n for n in ranks if n <= batch]
    share: Callable[[int], float] = (lambda n: batch / n) if scaling == "strong" else (lambda n: batch)
    one = model.of_one(size, batch)
    found: dict[str, list[float]] = {}
    for how in ALL_REDUCE:
        steps = [model.step(size, weights, share(n), n, how=how, shared=False) for n in ranks]
        found[how] = [one * share(n) / batch / step for n, step in zip(ranks, steps, strict=True)]
    rates = [model.server_rate(size, weights, share(n), n, servers)[0] for n in ranks]
    name = f"parameter server, {servers}"
    found[name] = [one * rate * share(n) / batch / n for n, rate in zip(ranks, rates, strict=True)]
    return ranks, found
