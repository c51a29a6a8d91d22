"""What every stream of experience shares: environments that are acted in, step counting, epochs, rounds."""

import logging
import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from tensordict import TensorDict
from torch import Tensor

from downpour.data.collector import Collector, Episode
from downpour.environments import Environment
from downpour.run import Run

log = logging.getLogger(__name__)


class Experience(LightningDataModule):
    """A stream that collects a block of experience for each round; a subclass says how it is shaped and saved.

    Attributes:
        spaces: what the algorithm is built from.
        step_name: what `step` counts.
        stream: name of the kind of rounds; an algorithm lists those it learns from.
        any_ranks: another number of ranks may go on from what one has saved.
        seconds: time spent so far, by what.
    """

    step_name = "env_steps"
    stream = ""
    any_ranks = False

    def __init__(self, environment: Environment, run: Run, *, num_envs: int, round_steps: int, stack: int = 1):
        """
        Args:
            num_envs: environments stepped together, on each rank.
            round_steps: fewest steps of each environment in a round.
            stack: of so many frames that an observation is made of, rows hold the newest only.
        """
        super().__init__()
        self.run, self.num_envs, self.round_steps = run, num_envs, round_steps
        self.spaces: dict[str, gym.Space] = {
            "observation_space": environment.observation_space,
            "action_space": environment.action_space,
        }
        self.rng = run.rng(3)
        self.collector = Collector(environment.vector(num_envs), run, stack=stack)
        self.seconds = self.collector.seconds
        self._started = False
        self._end = 0

    @property
    def step(self) -> int:
        """Environment steps over all ranks."""
        return self.collector.env_steps

    @property
    def own_steps(self) -> int:
        """Those of this rank."""
        return self.collector.own_steps

    @property
    def finished(self) -> bool:
        """Whether the run has had all its steps."""
        return self.step >= self.run.total_steps

    @property
    def evaluation_due(self) -> bool:
        """Whether this epoch has had all its rounds."""
        return self.step >= self._end

    def train_dataloader(self) -> "Experience":
        """The stream is its own loader."""
        return self

    def __len__(self) -> int:
        """Rounds an epoch, at most; the iterator ends it at the evaluation that is due."""
        round_size = self.num_envs * self.round_steps * self.run.in_step
        return math.ceil(self.run.eval_every / round_size)

    def __iter__(self) -> Iterator[TensorDict]:
        if not self._started:
            self._start()
            self._started = True
        self._end = min(self.run.total_steps, (self.step // self.run.eval_every + 1) * self.run.eval_every)
        while not self.evaluation_due:
            yield self._next_round()

    @abstractmethod
    def _start(self) -> None:
        """Make the first observations."""

    @abstractmethod
    def _next_round(self) -> TensorDict:
        """Collect, and shape what the algorithm gets."""

    def _act(self, observation: Tensor) -> np.ndarray:
        policy: Any = self.trainer.lightning_module  # type: ignore[union-attr]
        return policy.act(observation.to(policy.device), self.rng, env_steps=self.step, explore=True)

    def transfer_batch_to_device(self, batch: TensorDict, device: torch.device, dataloader_idx: int) -> TensorDict:
        """A round that is where it is needed is not copied piece by piece."""
        return batch if device.type == "cpu" else batch.to(device)

    def teardown(self, stage: str) -> None:
        """The environments must be at rest when they are let go of."""
        self.collector.abandon()

    def take_episodes(self) -> list[Episode]:
        """Training episodes of this rank that ended since the last call."""
        episodes, self.collector.episodes = self.collector.episodes, []
        return episodes

    @abstractmethod
    def capture(self) -> dict[str, Any]:
        """This rank's part of a checkpoint, as plain data."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `capture` returned."""
