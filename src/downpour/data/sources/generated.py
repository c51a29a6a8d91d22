"""Generated data sets, for which the optimal answer is known."""

from typing import ClassVar, Literal

import numpy as np

from downpour.config import NonNegativeFloat, NonNegativeInt, PositiveInt
from downpour.data.samples import Samples
from downpour.data.sources.base import Source


class TwoMoons(Source):
    """Two interleaving half circles: two classes that are not linearly separable."""

    def __init__(self, *, rows: PositiveInt = 2000, noise: NonNegativeFloat = 0.1, seed: NonNegativeInt = 0):
        """
        Args:
            rows: points, half of each class.
            noise: standard deviation of the noise on each coordinate.
            seed: determines the data set.
        """
        self.rows, self.noise, self.seed = rows, noise, seed

    def load(self) -> Samples:
        rng = np.random.default_rng(self.seed)
        target = np.arange(self.rows) % 2
        angle = rng.uniform(0, np.pi, self.rows)
        upper = np.stack([np.cos(angle), np.sin(angle)], 1)
        lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], 1)
        points = np.where(target[:, None] == 0, upper, lower) + self.noise * rng.standard_normal((self.rows, 2))
        return Samples(points.astype(np.float32), target.astype(np.int64), ("upper", "lower"), origin="two_moons")


class Regression(Source):
    """A smooth function of five inputs, with irrelevant inputs and noise (Friedman 1991, eq. 61).

    y = 10 sin(pi x1 x2) + 20 (x3 - 1/2)^2 + 10 x4 + 5 x5 + noise, with x uniform on [0, 1]. Its standard deviation is
    about 5; no prediction has a root mean squared error below `noise`.
    """

    def __init__(
        self,
        *,
        rows: PositiveInt = 2000,
        features: PositiveInt = 10,
        noise: NonNegativeFloat = 1.0,
        seed: NonNegativeInt = 0,
    ):
        """
        Args:
            rows: points.
            features: inputs, including the five that matter.
            noise: standard deviation of the noise on y.
            seed: determines the data set.
        """
        self.rows, self.features, self.noise, self.seed = rows, max(5, features), noise, seed

    def load(self) -> Samples:
        rng = np.random.default_rng(self.seed)
        x = rng.uniform(size=(self.rows, self.features))
        y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
        y = y + self.noise * rng.standard_normal(self.rows)
        return Samples(x.astype(np.float32), y.astype(np.float32)[:, None], origin="regression")


class Sequence(Source):
    """Two classic tasks that need memory (Hochreiter and Schmidhuber 1997, 5.4; Arjovsky et al. 2016, 5.1).

    adding: [time, 2]: uniform numbers, and a mark at two of them; the target is the sum of the two. Always predicting 1
    has a root mean squared error of sqrt(1/6) = 0.408.
    copy: `symbols` random symbols, blanks, a signal; the target is blank until the signal, then the symbols.
    Inputs are unit vectors; with K symbols to remember of 8 kinds, guessing them costs K log(8) / time a step.
    """

    standardizable: ClassVar[bool] = False
    KINDS: ClassVar[int] = 8

    def __init__(
        self,
        *,
        task: Literal["adding", "copy"] = "adding",
        rows: PositiveInt = 5000,
        length: PositiveInt = 50,
        symbols: PositiveInt = 5,
        seed: NonNegativeInt = 0,
    ):
        """
        Args:
            task: adding or copy.
            rows: sequences.
            length: time steps of the adding task; blanks in the copy task.
            symbols: symbols to remember in the copy task.
            seed: determines the data set.
        """
        self.task, self.rows, self.length, self.symbols, self.seed = task, rows, max(2, length), symbols, seed

    def load(self) -> Samples:
        rng = np.random.default_rng(self.seed)
        return self._adding(rng) if self.task == "adding" else self._copy(rng)

    def _adding(self, rng: np.random.Generator) -> Samples:
        values = rng.uniform(size=(self.rows, self.length))
        half, every = self.length // 2, np.arange(self.rows)
        marks = np.zeros_like(values)
        marks[every, rng.integers(0, half, self.rows)] = 1  # one mark in each half
        marks[every, rng.integers(half, self.length, self.rows)] = 1
        total = (values * marks).sum(1, keepdims=True)
        inputs = np.stack([values, marks], 2).astype(np.float32)
        return Samples(inputs, total.astype(np.float32), origin="sequence")

    def _copy(self, rng: np.random.Generator) -> Samples:
        silence, signal = self.KINDS, self.KINDS + 1
        time = self.length + 2 * self.symbols
        remembered = rng.integers(0, self.KINDS, (self.rows, self.symbols))
        seen = np.full((self.rows, time), silence)
        seen[:, : self.symbols] = remembered
        seen[:, time - self.symbols - 1] = signal
        target = np.full((self.rows, time), silence)
        target[:, time - self.symbols :] = remembered
        inputs = np.eye(self.KINDS + 2, dtype=np.float32)[seen]
        names = (*(str(kind) for kind in range(self.KINDS)), "silence")
        return Samples(inputs, target.astype(np.int64), names, origin="sequence")
