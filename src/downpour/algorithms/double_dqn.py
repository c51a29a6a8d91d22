"""Double DQN: (65) of the lecture (van Hasselt et al. 2016, eq. 4)."""

from torch import Tensor

from downpour.algorithms.dqn import DQN


class DoubleDQN(DQN):
    """DQN that lets theta choose the next action and theta^- judge it."""

    def bootstrap(self, observation: Tensor) -> Tensor:
        """Q(x, argmax_a Q(x, a; theta); theta^-): [batch, ...] -> [batch]."""
        chosen = self.q(observation).argmax(-1, keepdim=True)
        return self.older_q(observation).gather(-1, chosen).squeeze(-1)
