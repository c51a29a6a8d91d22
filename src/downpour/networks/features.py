"""From observations or inputs of any type to a flat vector of floats."""

import gymnasium as gym
import torch
from gymnasium import spaces
from torch import Tensor, nn

from downpour.config import ConfigError


class Features(nn.Module):
    """[batch, *shape] of any dtype -> [batch, size] of floats.

    Discrete inputs are one-hot encoded, bytes divided by 255, everything else is flattened.

    Attributes:
        size: length of the vector.
        is_identity: the input already is such a vector, so the layer can be omitted.
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
