"""Double Q-learning with two function classes that take turns (van Hasselt 2010): (65) before it was deep."""

from typing import Any, ClassVar

import gymnasium as gym
import torch
from tensordict import TensorDict
from torch import Tensor

from downpour.algorithms.base import Network
from downpour.algorithms.q_learning import QLearning
from downpour.networks.linear import Table


class DoubleQLearning(QLearning):
    """A coin says which of two Q learns from a transition: it chooses the next action, the other one judges it.

    What one overestimates by chance the other does not. Actions are chosen by the mean of both.
    """

    static_shapes: ClassVar[bool] = False  # the coins are the host's

    def __init__(self, observation_space: gym.Space, action_space: gym.Space, network: Network, **kwargs: Any):
        super().__init__(observation_space, action_space, network, **kwargs)
        self.other_q = self.make(network, observation_space)
        self.heads: Tensor | None = None  # the coins of the batch under way, [batch, 1]

    def values(self, observation: Tensor) -> Tensor:
        """The mean of both: [batch, ...] -> [batch, actions]."""
        return (self.q(observation) + self.other_q(observation)) / 2

    def learned(self, observation: Tensor) -> Tensor:
        """Q(x, .) of the one whose turn it is: [batch, ...] -> [batch, actions]."""
        assert self.heads is not None
        return torch.where(self.heads, self.q(observation), self.other_q(observation))

    def bootstrap(self, batch: TensorDict) -> Tensor:
        """Q_other(X_t+1, argmax_a Q(X_t+1, a)) of each transition: [batch]."""
        assert self.heads is not None
        q, other = self.q(batch["next_observation"]), self.other_q(batch["next_observation"])
        chosen = torch.where(self.heads, q, other).argmax(-1, keepdim=True)
        return torch.where(self.heads, other, q).gather(-1, chosen).squeeze(-1)

    def coins(self, count: int) -> Tensor:
        """Fair, [count]."""
        return torch.randint(2, (count,))

    def loss(self, batch: TensorDict) -> tuple[Tensor, dict[str, Tensor]]:
        self.heads = (self.coins(len(batch)) == 0).to(batch["reward"].device).unsqueeze(-1)
        return super().loss(batch)

    def tables(self, count: int) -> tuple[list[Table], list[int]] | None:
        if not (isinstance(self.q, Table) and isinstance(self.other_q, Table)):
            return None
        return [self.q, self.other_q], self.coins(count).tolist()
