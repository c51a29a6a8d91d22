"""The stream of a data set: batches by index, several gradient steps a round."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from downpour.config import NonNegativeInt, PositiveInt, Probability
from downpour.data.augmentation import Augmentation
from downpour.data.loading import Mapped, read_ahead
from downpour.data.samples import blocks, fit, split
from downpour.data.sources import Source
from downpour.data.stream import Stream
from downpour.precision import DTYPES
from downpour.run import Purpose, Run


class DatasetData(Stream):
    """Rounds from a data set in memory (on the device, if it fits), or read from files.

    The training rows are taken in one random order after another, without a gap: batches have the same size, and every
    rank takes its own part of each. The order of a pass, and the augmentation of a round, depend on the seed and the
    step alone, so the step is all there is to save.

    Attributes:
        samples: the data set.
        rows: row numbers of each split.
        own_steps: gradient steps handed out on this rank.
    """

    step_name = "gradient_steps"
    stream = "dataset"
    any_ranks = True
    converts = True
    own_steps = 0

    def __init__(
        self,
        run: Run,
        *,
        source: Source,
        batch_size: PositiveInt = 64,
        updates: PositiveInt = 50,
        validation: Probability = 0.1,
        test: Probability = 0.2,
        split_seed: int | None = None,
        standardize: bool = True,
        standardize_targets: bool = True,
        augmentation: Augmentation | None = None,
        on_device: bool = True,
        loader: Literal["memory", "workers"] = "memory",
        workers: NonNegativeInt = 2,
    ):
        """
        Args:
            source: the data set.
            batch_size: samples per gradient step, on each rank.
            updates: gradient steps per round; changes the speed, not the result.
            validation, test: fractions of all rows (`test` is not used if the data set has its own test split).
            split_seed: seed of the split; null takes the run's seed.
            standardize: subtract the mean of the training rows and divide by their standard deviation: of each column,
                or of each channel of an image.
            standardize_targets: the same with targets that are numbers; metrics keep the data set's units.
            augmentation: random changes to the training rows, drawn anew each time.
            on_device: keep the data set on the computing device; False copies each round to it.
            loader: `memory` reads everything first; `workers` reads from the files what each
                round needs. The rounds are the same, bit for bit, unless they are augmented on a GPU.
            workers: reader processes; 0 reads in this one.

        Raises:
            ConfigError: a split would be empty, or a value cannot be learned from.
        """
        super().__init__(run)
        self.batch_size, self.updates = batch_size, updates
        self.augmentation, self.on_device = augmentation, on_device
        self.workers = workers if loader == "workers" else 0
        self.samples = source.load().check()
        seed = run.seed if split_seed is None else split_seed
        rng = np.random.default_rng(np.random.SeedSequence([seed, Purpose.SPLIT]))
        self.rows = split(len(self.samples.inputs), validation, test, rng, self.samples.test_from)
        self.mean, self.scale = np.zeros(1, np.float32), np.ones(1, np.float32)
        if standardize and source.standardizable:
            self.mean, self.scale = fit(self.samples.inputs, self.rows["train"])
        fill = self._fill()
        self.inputs: Any = Mapped(self.samples.inputs, self.mean, self.scale, fill)
        self.targets = torch.from_numpy(self.samples.targets)
        self.spaces: Any = {
            "input_space": self.samples.input_space,
            "target_space": self.samples.target_space,
        }
        if standardize_targets and self.samples.classes is None:
            mean, scale = fit(self.samples.targets, self.rows["train"])
            self.targets = torch.from_numpy((self.samples.targets - mean) / scale)
            self.spaces["target_units"] = torch.from_numpy(mean), torch.from_numpy(scale)
        if loader == "memory":
            self._prepare(fill)
        self.seconds = {"data": 0.0}
        self._dtype = torch.float32
        self._order: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.int64))

    def _fill(self) -> np.ndarray | None:
        """The values that replace missing inputs, if there can be any: the means of the training rows."""
        if not self.samples.holes:
            return None
        return self.mean if self.mean.any() else fit(self.samples.inputs, self.rows["train"])[0]

    def _prepare(self, fill: np.ndarray | None) -> None:
        """Read everything into memory and standardize it in place, block by block."""
        found = self.samples.inputs
        inputs = found if found.dtype == np.float32 and found.flags.writeable else np.empty(found.shape, np.float32)
        for rows in blocks(found):
            block = inputs[rows]
            if inputs is not found:
                block[...] = found[rows]
            if fill is not None:
                np.copyto(block, fill, where=np.isnan(block))
            np.divide(np.subtract(block, self.mean, out=block), self.scale, out=block)
        self.samples.inputs = inputs
        self.inputs = torch.from_numpy(inputs)

    @classmethod
    def planned_batches(cls, settings: Mapping[str, Any], total_steps: int, in_step: int) -> int:
        return total_steps

    def setup(self, stage: str) -> None:
        """Move the data to the device that reads it, in the precision of the weights."""
        trainer: Any = self.trainer
        if trainer is None:
            return
        self._dtype = DTYPES.get(trainer.precision, torch.float32)
        if self.on_device and isinstance(self.inputs, Tensor):
            device = trainer.strategy.root_device
            self.inputs, self.targets = self._typed(self.inputs.to(device)), self._typed(self.targets.to(device))

    @property
    def step(self) -> int:
        """Gradient steps handed out: each once where the ranks make it together."""
        return self.own_steps + self.run.others.steps

    def __len__(self) -> int:
        return math.ceil(self.run.eval_every / self.updates)

    def _rounds(self) -> Iterator[TensorDict]:
        last = self.own_steps + self._end - self.step
        plan = [(first, min(self.updates, last - first)) for first in range(self.own_steps, last, self.updates)]
        rounds = self._fetch(self._taken(first, updates) for first, updates in plan)
        for first, updates in plan:
            begin = time.perf_counter()
            if self.evaluation_due:  # others have made the rest
                break
            batch = self._round(first, updates, *next(rounds))
            self.own_steps += updates
            self.seconds["data"] += time.perf_counter() - begin
            yield batch

    def _taken(self, first: int, updates: int) -> Tensor:
        """Row numbers of this replica's batches of gradient steps `first` to `first + updates`."""
        size, replicas = self.batch_size, self.run.replicas
        index = self._index(first * size * replicas, updates * size * replicas)
        return index.view(updates, replicas, size)[:, self.run.replica].reshape(-1)

    def _fetch(self, numbers: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        if self.workers:
            return read_ahead(self.inputs, self.targets, numbers, self.workers)
        device = self.inputs.device
        return ((self.inputs[index], self.targets[index]) for index in (each.to(device) for each in numbers))

    def _round(self, first: int, updates: int, inputs: Tensor, targets: Tensor) -> TensorDict:
        """The batches of gradient steps `first` to `first + updates`: [updates, batch] of `input` and `target`."""
        if self.augmentation is not None:
            seed = int(self.run.seed_sequence(Purpose.AUGMENTATION, first).generate_state(1)[0])
            inputs = self.augmentation(inputs, torch.Generator(inputs.device).manual_seed(seed))
        inputs, targets = self._typed(inputs), self._typed(targets)
        shape = (updates, self.batch_size)
        parts = {"input": inputs.view(*shape, *inputs.shape[1:]), "target": targets.view(*shape, *targets.shape[1:])}
        return TensorDict(parts, batch_size=shape)

    def _index(self, begin: int, count: int) -> Tensor:
        """Training rows number `begin` to `begin + count` of all passes, one after another."""
        rows, found = len(self.rows["train"]), []
        while count > 0:
            number, offset = divmod(begin, rows)
            if self._order[0] != number:
                # Shared by the ranks, which take turns in it.
                seed = self.run.shared_sequence(Purpose.ORDER, number)
                order = np.random.default_rng(seed).permutation(self.rows["train"])
                self._order = number, torch.from_numpy(order)
            found.append(self._order[1][offset : offset + count])
            begin, count = begin + len(found[-1]), count - len(found[-1])
        return torch.cat(found)

    def split(self, name: str, size: int = 2048) -> Iterator[TensorDict]:
        """All of `train`, `validation` or `test`, in order and without augmentation, in batches of at most `size`."""
        for part in np.array_split(self.rows[name], math.ceil(len(self.rows[name]) / size)):
            index = torch.from_numpy(part).to(self.inputs.device)
            batch = {"input": self._typed(self.inputs[index]), "target": self._typed(self.targets[index])}
            yield TensorDict(batch, batch_size=[len(part)])

    def _typed(self, numbers: Tensor) -> Tensor:
        """Those that are no classes or places in a table, in the precision of the weights."""
        return numbers.to(self._dtype) if numbers.is_floating_point() else numbers

    def capture(self) -> dict[str, Any]:
        return {"step": self.own_steps}

    def restore(self, state: dict[str, Any]) -> None:
        self.own_steps = state["step"]
