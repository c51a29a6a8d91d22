"""What an all-reduce costs on this machine, and what its processes take from each other."""

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

SIZES = (4_000, 40_000, 400_000, 4_000_000)  # bytes
REPEATS = 30
WIDTH, BATCH = 512, 128  # of the network that every rank trains by itself
PATIENCE = 300  # seconds until processes that do not answer are given up


def measure(
    ranks: int, sizes: Sequence[int] = SIZES, repeats: int = REPEATS
) -> tuple[list[tuple[int, float, float]], list[float]]:
    """Over gloo on the loopback, one thread a rank: (ranks, bytes, median seconds of an all-reduce) for each size; and
    seconds of gradient steps of a small network on one rank, while all make such steps and none says a word.
    """
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    with tempfile.TemporaryDirectory(prefix="downpour-") as scratch:
        arguments = (ranks, f"file://{scratch}/meeting", list(sizes), repeats, answers)
        processes = [context.Process(target=_rank, args=(rank, *arguments), daemon=True) for rank in range(ranks)]
        for process in processes:
            process.start()
        try:
            seconds, computing = answers.get(timeout=PATIENCE)
        finally:
            for process in processes:
                process.join(10)
                process.kill()
    return [(ranks, float(size), found) for size, found in zip(sizes, seconds, strict=True)], computing


def _rank(rank: int, ranks: int, meeting: str, sizes: list[int], repeats: int, answers: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=ranks)
    step = _gradient_step()
    _seconds(step)
    dist.barrier()
    computing = [_seconds(step) for _ in range(5 * repeats)]
    dist.barrier()
    found = []
    for size in sizes:
        values = torch.zeros(size // 4)
        seconds = [_seconds(lambda: dist.all_reduce(values), before=dist.barrier) for _ in range(repeats + 3)]  # noqa: B023
        found.append(statistics.median(seconds[3:]))
    if rank == 0:
        answers.put((found, computing))
    dist.barrier()
    dist.destroy_process_group()


def adding_time(size: int = 4_000_000) -> float:
    """Seconds to add up a byte of gradients."""
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
