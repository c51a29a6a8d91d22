"""The stream of rules that know the model: every round is the whole table."""

import math
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import torch
from lightning.pytorch import LightningDataModule
from tensordict import TensorDict

from downpour.environments import Environment
from downpour.environments.tables import table_of
from downpour.run import Run


class ModelData(LightningDataModule):
    """Rounds [1] of `transition` [states, actions, states] and `reward` [states, actions], float64; one a sweep.

    Attributes:
        spaces: what the algorithm is built from.
        step_name: what `step` counts: sweeps, each an update of all states.
        stream: name of the kind of rounds.
    """

    step_name = "gradient_steps"
    stream = "model"
    any_ranks = False

    def __init__(self, environment: Environment, run: Run):
        """
        Raises:
            ConfigError: the environment shows no transition table.
        """
        super().__init__()
        self.run, self.step, self._end = run, 0, 0
        self.spaces: dict[str, gym.Space] = {
            "observation_space": environment.observation_space,
            "action_space": environment.action_space,
        }
        mdp = table_of(environment)
        tables = {"transition": torch.from_numpy(mdp.transition), "reward": torch.from_numpy(mdp.reward)}
        self._round = TensorDict({name: table.unsqueeze(0) for name, table in tables.items()}, batch_size=[1])

    @property
    def finished(self) -> bool:
        """Whether the run has had all its sweeps."""
        return self.step >= self.run.total_steps

    @property
    def evaluation_due(self) -> bool:
        """Whether this epoch has had all its sweeps."""
        return self.step >= self._end

    def train_dataloader(self) -> "ModelData":
        """The stream is its own loader."""
        return self

    def __len__(self) -> int:
        """Sweeps an epoch."""
        return math.ceil(self.run.eval_every)

    def __iter__(self) -> Iterator[TensorDict]:
        self._end = min(self.run.total_steps, (self.step // self.run.eval_every + 1) * self.run.eval_every)
        while not self.evaluation_due:
            self.step += 1
            yield self._round

    def capture(self) -> dict[str, Any]:
        """The number of sweeps so far."""
        return {"step": self.step}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `capture` returned."""
        self.step = state["step"]
