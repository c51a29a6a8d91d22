"""The stream of a data set: batches by index, several gradient steps a round."""

import math
import time
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from tensordict import TensorDict
from torch import Tensor

from downpour.config import PositiveInt, Probability
from downpour.data.augmentation import Augmentation
from downpour.data.samples import CHUNK, Samples, split
from downpour.data.sources import Source
from downpour.run import Run


class DatasetData(LightningDataModule):
    """Rounds from a data set that lies in memory as it is, on the device where it fits.

    The training rows are taken one random order after another, without a gap: batches are all of one size, and every
    rank takes its own part of each. The order of a pass, and the augmentation of a round, depend on the seed and the
    step alone, so the step is all there is to save.

    Attributes:
        spaces: what the algorithm is built from.
        step_name: what `step` counts.
        stream: name of the kind of rounds; an algorithm lists those it learns from.
        samples: the data set.
        rows: row numbers of each split.
        step: gradient steps handed out.
    """

    step_name = "gradient_steps"
    stream = "dataset"

    def __init__(
        self,
        run: Run,
        *,
        source: Source,
        batch_size: PositiveInt = 64,
        updates: PositiveInt = 20,
        validation: Probability = 0.1,
        test: Probability = 0.2,
        split_seed: int | None = None,
        standardize: bool = True,
        augmentation: Augmentation | None = None,
        on_device: bool = True,
    ):
        """
        Args:
            source: the data set.
            batch_size: samples a gradient step, on each rank.
            updates: gradient steps a round; it changes the speed, not the result.
            validation, test: parts of all rows (`test` is not used where the data set has its own test split).
            split_seed: decides which rows go where; null takes the run's seed.
            standardize: subtract the mean of the training rows and divide by their standard deviation: of each column,
                or of each channel of an image.
            augmentation: random changes to the training rows, drawn anew each time.
            on_device: keep all of it on the device that computes; False sends each round there.

        Raises:
            ConfigError: a split would be empty, or a value cannot be learned from.
        """
        super().__init__()
        self.run, self.batch_size, self.updates = run, batch_size, updates
        self.augmentation, self.on_device = augmentation, on_device
        self.samples = source.load().check()
        seed = run.seed if split_seed is None else split_seed
        rng = np.random.default_rng(np.random.SeedSequence([seed, 6]))
        self.rows = split(len(self.samples.inputs), validation, test, rng, self.samples.test_from)
        self.mean, self.scale = np.zeros(1, np.float32), np.ones(1, np.float32)
        if standardize and source.standardizable:
            self.mean, self.scale = fit(self.samples, self.rows["train"])
        self._prepare()
        self.spaces: dict[str, gym.Space] = {
            "input_space": self.samples.input_space,
            "target_space": self.samples.target_space,
        }
        self.inputs, self.targets = torch.from_numpy(self.samples.inputs), torch.from_numpy(self.samples.targets)
        self.step = 0
        self.seconds = {"data": 0.0}
        self._end = 0
        self._order: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.int64))

    def _prepare(self) -> None:
        """Standardise in place, a block at a time, and fill holes with the mean."""
        fill = self.mean
        if self.samples.holes and not self.mean.any():
            fill = fit(self.samples, self.rows["train"])[0]
        for begin in range(0, len(self.samples.inputs), CHUNK):
            block = self.samples.inputs[begin : begin + CHUNK]
            if self.samples.holes:
                np.copyto(block, fill, where=np.isnan(block))
            np.divide(np.subtract(block, self.mean, out=block), self.scale, out=block)

    def setup(self, stage: str) -> None:
        """Move the data to where it will be read."""
        trainer: Any = self.trainer
        if self.on_device and trainer is not None:
            device = trainer.strategy.root_device
            self.inputs, self.targets = self.inputs.to(device), self.targets.to(device)

    @property
    def finished(self) -> bool:
        """Whether the run has had all its steps."""
        return self.step >= self.run.total_steps

    @property
    def evaluation_due(self) -> bool:
        """Whether this epoch has had all its rounds."""
        return self.step >= self._end

    def train_dataloader(self) -> "DatasetData":
        """The stream is its own loader."""
        return self

    def __len__(self) -> int:
        """Rounds an epoch, at most; the iterator ends it at the evaluation that is due."""
        return math.ceil(self.run.eval_every / self.updates)

    def __iter__(self) -> Iterator[TensorDict]:
        self._end = end = min(self.run.total_steps, (self.step // self.run.eval_every + 1) * self.run.eval_every)
        while self.step < end:
            begin = time.perf_counter()
            first, updates = self.step, min(self.updates, end - self.step)
            self.step += updates
            batch = self._round(first, updates)
            self.seconds["data"] += time.perf_counter() - begin
            yield batch

    def _round(self, first: int, updates: int) -> TensorDict:
        """The batches of gradient steps `first` to `first + updates`: [updates, batch] of `input` and `target`."""
        size, ranks = self.batch_size, self.run.world_size
        index = self._index(first * size * ranks, updates * size * ranks)
        index = index.view(updates, ranks, size)[:, self.run.rank].reshape(-1).to(self.inputs.device)
        inputs, targets = self.inputs[index], self.targets[index]
        if self.augmentation is not None:
            generator = torch.Generator().manual_seed(int(self.run.seed_sequence(8, first).generate_state(1)[0]))
            inputs = self.augmentation(inputs, generator)
        shape = (updates, size)
        parts = {"input": inputs.view(*shape, *inputs.shape[1:]), "target": targets.view(*shape, *targets.shape[1:])}
        return TensorDict(parts, batch_size=shape)

    def _index(self, begin: int, count: int) -> Tensor:
        """Training rows number `begin` to `begin + count` of all passes, one after another."""
        rows, found = len(self.rows["train"]), []
        while count > 0:
            number, offset = divmod(begin, rows)
            if self._order[0] != number:
                # Shared by the ranks, which take turns in it.
                seed = np.random.SeedSequence([self.run.seed, 7, number])
                order = np.random.default_rng(seed).permutation(self.rows["train"])
                self._order = number, torch.from_numpy(order)
            found.append(self._order[1][offset : offset + count])
            begin, count = begin + len(found[-1]), count - len(found[-1])
        return torch.cat(found)

    def split(self, name: str, size: int = 2048) -> Iterator[TensorDict]:
        """All of `train`, `validation` or `test`, in order and as it is, in batches of at most `size`."""
        for part in np.array_split(self.rows[name], math.ceil(len(self.rows[name]) / size)):
            index = torch.from_numpy(part).to(self.inputs.device)
            yield TensorDict({"input": self.inputs[index], "target": self.targets[index]}, batch_size=[len(part)])

    def capture(self) -> dict[str, Any]:
        """This rank's part of a checkpoint."""
        return {"step": self.step}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `capture` returned."""
        self.step = state["step"]


def fit(samples: Samples, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the training rows, per column or per channel; 1 where nothing varies.

    Returns:
        Two float32 arrays that broadcast against `samples.inputs`.
    """
    axes = (0, 2, 3) if samples.is_image else tuple(range(samples.inputs.ndim - 1))
    parts = np.array_split(rows, math.ceil(len(rows) / CHUNK))
    # Sums without the holes; a column that is all holes has the mean 0.
    count = sum(_sum(~np.isnan(samples.inputs[p]), axes) for p in parts)
    mean = sum(_sum(samples.inputs[p], axes) for p in parts) / np.maximum(count, 1)
    square = sum(_sum(np.square(samples.inputs[p] - mean), axes) for p in parts) / np.maximum(count, 1)
    deviation = np.sqrt(square)
    constant = deviation <= 1e-6 * np.maximum(1.0, np.abs(mean))
    return mean.astype(np.float32)[0], np.where(constant, 1.0, deviation).astype(np.float32)[0]


def _sum(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.asarray(np.nansum(values, axes, dtype=np.float64, keepdims=True))
