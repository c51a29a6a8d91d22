"""Measures pushes to the parameter servers of this project on this machine."""

import json
import multiprocessing
import os
import secrets
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from downpour.processes import end_with
from downpour.scaling.all_reduces import PATIENCE, fresh
from downpour.strategies.board import Board
from downpour.strategies.link import Link
from downpour.strategies.parameter_server import ParameterServer, ParameterSet
from downpour.strategies.transport import listen, serve

WORKERS = (1, 2)  # numbers of workers that the model is fitted to
HELD_OUT = 4  # workers, on which it is tested
SERVERS = (1, 2)
SIZES = (4_000, 400_000, 4_000_000)  # bytes
TENSORS = 8  # per size, divided equally between the servers
REPEATS = 5  # of each measurement; their median is used
BYTES = 40_000_000  # that a worker pushes per measurement, approximately

Pushes = list[tuple[int, int, float, float]]
"""(workers, servers, bytes, seconds between two pushes of all workers together)."""


def measure(pushed: int = BYTES) -> Pushes:
    """Measure pushes over the loopback: one thread per process, Adam on the servers, parameters in each answer.

    Args:
        pushed: bytes that a worker pushes per measurement; between 10 and 200 pushes are made.

    Raises:
        CalledProcessError: the measurement failed.
    """
    return [tuple(each) for each in fresh(__name__, (*WORKERS, HELD_OUT), SERVERS, SIZES, pushed)]


def _measure(workers: Sequence[int], servers: Sequence[int], sizes: Sequence[int], pushed: int) -> Pushes:
    context = multiprocessing.get_context("fork")
    token, most = secrets.token_bytes(32), max(workers)
    listeners = [listen("127.0.0.1", None) for _ in range(max(servers))]
    addresses = [listener.getsockname() for listener in listeners]
    barrier, answers = context.Barrier(most), context.Queue()
    plan = (workers, servers, sizes, pushed)
    processes: list[Any] = [
        context.Process(target=_server, args=(each, token, most), daemon=True) for each in listeners
    ]
    for rank in range(most):
        arguments = (rank, addresses, token, plan, barrier, answers)
        processes.append(context.Process(target=_worker, args=arguments, daemon=True))
    for process in processes:
        process.start()
    for each in listeners:
        each.close()
    try:
        return answers.get(timeout=PATIENCE)
    finally:
        for process in processes:
            process.kill()
            process.join()


def _server(listener: Any, token: bytes, workers: int) -> None:
    end_with(os.getppid())
    torch.set_num_threads(1)
    optimizer = partial(torch.optim.Adam, lr=1e-6, fused=True)
    server = ParameterServer(Board(workers, PATIENCE), partial(ParameterSet, make_optimizer=optimizer, bound=None))
    serve(listener, token, server.serve)


def _worker(rank: int, addresses: Any, token: bytes, plan: Any, barrier: Any, answers: Any) -> None:
    end_with(os.getppid())
    torch.set_num_threads(1)
    workers, servers, sizes, pushed = plan
    sets = [[torch.ones(size // 4 // TENSORS) for _ in range(TENSORS)] for size in sizes]
    pushes: Pushes = []
    for count in servers:
        link = Link(addresses[:count], token, rank, PATIENCE)
        link.divide(sets)
        if rank == 0:
            link.create(sets)
        barrier.wait()
        for number, (size, tensors) in enumerate(zip(sizes, sets, strict=True)):
            repeats = max(10, min(200, pushed // size))
            for active in workers:
                seconds = [_pushes(link, number, tensors, repeats, rank < active, barrier) for _ in range(REPEATS + 1)]
                pushes.append((active, count, float(size), statistics.median(seconds[1:]) / active))
    if rank == 0:
        answers.put(pushes)
    barrier.wait()


def _pushes(link: Link, number: int, tensors: list[torch.Tensor], count: int, active: bool, barrier: Any) -> float:
    """Seconds per push of each active worker, from the start of all until the last has finished."""
    barrier.wait()
    begin = time.perf_counter()
    for _ in range(count if active else 0):
        link.push(number, tensors, tensors)
    barrier.wait()
    return (time.perf_counter() - begin) / count


if __name__ == "__main__":
    print(json.dumps(_measure(*json.loads(sys.argv[1]))))
