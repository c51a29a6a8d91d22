"""The cost model against numbers worked out by hand, closed forms, and an all-reduce made message by message."""

import math

import numpy as np
import pytest

from downpour.cost_model import (
    ALL_REDUCE,
    Link,
    Server,
    fit,
    fit_server,
    parameter_server,
    rabenseifner,
    recursive_doubling,
    ring,
    service,
    simulate,
    slowest,
    stops_paying,
    synchronous,
)

LINK = Link(alpha=10.0, beta=2.0, gamma=0.5)


@pytest.mark.parametrize(
    ("how", "ranks", "size", "seconds"),
    [
        (ring, 2, 8, 2 * 10 + 2 * 4 * 2 + 4 * 0.5),
        (ring, 4, 8, 6 * 10 + 2 * 6 * 2 + 6 * 0.5),
        (recursive_doubling, 4, 8, 2 * (10 + 8 * 2 + 8 * 0.5)),
        (recursive_doubling, 5, 8, 3 * (10 + 8 * 2 + 8 * 0.5)),
        (rabenseifner, 4, 8, 4 * 10 + 2 * 6 * 2 + 6 * 0.5),
        (rabenseifner, 1024, 1024, 20 * 10 + 2 * 1023 * 2 + 1023 * 0.5),
        (parameter_server, 3, 8, 3 * (20 + 2 * 8 * 2 + 8 * 0.5)),
    ],
)
def test_formulas_against_numbers_worked_out_by_hand(how, ranks: int, size: int, seconds: float) -> None:  # type: ignore[no-untyped-def]
    assert how(LINK, ranks, size) == pytest.approx(seconds)
    if how is not parameter_server:
        assert how(LINK, 1, size) == 0


def test_a_ring_costs_what_its_messages_cost_one_by_one() -> None:
    """Every rank adds up and passes on blocks of n / p bytes: the longest chain of messages, counted."""
    ranks, size = 6, 60
    values = np.arange(ranks * ranks, dtype=float).reshape(ranks, ranks)  # [rank, block]
    blocks, seconds = values.copy(), 0.0
    for step in range(ranks - 1):
        sent = [(rank, (rank - step) % ranks, blocks[rank, (rank - step) % ranks]) for rank in range(ranks)]
        for rank, block, value in sent:
            blocks[(rank + 1) % ranks, block] += value
        seconds += LINK.alpha + size / ranks * (LINK.beta + LINK.gamma)
    for step in range(ranks - 1):
        sent = [(rank, (rank + 1 - step) % ranks, blocks[rank, (rank + 1 - step) % ranks]) for rank in range(ranks)]
        for rank, block, value in sent:
            blocks[(rank + 1) % ranks, block] = value
        seconds += LINK.alpha + size / ranks * LINK.beta
    assert np.array_equal(blocks, np.tile(values.sum(0), (ranks, 1)))
    assert ring(LINK, ranks, size) == pytest.approx(seconds)


def test_the_server_is_linear_and_shards_divide_its_bytes() -> None:
    assert parameter_server(LINK, 20, 100) == pytest.approx(2 * parameter_server(LINK, 10, 100))
    wide = Link(alpha=0, beta=2, gamma=0.5)
    assert parameter_server(wide, 10, 100, servers=5) == pytest.approx(parameter_server(wide, 10, 100) / 5)
    latency = Link(alpha=1, beta=0)
    growth = [how(latency, 4096, 1) / how(latency, 64, 1) for how in ALL_REDUCE.values()]
    assert growth == pytest.approx([4095 / 63, 2, 2])  # log N holds for the latency of two of the three


def test_the_slowest_of_exponential_delays() -> None:
    draws = 3.0 * (1 + 0.4 * np.random.default_rng(0).exponential(size=(20_000, 8)))
    assert slowest(3.0, 8, 0.4) == pytest.approx(draws.max(1).mean(), rel=0.01)
    assert slowest(3.0, 8, 0.0) == 3.0
    assert synchronous(3.0, LINK, 1, 8, straggle=0.4) == pytest.approx(3 * 1.4)
    assert synchronous(3.0, LINK, 4, 8, how="Rabenseifner") == pytest.approx(3 + rabenseifner(LINK, 4, 8))


@pytest.mark.parametrize("ranks", [1, 2, 5, 6, 40])
def test_without_stragglers_the_simulation_is_the_closed_form(ranks: int) -> None:
    """compute 4, delay 1, busy 1: six ranks keep the server busy all the time."""
    found = simulate(4.0, ranks, 1.0, delay=1.0, updates=1_200)
    assert found.rate == pytest.approx(min(ranks / 6, 1.0), rel=1e-2)
    assert found.staleness == {ranks - 1: 1_200}


def test_stragglers_spread_the_staleness_and_do_not_hold_up_the_others() -> None:
    """With a free server, the rate is that of independent ranks; the mean staleness stays N - 1, as each waits for all
    others on average."""
    found = simulate(4.0, 8, 1e-9, straggle=0.5, updates=20_000)
    assert found.rate == pytest.approx(8 / (4.0 * 1.5), rel=0.02)
    assert found.mean_staleness == pytest.approx(7, rel=0.02)
    assert len(found.staleness) > 5 and min(found.staleness) < 7 < max(found.staleness)
    assert simulate(4.0, 8, 1e-9, straggle=0.5, seed=1) != found


def test_where_a_server_stops_paying() -> None:
    link, compute, size = Link(alpha=0.5, beta=0.01, gamma=0.01), 29.0, 100.0
    most = stops_paying(compute, service(link, size))
    assert service(link, size) == pytest.approx(1 + 2 + 1) and most == pytest.approx(33 / 4)
    rates = {ranks: simulate(compute, ranks, service(link, size)).rate for ranks in (4, 8, 9, 16)}
    assert rates[8] / rates[4] == pytest.approx(2, rel=0.01)
    assert rates[16] == pytest.approx(rates[9], rel=0.01) == pytest.approx(1 / 4, rel=0.01)
    assert stops_paying(compute, 4.0, delay=3.0) == pytest.approx(36 / 4)
    assert stops_paying(compute, 0.0) == math.inf


def test_a_fit_finds_what_made_the_times() -> None:
    truth = Link(3e-5, 4e-10, 1e-10)
    grid = [(ranks, size) for ranks in (1, 2, 3) for size in (1e3, 1e5, 1e7)]
    found = fit([(r, n, ring(truth, r, n)) for r, n in grid], gamma=truth.gamma)
    assert (found.alpha, found.beta, found.gamma) == pytest.approx((3e-5, 4e-10, 1e-10))
    rng = np.random.default_rng(0)
    noisy = fit([(r, n, ring(truth, r, n) * rng.uniform(0.9, 1.1)) for r, n in grid * 20], gamma=truth.gamma)
    assert (noisy.alpha, noisy.beta) == pytest.approx((3e-5, 4e-10), rel=0.05)
    assert fit([(2, 1e6, 1e-9)], gamma=1.0).beta == 0  # never negative


def test_pushes_wait_for_the_server_the_worker_or_a_core() -> None:
    server = Server(alpha=3, beta=0.1, own_alpha=1, own_beta=0.2)
    assert server.busy(100) == 13 and server.busy(100, 2) == 8 and server.own(100, 2) == 22
    assert server.seconds(1, 100) == 13 + 21
    assert server.seconds(2, 100) == (13 + 21) / 2
    assert server.seconds(9, 100) == 13  # the server's turn
    assert server.seconds(9, 100, 2) == 8
    assert server.seconds(9, 100, 2, cores=2) == (2 * 8 + 22) / 2
    rates = {workers: simulate(0.0, workers, server.busy(100), delay=server.own(100)).rate for workers in (1, 2, 9)}
    assert [1 / rates[w] for w in (1, 2, 9)] == pytest.approx([server.seconds(w, 100) for w in (1, 2, 9)], rel=0.01)


def test_a_fit_of_pushes_tells_the_servers_time_from_the_workers() -> None:
    truth = Server(1e-4, 4e-10, 5e-5, 3e-10)
    seen = [(w, s, n, truth.seconds(w, n, s)) for w in (1, 2) for s in (1, 2) for n in (4e3, 4e5, 4e6)]
    found = fit_server(seen)
    assert (found.alpha, found.beta) == pytest.approx((truth.alpha, truth.beta), rel=1e-3)
    assert (found.own_alpha, found.own_beta) == pytest.approx((truth.own_alpha, truth.own_beta), rel=1e-3)
    assert found.seconds(16, 1e6, 2) == pytest.approx(truth.seconds(16, 1e6, 2), rel=1e-3)
