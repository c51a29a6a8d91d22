"""A table and a linear map, the function classes with convergence theorems."""

import gymnasium as gym
import torch
from gymnasium import spaces
from torch import Tensor, nn

from downpour.config import ConfigError
from downpour.networks.features import Features
from downpour.networks.rainbow import in_full


class Table(nn.Module):
    """One number for each (state, output): the tabular case, (58).

    The gradient of an entry with respect to the table is a unit vector, so SGD on it is the tabular update itself.
    """

    def __init__(self, input_space: gym.Space, outputs: int, *, initial: float | list[float] = 0.0):
        """
        Args:
            input_space: must be discrete.
            outputs: columns.
            initial: initial value of every entry, or one per column; above the largest return (optimistic) it
                encourages exploration.

        Raises:
            ConfigError: the input is not discrete, or `initial` does not have one value per column.
        """
        super().__init__()
        if not isinstance(input_space, spaces.Discrete):
            raise ConfigError(
                "model", "table", f"needs a discrete observation, not {input_space}; use model=mlp or model=linear"
            )
        self.start = int(input_space.start)
        first = torch.tensor(initial)
        if first.ndim and len(first) != outputs:
            raise ConfigError("model.initial", initial, f"needs one value per output ({outputs}), or one for all")
        self.weight = nn.Parameter(first.expand(int(input_space.n), outputs).clone())

    def forward(self, x: Tensor) -> Tensor:
        """[batch] of states -> [batch, outputs]."""
        return self.weight[x.long() - self.start]


class Linear(nn.Module):
    """theta^T phi(x) as in (60), with phi the flattened input (unit vectors for a discrete one)."""

    def __init__(self, input_space: gym.Space, outputs: int, *, bias: bool = True):
        """
        Args:
            bias: add a constant feature.
        """
        super().__init__()
        self.features = Features(input_space)
        self.linear = nn.Linear(self.features.size, outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, *shape] -> [batch, outputs]."""
        return in_full(self.linear, self.features(x))
