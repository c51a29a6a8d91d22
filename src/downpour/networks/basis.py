"""Linear functions of fixed features: theta^T phi(x), (60)."""

import itertools
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from downpour.config import ConfigError, NonNegativeInt, PositiveInt


def bounds(space: gym.Space, model: str) -> tuple[np.ndarray, np.ndarray]:
    """(lowest, highest) value of each coordinate [d].

    Raises:
        ConfigError: a coordinate is unbounded.
    """
    if isinstance(space, spaces.Discrete):
        low = np.array([space.start])
        return low, low + max(1, space.n - 1)
    if isinstance(space, spaces.Box) and np.isfinite([space.low, space.high]).all():
        return space.low.flatten(), space.high.flatten()
    raise ConfigError("model", model, f"{space} has no bounds; use model=linear or mlp")


class GivenFeatures(nn.Module):
    """theta^T phi(x) of a discrete x, phi(x) a row of a table of your own."""

    phi: Tensor

    def __init__(self, input_space: gym.Space, outputs: int, *, phi: list[list[float]], initial: float = 1.0):
        """
        Args:
            phi: [states, features].
            initial: first value of every weight.

        Raises:
            ConfigError: the input is not discrete, or the table does not have one row of equal length per state.
        """
        super().__init__()
        if not isinstance(input_space, spaces.Discrete):
            raise ConfigError("model", "features", f"needs a discrete observation, not {input_space}; use model=basis")
        if len(phi) != input_space.n or not phi[0] or len({len(row) for row in phi}) > 1:
            raise ConfigError("model.phi", phi, f"needs {input_space.n} rows of equal length, one per state")
        self.start = int(input_space.start)
        self.register_buffer("phi", torch.tensor(phi, dtype=torch.get_default_dtype()))
        self.linear = nn.Linear(len(phi[0]), outputs, bias=False)
        nn.init.constant_(self.linear.weight, initial)

    def features(self, x: Tensor) -> Tensor:
        """phi: [batch] -> [batch, features]."""
        return self.phi[x.long() - self.start]

    def forward(self, x: Tensor) -> Tensor:
        """[batch] -> [batch, outputs]."""
        return self.linear(self.features(x))


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
        low, high = bounds(input_space, "basis")
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


class Tiles(nn.Module):
    """theta^T phi(x), phi the tile coding of x (Sutton and Barto 2018, section 9.5.4).

    Each of `tilings` grids over the coordinates, scaled to [0, 1], has one tile that x lies in: that feature is 1, the
    others of the grid are 0. Grid k is moved by k / tilings of a tile times 1, 3, 5, ... along the coordinates.
    """

    low: Tensor
    width: Tensor
    moved: Tensor
    strides: Tensor

    def __init__(self, input_space: gym.Space, outputs: int, *, tiles: PositiveInt = 8, tilings: PositiveInt = 8):
        """
        Args:
            tiles: along each coordinate; a shifted grid needs one more.
            tilings: number of grids; a step of size alpha / tilings moves the value at x by alpha times the error.

        Raises:
            ConfigError: the input has no bounds, or would have too many features.
        """
        super().__init__()
        low, high = bounds(input_space, "tiles")
        size = len(low)
        self.each = (tiles + 1) ** size  # features per grid
        if tilings * self.each > 10_000_000:
            raise ConfigError("model.tiles", tiles, f"makes {tilings * self.each} features; lower it")
        self.tiles, self.tilings = tiles, tilings
        shifts = torch.arange(tilings).unsqueeze(-1) * (2 * torch.arange(size) + 1) % tilings / tilings
        self.register_buffer("low", torch.as_tensor(low, dtype=torch.get_default_dtype()))
        self.register_buffer("width", torch.as_tensor(high - low, dtype=torch.get_default_dtype()))
        self.register_buffer("moved", shifts)
        self.register_buffer("strides", (tiles + 1) ** torch.arange(size))
        self.weight = nn.Parameter(torch.zeros(tilings * self.each, outputs))

    def active(self, x: Tensor) -> Tensor:
        """Which features are 1: [batch, *shape] -> [batch, tilings]."""
        place = (x.reshape(len(x), -1).to(self.low.dtype) - self.low) / self.width * self.tiles
        tile = (place.unsqueeze(1) + self.moved).floor().long().clamp(0, self.tiles)
        return (tile * self.strides).sum(-1) + torch.arange(self.tilings, device=x.device) * self.each

    def features(self, x: Tensor) -> Tensor:
        """phi: [batch, *shape] -> [batch, features]."""
        phi = torch.zeros(len(x), len(self.weight), dtype=self.weight.dtype, device=self.weight.device)
        return phi.scatter_(1, self.active(x), 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, *shape] -> [batch, outputs]; the sum over the features that are 1, and no others."""
        return nn.functional.embedding_bag(self.active(x), self.weight, mode="sum")
