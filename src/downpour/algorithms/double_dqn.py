"""Double DQN: (65) of the lecture (van Hasselt et al. 2016, eq. 4)."""

from tensordict import TensorDict
from torch import Tensor

from downpour.algorithms.dqn import DQN


class DoubleDQN(DQN):
    """DQN in which theta selects the next action and theta^- evaluates it."""

    def next_action(self, batch: TensorDict, values: Tensor) -> Tensor:
        """argmax_a' Q(X_t+1, a'; theta) of each transition: [batch]."""
        return self.q(batch["next_observation"]).argmax(-1)

    def bootstrap(self, batch: TensorDict) -> Tensor:
        """Q(X_t+1, argmax_a' Q(X_t+1, a'; theta); theta^-) of each transition: [batch]."""
        values = self.next_values(batch)
        return values.gather(-1, self.next_action(batch, values).unsqueeze(-1)).squeeze(-1)
