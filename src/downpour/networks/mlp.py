"""The fully connected network."""

from collections.abc import Callable
from typing import Literal

import gymnasium as gym
from torch import Tensor, nn

from downpour.config import PositiveInt
from downpour.networks.features import Features

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


class MLP(nn.Module):
    """Layers of an affine map and an activation, (66), and an affine map on top."""

    def __init__(
        self,
        input_space: gym.Space,
        outputs: int,
        *,
        hidden: list[PositiveInt],
        activation: Literal["relu", "tanh", "elu", "gelu", "silu"] = "relu",
    ):
        """
        Args:
            hidden: width of each hidden layer; an empty list is a linear map.
            activation: sigma of (66).
        """
        super().__init__()
        features = Features(input_space)
        layers: list[nn.Module] = [] if features.is_identity else [features]
        width = features.size
        for size in hidden:
            layers += [nn.Linear(width, size), ACTIVATIONS[activation]()]
            width = size
        self.layers = nn.Sequential(*layers, nn.Linear(width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, *shape] -> [batch, outputs]."""
        return self.layers(x)
