"""Measures how long a GPU is busy, without synchronizing with it."""

from typing import Any

import torch


class GpuClock:
    """Sums the time that the GPU's stream takes from the begin to the end of each timed block.

    Time outside these blocks counts as idle. Inside, a GPU that waits for its next kernel counts as busy: with CUDA
    graphs there is no such wait within a gradient step.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._begin: Any = None
        self._pairs: list[tuple[Any, Any]] = []

    def __enter__(self) -> None:
        self._begin = torch.cuda.Event(enable_timing=True)
        self._begin.record()

    def __exit__(self, *error: object) -> None:
        end = torch.cuda.Event(enable_timing=True)
        end.record()
        self._pairs.append((self._begin, end))
        if len(self._pairs) > 1000:  # `read` may never be called
            self.read()

    def read(self) -> float:
        """Seconds so far, of the blocks that the GPU has finished."""
        done = [(begin, end) for begin, end in self._pairs if end.query()]
        self._pairs = self._pairs[len(done) :]  # they end in the order they began
        self._seconds += 1e-3 * sum(begin.elapsed_time(end) for begin, end in done)
        return self._seconds
