"""A cost model of distributed training, in seconds: collectives, a parameter server, stragglers, asynchrony.

Messages follow Hockney's model: n bytes take alpha + n beta seconds between two processes, however many others talk at
the same time; adding up n bytes takes n gamma. Sizes are in bytes, times in seconds.
"""

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares, nnls


@dataclass(frozen=True)
class Link:
    """alpha: seconds a message; beta: seconds a byte sent; gamma: seconds a byte that is added up."""

    alpha: float
    beta: float
    gamma: float = 0.0


def ring(link: Link, ranks: int, size: float) -> float:
    """Reduce-scatter, then all-gather, around a ring: 2 (p - 1) alpha + 2 n (p-1)/p beta + n (p-1)/p gamma."""
    part = size * (ranks - 1) / ranks
    return 2 * (ranks - 1) * link.alpha + 2 * part * link.beta + part * link.gamma


def recursive_doubling(link: Link, ranks: int, size: float) -> float:
    """All of it exchanged with a partner, lg p times (rounded up): lg p (alpha + n beta + n gamma)."""
    return _rounds(ranks) * (link.alpha + size * (link.beta + link.gamma))


def rabenseifner(link: Link, ranks: int, size: float) -> float:
    """Halving, then doubling, of what is exchanged: the ring's bytes in 2 lg p messages (Thakur et al. 2005, 4.5)."""
    part = size * (ranks - 1) / ranks
    return 2 * _rounds(ranks) * link.alpha + 2 * part * link.beta + part * link.gamma


def parameter_server(link: Link, ranks: int, size: float, servers: int = 1) -> float:
    """All ranks push a gradient and pull the parameters, one after another: 2 N (alpha + n beta / S) + N n gamma / S.

    Linear in the number of ranks, where a collective's latency is logarithmic and its bytes are bounded.
    """
    return ranks * service(link, size, servers)


def service(link: Link, size: float, servers: int = 1) -> float:
    """How long one rank's push and pull keep each of S servers busy, which hold a part of the parameters each."""
    return 2 * (link.alpha + size / servers * link.beta) + size / servers * link.gamma


def _rounds(ranks: int) -> int:
    return math.ceil(math.log2(ranks))


ALL_REDUCE: dict[str, Callable[[Link, int, float], float]] = {
    "ring": ring,
    "recursive doubling": recursive_doubling,
    "Rabenseifner": rabenseifner,
}


def slowest(compute: float, ranks: int, straggle: float) -> float:
    """Mean time until the last of the ranks has its gradient, if each takes compute (1 + straggle X), X ~ Exp(1).

    The largest of p such X is H_p = 1 + 1/2 + ... + 1/p on average: waiting grows with the logarithm of the ranks.
    """
    harmonic = sum(1 / k for k in range(1, ranks + 1))
    return compute * (1 + straggle * harmonic)


def synchronous(
    compute: float, link: Link, ranks: int, size: float, *, straggle: float = 0.0, how: str = "ring"
) -> float:
    """Seconds a gradient step of all ranks: the slowest gradient, then the all-reduce (nothing overlaps)."""
    communication = ALL_REDUCE[how](link, ranks, size) if ranks > 1 else 0.0
    return slowest(compute, ranks, straggle) + communication


@dataclass(frozen=True)
class Asynchronous:
    """Result of a simulation: updates per second, and the number of updates by staleness."""

    rate: float
    staleness: dict[int, int]

    @property
    def mean_staleness(self) -> float:
        """Updates by others between a worker's fetch and the arrival of its gradient, on average."""
        return sum(s * count for s, count in self.staleness.items()) / sum(self.staleness.values())


def simulate(
    compute: float,
    ranks: int,
    busy: float,
    *,
    delay: float = 0.0,
    straggle: float = 0.0,
    updates: int = 2_000,
    seed: int = 0,
) -> Asynchronous:
    """Asynchronous gradient descent, event by event.

    Each rank computes for compute (1 + straggle X), X ~ Exp(1), waits until the server has served those before it, is
    served for `busy` seconds (its push, the update, its pull) and goes on with the new parameters. Without stragglers
    the rate is min(N / (compute + busy + delay), 1 / busy) and the staleness N - 1.

    Args:
        delay: seconds a round trip that keep nobody busy.
        updates: counted; as many as there are ranks, at least a tenth of them, pass before.
    """
    rng = np.random.default_rng(seed)
    warm = max(ranks, updates // 10)
    fetched = [0] * ranks
    arrivals = [(compute * (1 + straggle * rng.exponential()) + delay / 2, rank) for rank in range(ranks)]
    heapq.heapify(arrivals)
    free = begin = 0.0
    staleness: Counter[int] = Counter()
    for version in range(warm + updates):
        arrival, rank = arrivals[0]
        free = max(free, arrival) + busy
        if version == warm - 1:
            begin = free
        elif version >= warm:
            staleness[version - fetched[rank]] += 1
        fetched[rank] = version + 1
        again = free + delay + compute * (1 + straggle * rng.exponential())
        heapq.heapreplace(arrivals, (again, rank))
    return Asynchronous(updates / (free - begin), dict(sorted(staleness.items())))


def stops_paying(compute: float, busy: float, delay: float = 0.0) -> float:
    """The number of ranks from which on a parameter server is never idle, so that more ranks give no more updates.

    Args:
        compute: seconds of a gradient.
        busy: that a push keeps the server busy.
        delay: of the rest of the round trip.
    """
    return (compute + busy + delay) / busy if busy else math.inf


@dataclass(frozen=True)
class Server:
    """What a push of n bytes, answered with the parameters, costs on S servers that keep n / S bytes each.

    Attributes:
        alpha, beta: seconds a push, and a byte of its part, that keep each server busy.
        own_alpha, own_beta: seconds a server, and a byte in all, that the worker spends by itself on sending and
            receiving.
    """

    alpha: float
    beta: float
    own_alpha: float
    own_beta: float

    def busy(self, size: float, servers: int = 1) -> float:
        """Seconds that a push keeps each of the servers busy, all at the same time."""
        return self.alpha + self.beta * size / servers

    def own(self, size: float, servers: int = 1) -> float:
        """Seconds of a push in which the worker is busy and the servers are not."""
        return self.own_alpha * servers + self.own_beta * size

    def seconds(self, workers: int, size: float, servers: int = 1, cores: float = math.inf) -> float:
        """Between two pushes of all workers together, which do nothing else: the servers are never idle, or each worker
        has one push under way at any time, or all cores work."""
        busy, own = self.busy(size, servers), self.own(size, servers)
        return max(busy, (busy + own) / workers, (servers * busy + own) / cores)


def fit_server(measured: Iterable[tuple[int, int, float, float]], cores: float = math.inf) -> Server:
    """Fit a `Server` to measured times of pushes: non-negative least squares of relative errors.

    Args:
        measured: (workers, servers, bytes, seconds between two pushes of all workers together). To tell a worker's
            time from a server's, it takes pushes of one and of more workers, to one and to more servers.
    """
    rows = list(measured)

    def off(logs: np.ndarray) -> list[float]:
        server = Server(*np.exp(logs))
        return [math.log(server.seconds(w, n, s, cores) / t) for w, s, n, t in rows]

    message, byte = min(t for *_, t in rows) / 4, min(t / n for _, _, n, t in rows) / 4
    starts = [(message * a, byte * b, message / a, byte / b) for a in (0.3, 3) for b in (0.3, 3)]
    found = [least_squares(off, np.log(start), loss="soft_l1", f_scale=0.1) for start in starts]
    return Server(*map(float, np.exp(min(found, key=lambda each: each.cost).x)))


def fit(
    measured: Iterable[tuple[int, float, float]], gamma: float = 0.0, how: Callable[[Link, int, float], float] = ring
) -> Link:
    """Fit alpha and beta to measured times of an all-reduce: non-negative least squares of relative errors.

    Args:
        measured: (ranks, bytes, seconds).
        gamma: measured by itself, as bytes sent and bytes added up always come together.
        how: which all-reduce it was; its time must be linear in alpha and beta.
    """
    rows = [(ranks, size, seconds) for ranks, size, seconds in measured if ranks > 1]
    ones = [[how(Link(1, 0), r, n) / t, how(Link(0, 1), r, n) / t] for r, n, t in rows]
    rest = [1 - how(Link(0, 0, gamma), r, n) / t for r, n, t in rows]
    (alpha, beta), _ = nnls(np.array(ones), np.maximum(rest, 0))
    return Link(float(alpha), float(beta), gamma)
