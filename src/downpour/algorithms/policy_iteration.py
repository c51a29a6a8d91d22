"""Policy iteration (Howard 1960): the greedy policy (37) is evaluated exactly, then made greedy again."""

import torch
from tensordict import TensorDict
from torch import Tensor

from downpour.algorithms.value_iteration import ValueIteration


class PolicyIteration(ValueIteration):
    """Value iteration that looks ahead to the end instead of one step; exact after finitely many sweeps."""

    def state_to_go(self, batch: TensorDict) -> Tensor:
        """The value of the greedy policy, from (I - gamma P) V = r, [states]."""
        states = torch.arange(len(self.q), device=self.q.device)
        greedy = self.q.argmax(-1)
        transition, reward = batch["transition"][states, greedy], batch["reward"][states, greedy]
        system = torch.eye(len(states), dtype=reward.dtype, device=reward.device) - self.gamma * transition
        return torch.linalg.solve(system, reward)
