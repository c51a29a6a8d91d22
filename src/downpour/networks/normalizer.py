"""Normalization of observations by their running mean and standard deviation."""

import gymnasium as gym
import torch
import torch.distributed as dist
from gymnasium import spaces
from torch import Tensor, nn

from downpour.config import ConfigError


class RunningNormalizer(nn.Module):
    """(x - mean) / standard deviation over everything seen so far, clipped to +-10; at first the identity.

    Its statistics are buffers, so checkpoints and evaluation have them.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, space: gym.Space):
        """
        Raises:
            ConfigError: the observations are discrete.
        """
        super().__init__()
        if not isinstance(space, spaces.Box):
            raise ConfigError("algo.normalize_observations", True, f"needs Box observations, not {space}")
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(space.shape, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(space.shape, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, *shape] -> [batch, *shape] of floats."""
        deviation = (self.squares / self.count.clamp(min=1)).sqrt().clamp(min=1e-4)
        normal = ((x - self.mean) / deviation).clamp(-10, 10).float()
        return torch.where(self.count == 0, x.float(), normal)  # branching on the count would synchronize with the GPU

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Update the statistics with observations [batch, *shape] of all ranks (Chan et al. 1979)."""
        x = x.double()
        sums = torch.cat([torch.full((1,), float(len(x))).to(x), x.sum(0).flatten(), x.square().sum(0).flatten()])
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(sums)
        count = sums[0]
        total, squares = (part.view_as(self.mean) for part in sums[1:].chunk(2))
        mean, both = total / count, self.count + count
        shift = mean - self.mean
        self.squares += (squares - count * mean.square()).clamp(min=0) + shift.square() * self.count * count / both
        self.mean += shift * count / both
        self.count += count
