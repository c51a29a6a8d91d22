"""What the trainer and the callbacks ask of whatever rounds come from."""

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
        divisible: ranks can have parts of their own in it.
        even: ranks ask the policy equally often, as one whose weights are spread over them must be asked.
        any_ranks: another number of ranks may go on from what one has saved.
        converts: it hands out what it has in the precision of the weights, if that is another than 32 bits.
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
        """Steps over all ranks, in what `step_name` says."""

    @property
    @abstractmethod
    def own_steps(self) -> int:
        """Those of this rank."""

    @classmethod
    def planned_batches(cls, settings: Mapping[str, Any], total_steps: int, in_step: int) -> int | None:
        """Batches that each rank learns from in a run of `total_steps`; None where that shows only as it goes on.

        Args:
            settings: all arguments of the constructor.
            in_step: copies of the weights that make each step together.
        """
        return None

    @staticmethod
    def check_room(settings: Mapping[str, Any], environment: Any, run: Run, processes: int) -> None:
        """Before any is built: that the streams of so many processes of this machine will fit.

        Args:
            settings: all arguments of the constructor.

        Raises:
            ConfigError: they will not; with what they need and what would fit.
        """

    @property
    def finished(self) -> bool:
        """Whether the run has had all its steps."""
        return self.step >= self.run.total_steps

    @property
    def evaluation_due(self) -> bool:
        """Whether this epoch has had all its rounds."""
        return self.step >= self._end

    def train_dataloader(self) -> Self:
        return self

    @abstractmethod
    def __len__(self) -> int:
        """Rounds an epoch, at most; the iterator ends it at the evaluation that is due."""

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
