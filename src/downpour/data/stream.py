"""The interface of data modules: what the trainer and the callbacks need."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Self

import gymnasium as gym
from lightning.pytorch import LightningDataModule
from tensordict import TensorDict

from downpour.data.collector import Episode
from downpour.run import Run


class Stream(LightningDataModule):
    """Rounds, one after another; an epoch lasts until the next evaluation is due. It is its own loader.

    Attributes:
        step_name: what `step` counts.
        stream: name of the kind of rounds; an algorithm lists those it learns from.
        divisible: ranks can have separate parts of it.
        even: all ranks call the policy equally often, as sharded weights require.
        any_ranks: a checkpoint can be resumed with another number of ranks.
        converts: it supports weights of other precisions than 32 bits, and converts its rounds.
        spaces: what the algorithm is built from.
        seconds: time spent so far, by what.
    """

    step_name = "env_steps"
    stream = ""
    divisible = True
    any_ranks = False
    converts = False
    even = True
    spaces: dict[str, gym.Space]

    def __init__(self, run: Run):
        super().__init__()
        self.run = run
        self.seconds: dict[str, float] = {}
        self._end = 0

    @property
    @abstractmethod
    def step(self) -> int:
        """Steps over all ranks, in the unit of `step_name`."""

    @property
    @abstractmethod
    def own_steps(self) -> int:
        """Those of this rank."""

    @classmethod
    def planned_batches(cls, settings: Mapping[str, Any], total_steps: int, in_step: int) -> int | None:
        """Batches that each rank learns from in a run of `total_steps`; None if that is not known in advance.

        Args:
            settings: all arguments of the constructor.
            in_step: replicas whose batches are combined in each gradient step.
        """
        return None

    @staticmethod
    def check_room(settings: Mapping[str, Any], environment: Any, run: Run, processes: int) -> None:
        """Check, before any is built, that the streams of all processes of this machine will fit.

        Args:
            settings: all arguments of the constructor.

        Raises:
            ConfigError: they do not fit; with the required and the available size.
        """

    @property
    def finished(self) -> bool:
        """Whether the run has made all its steps."""
        return self.step >= self.run.total_steps

    @property
    def evaluation_due(self) -> bool:
        """Whether the next evaluation is due."""
        return self.step >= self._end

    def train_dataloader(self) -> Self:
        return self

    @abstractmethod
    def __len__(self) -> int:
        """Upper bound of the rounds in an epoch; the iterator ends it when the evaluation is due."""

    def __iter__(self) -> Iterator[TensorDict]:
        self._end = min(self.run.total_steps, (self.step // self.run.eval_every + 1) * self.run.eval_every)
        yield from self._rounds()

    @abstractmethod
    def _rounds(self) -> Iterator[TensorDict]:
        """Rounds until the evaluation is due."""

    def take_episodes(self) -> list[Episode]:
        """Training episodes of this rank that ended since the last call."""
        return []

    @abstractmethod
    def capture(self) -> dict[str, Any]:
        """This rank's part of a checkpoint, as plain data."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `capture` returned."""
