"""How much memory something needs at its peak."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def peak_of(work: Callable[[], Any]) -> int:
    """Bytes by which the resident memory of a process of its own grows at most while it does `work`.

    Modules that `work` imports count unless the caller has imported them.
    """
    context = multiprocessing.get_context("fork")  # at once: nothing is imported anew
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(work, theirs))
    process.start()
    theirs.close()
    try:
        return int(ours.recv())
    finally:
        process.join()


def _measure(work: Callable[[], Any], to: Any) -> None:
    torch.set_num_threads(1)  # those of the parent are not in this process
    before = _resident("VmRSS")
    work()
    to.send(_resident("VmHWM") - before)


def _resident(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))
