"""Double Q-learning with two estimators (van Hasselt 2010), the origin of (65)."""

from typing import Any, ClassVar

import gymnasium as gym
import torch
from tensordict import TensorDict
from torch import Tensor

from downpour.algorithms.base import Network
from downpour.algorithms.q_learning import QLearning
from downpour.networks.linear import Table


class DoubleQLearning(QLearning):
    """For each transition a coin selects the Q that learns: it selects the next action, the other one evaluates it.

    The two do not share overestimation by chance. Actions are selected by the mean of both.
    """

    static_shapes: ClassVar[bool] = False  # coins are tossed on the host

    def __init__(self, observation_space: gym.Space, action_space: gym.Space, network: Network, **kwargs: Any):
        super().__init__(observation_space, action_space, network, **kwargs)
        self.other_q = self.make(network, observation_space)
        if self.visits is not None:  # each counts its own visits (van Hasselt 2010, section 4)
            self.visits = self.visits.repeat(2, 1)
        self.heads: Tensor | None = None  # whether the first one learns, for the current batch [batch, 1]
        self.ties = torch.empty(0)  # breaks ties between next actions, in [0, 1), [batch, 1]

    def values(self, observation: Tensor) -> Tensor:
        """The mean of both: [batch, ...] -> [batch, actions]."""
        return (self.q(observation) + self.other_q(observation)) / 2

    def online_values(self, observation: Tensor) -> Tensor:
        """Q(x, .) of the one whose turn it is: [batch, ...] -> [batch, actions]."""
        assert self.heads is not None
        return torch.where(self.heads, self.q(observation), self.other_q(observation))

    def bootstrap(self, batch: TensorDict) -> Tensor:
        """Q_other(X_t+1, argmax_a Q(X_t+1, a)) of each transition, ties broken at random: [batch]."""
        assert self.heads is not None
        q, other = self.q(batch["next_observation"]), self.other_q(batch["next_observation"])
        mine = torch.where(self.heads, q, other)
        best = mine == mine.amax(-1, keepdim=True)
        rank = (self.ties * best.sum(-1, keepdim=True)).long() + 1
        chosen = ((best.cumsum(-1) == rank) & best).int().argmax(-1, keepdim=True)
        return torch.where(self.heads, other, q).gather(-1, chosen).squeeze(-1)

    def coins(self, count: int) -> tuple[Tensor, Tensor]:
        """Which of the two learns (0 or 1) and a number in [0, 1) that breaks ties, from one draw: [count] each."""
        twice = 2 * torch.rand(count)
        return twice.long(), twice.frac()

    def loss(self, batch: TensorDict) -> tuple[Tensor, dict[str, Tensor]]:
        turns, ties = (draw.to(batch["reward"].device).unsqueeze(-1) for draw in self.coins(len(batch)))
        self.heads, self.ties = turns == 0, ties
        return super().loss(batch)

    def counted_state(self, batch: TensorDict) -> Tensor:
        assert self.visits is not None and self.heads is not None
        return super().counted_state(batch) + ~self.heads.squeeze(-1) * (len(self.visits) // 2)

    def tables(self, count: int) -> tuple[list[Table], list[int], list[float] | None] | None:
        if not (isinstance(self.q, Table) and isinstance(self.other_q, Table)):
            return None
        turns, ties = self.coins(count)
        return [self.q, self.other_q], turns.tolist(), ties.tolist()
