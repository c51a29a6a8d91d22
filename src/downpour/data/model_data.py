"""The stream of dynamic programming: every round is the whole transition table."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from tensordict import TensorDict

from downpour.data.stream import Stream
from downpour.environments import Environment
from downpour.environments.tables import table_of
from downpour.run import Run


class ModelData(Stream):
    """Rounds [1] of `transition` [states, actions, states] and `reward` [states, actions], float64.

    A round is a sweep, an update of all states, and counts as a gradient step.
    """

    step_name = "gradient_steps"
    stream = "model"
    divisible = False
    own_steps = 0

    def __init__(self, environment: Environment, run: Run):
        """
        Raises:
            ConfigError: the environment has no transition table.
        """
        super().__init__(run)
        self.spaces = {
            "observation_space": environment.observation_space,
            "action_space": environment.action_space,
        }
        mdp = table_of(environment)
        tables = {"transition": torch.from_numpy(mdp.transition), "reward": torch.from_numpy(mdp.reward)}
        self._round = TensorDict({name: table.unsqueeze(0) for name, table in tables.items()}, batch_size=[1])

    @classmethod
    def planned_batches(cls, settings: Mapping[str, Any], total_steps: int, in_step: int) -> int:
        return total_steps

    @property
    def step(self) -> int:
        return self.own_steps  # the same on all ranks

    def __len__(self) -> int:
        return self.run.eval_every

    def _rounds(self) -> Iterator[TensorDict]:
        while not self.evaluation_due:
            self.own_steps += 1
            yield self._round

    def capture(self) -> dict[str, Any]:
        return {"step": self.own_steps}

    def restore(self, state: dict[str, Any]) -> None:
        self.own_steps = state["step"]
