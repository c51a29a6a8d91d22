"""A data set and its checks."""

import math
import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from downpour.config import ConfigError

VALUES_AT_ONCE = 2**20  # 8 MB of float64: checks and means must not need a second copy of the data


@dataclass
class Samples:
    """Inputs and targets, row by row.

    Attributes:
        inputs: [rows, *shape] of float32; images [rows, channels, height, width], sequences [rows, time, features].
        targets: [rows] of int64 class numbers, [rows, time] of them, or [rows, outputs] of float32.
        classes: names of the classes; None for regression.
        origin: its name in messages, such as a file.
        columns: names of the input's columns, where it has any.
        line_of: row -> its line in the file; None if there is no file.
        holes: inputs may be NaN (missing), to be filled with the mean of the training rows.
        test_from: first row of the official test split; None draws one.
    """

    inputs: np.ndarray
    targets: np.ndarray
    classes: tuple[str, ...] | None = None
    origin: str = "the data set"
    columns: Sequence[str] | None = None
    line_of: Callable[[int], int] | None = None
    holes: bool = False
    test_from: int | None = None

    @property
    def is_image(self) -> bool:
        """Whether a row is [channels, height, width]."""
        return self.inputs.ndim == 4

    @property
    def input_space(self) -> gym.Space:
        """One input."""
        return spaces.Box(-np.inf, np.inf, self.inputs.shape[1:], np.float32)

    @property
    def target_space(self) -> gym.Space:
        """One target: Discrete for a class, MultiDiscrete for a class per time step, Box for regression."""
        if self.classes is None:
            return spaces.Box(-np.inf, np.inf, self.targets.shape[1:], np.float32)
        if self.targets.ndim == 1:
            return spaces.Discrete(len(self.classes))
        return spaces.MultiDiscrete(np.full(self.targets.shape[1], len(self.classes)))

    def check(self) -> "Samples":
        """Check every value; returns itself.

        Raises:
            ConfigError: an input or target that is not a finite number, or a label out of range; names row and column.
        """
        if len(self.inputs) != len(self.targets):
            raise ConfigError(message=f"{self.origin}: {len(self.inputs)} inputs but {len(self.targets)} targets")
        for rows in blocks(self.inputs):
            self._finite(self.inputs[rows], rows.start, self.columns, "input")
        if self.classes is None:
            self._finite(self.targets, 0, None, "target")
            return self
        wrong = (self.targets < 0) | (self.targets >= len(self.classes))
        if wrong.any():
            row = int(np.argwhere(wrong)[0][0])
            label = self.targets[row] if self.targets.ndim == 1 else self.targets[row][wrong[row]][0]
            where = self._place(row)
            advice = f"labels are 0 to {len(self.classes) - 1} ({int(wrong.sum())} are not)"
            raise ConfigError(message=f"{where}: the label {label} is out of range: {advice}")
        return self

    def _finite(self, block: np.ndarray, begin: int, columns: Sequence[str] | None, what: str) -> None:
        if np.isfinite(np.sum(block)):  # fast path; a sum of finite floats may overflow, hence the rest
            return
        bad = np.isinf if self.holes else _is_not_finite
        wrong = np.argwhere(bad(block.reshape(len(block), -1)))
        if len(wrong):
            row, column = map(int, wrong[0])
            value = block.reshape(len(block), -1)[row, column]
            name = f"column {columns[column]}" if columns is not None else f"{what} column {column}"
            where = f"{self._place(begin + row)}, {name}"
            raise ConfigError(message=f"{where}: {value} is not a finite number; fix or remove the row")

    def _place(self, row: int) -> str:
        return f"{self.origin}, row {row}" if self.line_of is None else f"{self.origin}, line {self.line_of(row)}"


def _is_not_finite(values: np.ndarray) -> np.ndarray:
    return ~np.isfinite(values)


def as_images(rows: np.ndarray, shape: Sequence[int], origin: str) -> np.ndarray:
    """Flat rows [rows, pixels] as [rows, *shape].

    Raises:
        ConfigError: a row has the wrong number of values.
    """
    wanted = int(np.prod(shape))
    if rows.shape[1] != wanted:
        size = " x ".join(map(str, shape))
        raise ConfigError(message=f"{origin}: a row has {rows.shape[1]} values, an image of {size} has {wanted}")
    return rows.reshape(-1, *shape)


def split(
    rows: int, validation: float, test: float, rng: np.random.Generator, test_from: int | None = None
) -> dict[str, np.ndarray]:
    """Disjoint row numbers of `train`, `validation` and `test`, drawn from `rng`.

    Args:
        validation, test: fractions of all rows; `test` is not used with an official test split.
        test_from: first row of that split.

    Raises:
        ConfigError: one of them would be empty.
    """
    if test_from is None:
        order = rng.permutation(rows)
        own, rest = order[: round(test * rows)], order[round(test * rows) :]
    else:
        own, rest = np.arange(test_from, rows), rng.permutation(test_from)
    held = round(validation * len(rest)) if test_from is not None else round(validation * rows)
    parts = {"train": rest[held:], "validation": rest[:held], "test": own}
    for name, part in parts.items():
        if len(part) == 0:
            key = "data.validation" if name == "train" else f"data.{name}"
            value = {"validation": validation, "test": test}.get(name, validation)
            raise ConfigError(key, value, f"the {name} split of {rows} rows is empty")
    return {name: np.sort(part) for name, part in parts.items()}


def blocks(values: np.ndarray) -> Iterator[slice]:
    """Process rows block by block; a memory-mapped file's pages are released after each."""
    size = max(1, VALUES_AT_ONCE // max(1, math.prod(values.shape[1:])))
    for begin in range(0, len(values), size):
        yield slice(begin, min(begin + size, len(values)))
        if isinstance(values, np.memmap) and values.mode == "r":
            # Otherwise the pages stay resident. NumPy offers no public access to the mapping.
            values._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def fit(values: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the training rows, per column or per channel; 1 where nothing varies.

    Args:
        values: [rows, *shape], images [rows, channels, height, width]; NaN is left out.
        rows: numbers of the training rows, in ascending order.

    Returns:
        Two float32 arrays that broadcast against `values`.
    """
    axes = (0, 2, 3) if values.ndim == 4 else tuple(range(values.ndim - 1))

    def taken() -> Iterator[np.ndarray]:
        for block in blocks(values):
            first, last = np.searchsorted(rows, (block.start, block.stop))
            if first < last:
                yield values[rows[first:last]]

    # Sums ignore NaN; a column of NaN has mean 0.
    count: Any = 0
    mean: Any = 0
    square: Any = 0
    for block in taken():
        count = count + _sum(~np.isnan(block), axes)
        mean = mean + _sum(block, axes)
    count = np.maximum(count, 1)
    mean = mean / count
    for block in taken():
        apart = block - mean
        square = square + _sum(np.square(apart, out=apart), axes)
    deviation = np.sqrt(square / count)
    constant = deviation <= 1e-6 * np.maximum(1.0, np.abs(mean))
    return mean.astype(np.float32)[0], np.where(constant, 1.0, deviation).astype(np.float32)[0]


def _sum(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.asarray(np.nansum(values, axes, dtype=np.float64, keepdims=True))
