"""The cost model of a scaling measurement: fitted to a part, tested on the rest, extrapolated to thousands of ranks."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.optimize import nnls

from downpour.analysis.text import spaced
from downpour.cost_model import ALL_REDUCE, Link, Server, fit, fit_server, ring, simulate, stops_paying, synchronous
from downpour.scaling.all_reduces import HELD_OUT
from downpour.scaling.plan import ALONE
from downpour.scaling.pushes import WORKERS, Pushes
from downpour.scaling.results import Row

BYTES = 4  # per weight, and per element of its gradient


@dataclass(frozen=True)
class Machine:
    """Measurements of this machine, besides the runs.

    Attributes:
        cores: number of cores.
        all_reduce: (ranks, bytes, seconds) of all-reduces.
        computing: ranks -> seconds of each step of one rank while all make such steps, including a single rank.
        gamma: seconds per byte to add gradients.
        pushes: to parameter servers.
    """

    cores: int
    all_reduce: Sequence[tuple[int, float, float]]
    computing: Mapping[int, Sequence[float]]
    gamma: float
    pushes: Pushes


@dataclass(frozen=True)
class Model:
    """The fitted cost model.

    Attributes:
        machine_cores: cores of this machine.
        link: alpha and beta from all-reduces of `fitted` ranks; gamma measured separately.
        server: from pushes of few workers.
        straggle: mean delay of a rank relative to its fastest step, from ranks that do not communicate.
        overhead: seconds per synchronous step that the rest does not explain: hooks, buckets, waking up.
        compute: size -> (seconds per step, seconds per sample) of one process.
        fitted: the numbers of ranks to which the model was fitted.
        effective_cores: ranks that this machine can run as fast as a single one; fewer than `machine_cores` where cores
            share caches, memory or hardware threads.
        errors: kind of held-out measurements -> (median relative error of the predictions, number of measurements).
    """

    machine_cores: int
    link: Link
    server: Server
    straggle: float
    overhead: float
    compute: dict[str, tuple[float, float]]
    fitted: list[int]
    effective_cores: float
    errors: dict[str, tuple[float, int]] = field(default_factory=dict)

    def step(
        self, size: str, weights: int, batch: float, ranks: int, *, how: str = "ring", shared: bool = True
    ) -> float:
        """Seconds per synchronous gradient step.

        Args:
            batch: samples of each rank.
            how: algorithm of the all-reduce, one of `ALL_REDUCE`.
            shared: all ranks are on this machine, and share its cores; otherwise each has its own machine.
        """
        fastest = self.one_process(size, batch) / (1 + self.straggle) * (self._slowdown(ranks) if shared else 1.0)
        link = self.shared_link(ranks) if shared else self.link
        seconds = synchronous(fastest, link, ranks, BYTES * weights, straggle=self.straggle, how=how)
        return seconds + self.overhead * (ranks > 1)

    def shared_link(self, ranks: int) -> Link:
        """The link on this machine, whose cores do its work too: more ranks than cores take turns."""
        return crowded(self.link, ranks / self.machine_cores)

    def _slowdown(self, ranks: int) -> float:
        """Factor by which ranks that share the cores of this machine slow each other down."""
        return max(1.0, ranks / self.effective_cores)

    def one_process(self, size: str, batch: float) -> float:
        """Seconds per gradient step of one process."""
        each, sample = self.compute[size]
        return each + sample * batch

    def server_rate(
        self, size: str, weights: int, batch: float, ranks: int, servers: int, *, shared: bool = False
    ) -> float:
        """Updates per second of asynchronous gradient descent, simulated.

        Args:
            shared: all ranks are on this machine, and share its cores with the servers.
        """
        n, crowd = BYTES * weights, self._slowdown(ranks) if shared else 1.0
        fastest, busy = crowd * self.one_process(size, batch) / (1 + self.straggle), self.server.busy(n, servers)
        found = simulate(fastest, ranks, busy, delay=crowd * self.server.own(n, servers), straggle=self.straggle)
        return found.rate

    def server_pays_to(self, size: str, weights: int, batch: float, servers: int) -> float:
        """The number of ranks from which on the servers are saturated."""
        n = BYTES * weights
        return stops_paying(self.one_process(size, batch), self.server.busy(n, servers), self.server.own(n, servers))


def crowded(link: Link, turns: float) -> Link:
    """The link where each core serves `turns` ranks, if that is more than one."""
    turns = max(1.0, turns)
    return Link(turns * link.alpha, turns * link.beta, turns * link.gamma)


def fit_model(rows: Sequence[Row], machine: Machine) -> Model:
    """Fit the model to a part of the measurements, and predict the rest.

    Held out are: the all-reduces of some sizes; the largest number of ranks that have a core each, if there is another
    such number above one; numbers of ranks that share cores, unless there are no others; pushes of more than two
    workers.

    Args:
        rows: of the scaling measurement; the synchronous ones determine the overhead.
    """
    machine_cores = machine.cores
    counts = sorted({r for r, _, _ in machine.all_reduce if r > 1})
    uncrowded = [r for r in counts if r <= machine_cores] or counts[:1]
    fitted = uncrowded[:-1] or uncrowded
    reduced = [
        (r, n, t / max(1.0, r / machine_cores)) for r, n, t in machine.all_reduce if r in fitted and n not in HELD_OUT
    ]
    mean = {r: statistics.fmean(seconds) for r, seconds in machine.computing.items()}
    effective_cores = machine_cores * min([1.0, *(mean[1] / mean[r] * max(1, r / machine_cores) for r in fitted)])
    delayed = machine.computing[fitted[-1]]
    model = Model(
        machine_cores=machine_cores,
        link=fit(reduced, machine.gamma),
        server=fit_server([push for push in machine.pushes if push[0] in WORKERS], machine_cores),
        straggle=statistics.fmean(delayed) / min(delayed) - 1,
        overhead=0.0,
        compute={size: _compute([r for r in rows if r.case.size == size]) for size in {r.case.size for r in rows}},
        fitted=fitted,
        effective_cores=effective_cores,
    )
    if seen := [r for r in _synchronous(rows) if r.case.devices in fitted]:
        # least squares of the relative errors
        missing = sum((1 - _predicted(model, r) / r.step) / r.step for r in seen)
        model = replace(model, overhead=max(0.0, missing / sum(1 / r.step**2 for r in seen)))
    return replace(model, errors=_errors(model, rows, machine))


def _errors(model: Model, rows: Sequence[Row], machine: Machine) -> dict[str, tuple[float, int]]:
    found: dict[str, list[float]] = {}

    def add(what: str, predicted: float, measured: float) -> None:
        found.setdefault(what, []).append(abs(predicted / measured - 1))

    def of(ranks: int) -> str:
        return f"N = {ranks}" + (f", which share {model.machine_cores} core(s)" if ranks > model.machine_cores else "")

    for ranks, size, seconds in machine.all_reduce:
        if ranks in model.fitted and size in HELD_OUT:
            add(f"all-reduce, sizes not fitted, {of(ranks)}", ring(model.shared_link(ranks), ranks, size), seconds)
        elif ranks > 1 and ranks not in model.fitted:
            add(f"all-reduce, {of(ranks)}", ring(model.shared_link(ranks), ranks, size), seconds)
    for workers, servers, size, seconds in machine.pushes:
        if workers not in WORKERS:
            add(f"pushes, {of(workers)}", model.server.seconds(workers, size, servers, model.machine_cores), seconds)
    for r in _synchronous(rows):
        if r.case.devices not in model.fitted:
            add(f"synchronous step, {of(r.case.devices)}", _predicted(model, r), r.step)
    for r in rows:
        case = r.case
        if r.staleness and case.servers and math.isfinite(r.step) and _plain(case.strategy):
            rate = model.server_rate(case.size, r.weights, case.batch, case.devices, case.servers, shared=True)
            add(f"asynchronous step, {of(case.devices)}", case.devices / rate, r.step)
    return {what: (statistics.median(errors), len(errors)) for what, errors in found.items()}


def _synchronous(rows: Sequence[Row]) -> list[Row]:
    """The rows that the model describes: an all-reduce of all gradients in each step, no options of the strategy."""
    of_all = [r for r in rows if 1 < r.case.devices == r.case.synchronous_replicas and math.isfinite(r.step)]
    return [r for r in of_all if _plain(r.case.strategy)]


def _plain(variant: str) -> bool:
    return all(option.startswith("strategy.servers=") for option in variant.split()[1:])


def _predicted(model: Model, row: Row) -> float:
    return model.step(row.case.size, row.weights, row.case.batch, row.case.devices)


def _compute(rows: Sequence[Row]) -> tuple[float, float]:
    """(seconds per step, seconds per sample), neither negative; with one batch size, all time is per sample."""
    alone = {r.case.batch: r.step for r in rows if r.case.strategy == ALONE and math.isfinite(r.step)}
    if len(alone) < 2:
        return 0.0, next((step / batch for batch, step in alone.items()), math.nan)
    batches, steps = np.array(list(alone)), np.array(list(alone.values()))
    (each, sample), _ = nnls(np.stack([1 / steps, batches / steps], 1), np.ones(len(steps)))
    return float(each), float(sample)


def report(model: Model, rows: Sequence[Row], servers: int) -> str:
    """The fitted parameters, the errors on held-out measurements, and where a parameter server is saturated."""
    link, server = model.link, model.server
    lines = [
        f"Fitted to N = {' and '.join(map(str, model.fitted))}: an all-reduce has alpha {1e6 * link.alpha:.1f} us "
        f"per message, beta {1e9 * link.beta:.3f} ns per byte,",
        f"gamma {1e9 * link.gamma:.3f} ns per byte reduced. A rank is delayed by {100 * model.straggle:.0f} % of "
        f"its fastest step on average; a synchronous step has",
        f"{1e3 * model.overhead:.2f} ms of overhead. Ranks that do not communicate compute as fast as "
        f"{model.effective_cores:.2f} cores would: E_N is at most {_efficiency_limit(model)}.",
        f"A push (fitted to N = 1 and 2) keeps a server busy for {1e6 * server.alpha:.1f} us and "
        f"{1e9 * server.beta:.3f} ns per byte of its shard,",
        f"and its worker for {1e6 * server.own_alpha:.1f} us per server and {1e9 * server.own_beta:.3f} ns per byte.",
        "",
        "Median relative error on measurements that were not fitted:",
        "",
        *(f"- {what}: {100 * error:.0f} % (of {count})" for what, (error, count) in model.errors.items()),
        "",
    ]
    bases = [r for r in rows if r.case.strategy == ALONE and r.case.batch]
    first = {r.case.size: r for r in reversed(bases)}
    for size, row in reversed(first.items()):
        most = model.server_pays_to(size, row.weights, row.case.batch, servers)
        what = f"{size or 'The model'} ({spaced(row.weights)} weights, {1000 * row.step:.2f} ms/step)"
        lines.append(f"{what}: {servers} parameter server(s) are saturated from N = {most:.1f} on.")
    return "\n".join(lines)


def _efficiency_limit(model: Model) -> str:
    return ", ".join(f"{min(1.0, model.effective_cores / r):.2f} (N = {r})" for r in model.fitted)


def curves(model: Model, row: Row, scaling: str, servers: int, most: int) -> tuple[list[int], dict[str, list[float]]]:
    """Predicted E_N of 1, 2, 4, ... ranks, each on its own machine: (ranks, name -> efficiencies)."""
    size, weights, batch = row.case.size, row.weights, row.case.batch
    ranks = [2**k for k in range(int(math.log2(most)) + 1)]
    if scaling == "strong":
        ranks = [n for n in ranks if n <= batch]
    share: Callable[[int], float] = (lambda n: batch / n) if scaling == "strong" else (lambda n: batch)
    one = model.one_process(size, batch)
    found: dict[str, list[float]] = {}
    for how in ALL_REDUCE:
        steps = [model.step(size, weights, share(n), n, how=how, shared=False) for n in ranks]
        found[how] = [one * share(n) / batch / step for n, step in zip(ranks, steps, strict=True)]
    rates = [model.server_rate(size, weights, share(n), n, servers) for n in ranks]
    name = f"parameter server, {servers}"
    found[name] = [one * rate * share(n) / batch / n for n, rate in zip(ranks, rates, strict=True)]
    return ranks, found
