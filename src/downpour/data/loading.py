"""Data sets that do not fit into memory: rows are read from files by worker processes."""

import signal
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class Mapped:
    """Inputs in a memory-mapped file; rows are standardized, and missing values filled, when they are read."""

    device = torch.device("cpu")

    def __init__(self, values: np.ndarray, mean: np.ndarray, scale: np.ndarray, fill: np.ndarray | None):
        """
        Args:
            values: [rows, *shape], for example a memory-mapped file.
            fill: replaces NaN; None if there is none.
        """
        self.values, self.mean, self.scale, self.fill = values, mean, scale, fill

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Tensor) -> Tensor:
        """Rows [count, *shape] of the numbers [count]."""
        rows = self.values[index.numpy()].astype(np.float32, copy=False)  # the index has copied them
        if self.fill is not None:
            np.copyto(rows, self.fill, where=np.isnan(rows))
        return torch.from_numpy(np.divide(np.subtract(rows, self.mean, out=rows), self.scale, out=rows))


class _Rows(Dataset):
    def __init__(self, inputs: Mapped, targets: Tensor):
        self.inputs, self.targets = inputs, targets

    def __getitems__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]


def read_ahead(
    inputs: Mapped, targets: Tensor, numbers: Iterable[Tensor], workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(inputs, targets) of each group of row numbers, in order, prefetched by `workers` processes, two groups ahead."""
    rows = _Rows(inputs, targets)
    # The type of a batch sampler is a list of ints; a tensor of them is one message, not thousands.
    sampler: Any = numbers
    loader: Iterable[tuple[Tensor, Tensor]] = DataLoader(
        rows,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_obey_the_parent,
        multiprocessing_context="fork",  # TorchRL has made spawning the default, which imports everything again
    )
    return iter(loader)


def _as_it_is(batch: Any) -> Any:
    return batch


def _obey_the_parent(worker: int) -> None:
    """Ignore Ctrl-C, which reaches every process of a terminal: the parent ends its readers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
