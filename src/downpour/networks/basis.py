"""Linear functions of fixed features: theta^T phi(x), (60)."""

import itertools
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from downpour.config import ConfigError, NonNegativeInt


class Basis(nn.Module):
    """theta^T phi(x), phi the products of powers or cosines of the coordinates, each scaled to [0, 1].

    `polynomial` has x_1^c_1 ... x_d^c_d, `fourier` cos(pi c . x), for all c in {0, ..., order}^d (Sutton and Barto
    2018, section 9.5).
    """

    low: Tensor
    width: Tensor
    powers: Tensor

    def __init__(
        self,
        input_space: gym.Space,
        outputs: int,
        *,
        kind: Literal["polynomial", "fourier"] = "fourier",
        order: NonNegativeInt = 3,
    ):
        """
        Args:
            kind: of the features.
            order: largest power or frequency of a coordinate; there are (order + 1)^d features.

        Raises:
            ConfigError: the input has no bounds, or would have too many features.
        """
        super().__init__()
        if isinstance(input_space, spaces.Discrete):
            low = np.array([input_space.start])
            high = low + max(1, input_space.n - 1)
        elif isinstance(input_space, spaces.Box) and np.isfinite([input_space.low, input_space.high]).all():
            low, high = input_space.low.flatten(), input_space.high.flatten()
        else:
            raise ConfigError("model", "basis", f"{input_space} has no bounds; use model=linear or mlp")
        if (order + 1) ** len(low) > 100_000:
            raise ConfigError("model.order", order, f"makes {(order + 1) ** len(low)} features; lower it")
        powers = list(itertools.product(range(order + 1), repeat=len(low)))
        self.kind = kind
        self.register_buffer("low", torch.as_tensor(low, dtype=torch.get_default_dtype()))
        self.register_buffer("width", torch.as_tensor(high - low, dtype=torch.get_default_dtype()))
        self.register_buffer("powers", torch.tensor(powers, dtype=torch.get_default_dtype()))
        self.linear = nn.Linear(len(powers), outputs, bias=False)
        nn.init.zeros_(self.linear.weight)

    def features(self, x: Tensor) -> Tensor:
        """phi: [batch, *shape] -> [batch, features]."""
        scaled = (x.reshape(len(x), -1).to(self.low.dtype) - self.low) / self.width
        if self.kind == "fourier":
            return torch.cos(torch.pi * scaled @ self.powers.T)
        return (scaled.unsqueeze(1) ** self.powers).prod(-1)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, *shape] -> [batch, outputs]."""
        return self.linear(self.features(x))
