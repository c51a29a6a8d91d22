"""The fully connected network."""

import gymnasium as gym
from torch import Tensor, nn

from downpour.config import PositiveInt, Probability
from downpour.networks.features import Features
from downpour.networks.parts import Activation, Initialization, Normalization, Residual, initialize, unit


class MLP(nn.Module):
    """Layers of an affine map and an activation, (66), normalized or not, (67), and an affine map on top."""

    def __init__(
        self,
        input_space: gym.Space,
        outputs: int,
        *,
        hidden: list[PositiveInt],
        activation: Activation = "relu",
        normalization: Normalization = "none",
        dropout: Probability = 0.0,
        initialization: Initialization = "default",
        residual: bool = False,
    ):
        """
        Args:
            hidden: width of each hidden layer; an empty list is a linear map.
            activation: sigma of (66).
            normalization: of A in (67): over the batch, or over the hidden units of each sample.
            dropout: chance that a hidden unit is left out of a gradient step (what remains is scaled up).
            initialization: of the weights.
            residual: a layer as wide as the one before adds to what it is given.
        """
        super().__init__()
        features = Features(input_space)
        layers: list[nn.Module] = [] if features.is_identity else [features]
        width = features.size
        for size in hidden:
            block = unit(nn.Linear(width, size, bias=normalization == "none"), size, normalization, activation)
            if dropout:
                block.append(nn.Dropout(dropout))
            layers += [Residual(*block)] if residual and size == width else block
            width = size
        self.layers = nn.Sequential(*layers, nn.Linear(width, outputs))
        initialize(self, initialization)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, *shape] -> [batch, outputs]."""
        return self.layers(x)
