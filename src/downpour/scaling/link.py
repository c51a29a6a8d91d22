"""What an all-reduce costs on this machine, measured with processes that do nothing else."""

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

SIZES = (4_000, 40_000, 400_000, 4_000_000)  # bytes
REPEATS = 30
PATIENCE = 300  # seconds until processes that do not answer are given up


def all_reduce_times(
    ranks: int, sizes: Sequence[int] = SIZES, repeats: int = REPEATS
) -> list[tuple[int, float, float]]:
    """(ranks, bytes, median seconds of an all-reduce) for each size, over gloo on the loopback, one thread a rank."""
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    with tempfile.TemporaryDirectory(prefix="downpour-") as scratch:
        arguments = (ranks, f"file://{scratch}/meeting", list(sizes), repeats, answers)
        processes = [context.Process(target=_rank, args=(rank, *arguments), daemon=True) for rank in range(ranks)]
        for process in processes:
            process.start()
        try:
            seconds = answers.get(timeout=PATIENCE)
        finally:
            for process in processes:
                process.join(10)
                process.kill()
    return [(ranks, float(size), found) for size, found in zip(sizes, seconds, strict=True)]


def _rank(rank: int, ranks: int, meeting: str, sizes: list[int], repeats: int, answers: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=ranks)
    found = []
    for size in sizes:
        values, seconds = torch.zeros(size // 4), []
        for _ in range(repeats + 3):
            dist.barrier()
            begin = time.perf_counter()
            dist.all_reduce(values)
            seconds.append(time.perf_counter() - begin)
        found.append(statistics.median(seconds[3:]))
    if rank == 0:
        answers.put(found)
    dist.barrier()
    dist.destroy_process_group()


def adding_time(size: int = 4_000_000) -> float:
    """Seconds to add up a byte of gradients."""
    total, values = torch.zeros(size // 4), torch.ones(size // 4)
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        total += values
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds) / size
