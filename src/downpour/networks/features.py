"""From what an environment or a data set hands out to a flat vector of floats."""

import gymnasium as gym
import torch
from gymnasium import spaces
from torch import Tensor, nn

from downpour.config import ConfigError


class Features(nn.Module):
    """[batch, *shape] of any dtype -> [batch, size] of floats.

    A discrete input becomes its unit vector, bytes are divided by 255, the rest is flattened as it is.

    Attributes:
        size: length of the vector.
        is_identity: the input is such a vector already, so that the layer may be left out.
    """

    def __init__(self, space: gym.Space):
        super().__init__()
        self.classes = self.start = 0
        self.scale = 1.0
        self.is_identity = False
        if isinstance(space, spaces.Discrete):
            self.classes, self.start = int(space.n), int(space.start)
            self.size = self.classes
        elif isinstance(space, spaces.Box | spaces.MultiBinary | spaces.MultiDiscrete):
            self.size = int(torch.Size(space.shape).numel())
            self.scale = 1 / 255 if space.dtype == "uint8" else 1.0
            self.is_identity = len(space.shape) == 1 and space.dtype in ("float32", "float64")
        else:
            raise ConfigError("env.id", type(space).__name__, "observation spaces of this type are not supported")

    def forward(self, x: Tensor) -> Tensor:
        if self.classes:
            return nn.functional.one_hot(x.long() - self.start, self.classes).to(torch.get_default_dtype())
        x = x.reshape(len(x), self.size).to(torch.get_default_dtype())
        return x * self.scale if self.scale != 1.0 else x
