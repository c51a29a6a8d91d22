"""Measures all-reduces on this machine, and how much processes that do not communicate slow each other down."""

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from downpour.processes import end_with

FITTED = (4_000, 40_000, 400_000, 4_000_000)  # bytes
HELD_OUT = (16_000, 160_000, 1_600_000)  # on which the model is tested
SIZES = FITTED + HELD_OUT
REPEATS = 30
WIDTH, BATCH = 512, 128  # of the network that every rank trains on its own
PATIENCE = 300  # timeout of a measurement, in seconds


def measure(
    counts: Sequence[int], repeats: int = REPEATS
) -> tuple[list[tuple[int, float, float]], dict[int, list[float]]]:
    """Measure all-reduces and gradient steps for each number of ranks: gloo on the loopback, one thread per rank.

    Returns:
        (ranks, bytes, median seconds) of all-reduces; and ranks -> seconds of each gradient step of a small network on
        rank 0, while all ranks make such steps without communicating.

    Raises:
        CalledProcessError: the measurement failed.
    """
    times, computing = [], {}
    for ranks, seconds, steps in fresh(__name__, list(counts), repeats):
        times += [(ranks, float(size), median) for size, median in zip(SIZES, seconds, strict=True)]
        computing[ranks] = steps
    return times, computing


def fresh(module: str, *arguments: Any) -> Any:
    """Run `python -m module` with arguments as JSON, and parse what it prints as JSON.

    In a new process, because the measurements fork theirs: that is cheaper than importing Torch in each of them.

    Raises:
        CalledProcessError: it failed.
    """
    command = [sys.executable, "-m", module, json.dumps(arguments)]
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return json.loads(subprocess.run(command, env=surroundings, capture_output=True, text=True, check=True).stdout)


def _measure(ranks: int, repeats: int) -> tuple[int, list[float], list[float]]:
    context = multiprocessing.get_context("fork")
    answers: Any = context.Queue()
    with tempfile.TemporaryDirectory(prefix="downpour-") as scratch:
        arguments = (ranks, f"file://{scratch}/meeting", repeats, answers)
        processes = [context.Process(target=_rank, args=(rank, *arguments), daemon=True) for rank in range(ranks)]
        for process in processes:
            process.start()
        try:
            return (ranks, *answers.get(timeout=PATIENCE))
        finally:
            for process in processes:
                process.join(10)
                process.kill()


def _rank(rank: int, ranks: int, rendezvous: str, repeats: int, answers: Any) -> None:
    end_with(os.getppid())
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=ranks)
    step = _gradient_step()
    _seconds(step)
    dist.barrier()
    computing = [_seconds(step) for _ in range(5 * repeats)]
    dist.barrier()
    medians = median_seconds(SIZES, repeats)
    if rank == 0:
        answers.put((medians, computing))
    dist.barrier()
    dist.destroy_process_group()


def median_seconds(sizes: Sequence[int], repeats: int = REPEATS) -> list[float]:
    """Median seconds of an all-reduce of each size, in bytes, in the default process group (a collective)."""
    medians = []
    for size in sizes:
        values = torch.zeros(size // 4)
        seconds = [_seconds(lambda: dist.all_reduce(values), before=dist.barrier) for _ in range(repeats + 3)]  # noqa: B023
        medians.append(statistics.median(seconds[3:]))
    return medians


def adding_time(size: int = 4_000_000) -> float:
    """Seconds per byte to add gradients."""
    total, values = torch.zeros(size // 4), torch.ones(size // 4)
    return statistics.median([_seconds(lambda: total.add_(values)) for _ in range(REPEATS)]) / size


def _gradient_step() -> Callable[[], Any]:
    network = torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, WIDTH))
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    inputs = torch.rand(BATCH, WIDTH)

    def step() -> None:
        optimizer.zero_grad()
        network(inputs).square().mean().backward()
        optimizer.step()

    return step


def _seconds(work: Callable[[], Any], before: Callable[[], Any] | None = None) -> float:
    if before is not None:
        before()
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


if __name__ == "__main__":
    counts, repeats = json.loads(sys.argv[1])
    print(json.dumps([_measure(ranks, repeats) for ranks in counts]))
