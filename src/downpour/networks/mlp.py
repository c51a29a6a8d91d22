"""The fully connected network."""

import gymnasium as gym
from torch import nn

from downpour.config import NonNegativeFloat, PositiveInt, Probability
from downpour.networks.features import Features
from downpour.networks.layers import Layers
from downpour.networks.parts import Activation, Initialization, Normalization, Residual, initialize, unit
from downpour.networks.rainbow import Dueling, NoisyLinear


class MLP(Layers):
    """Affine maps and activations, (66), optionally normalized, (67), and a linear output layer."""

    def __init__(
        self,
        input_space: gym.Space,
        outputs: int,
        atoms: int = 1,
        *,
        hidden: list[PositiveInt],
        activation: Activation = "relu",
        normalization: Normalization = "none",
        normalization_eps: NonNegativeFloat | None = None,
        dropout: Probability = 0.0,
        initialization: Initialization = "default",
        residual: bool = False,
        dueling: bool = False,
        noise: NonNegativeFloat = 0.0,
    ):
        """
        Args:
            hidden: width of each hidden layer; an empty list is a linear map.
            activation: sigma of (66).
            normalization: of A in (67): over the batch, or over the hidden units of each sample.
            normalization_eps: constant under the root; null: 1e-5 for batch, 0 for the others.
            dropout: probability of dropping a hidden unit.
            initialization: of the weights.
            residual: add skip connections around layers of equal width.
            atoms: outputs per action, for distributional Q-learning.
            dueling: separate streams for values and advantages (Wang et al. 2016).
            noise: sigma_0 of noisy layers (Fortunato et al. 2018); 0: ordinary layers.
        """
        super().__init__()
        features = Features(input_space)
        self.layers = fully_connected(
            features.size,
            outputs,
            hidden=hidden,
            activation=activation,
            normalization=normalization,
            normalization_eps=normalization_eps,
            dropout=dropout,
            residual=residual,
            atoms=atoms if dueling else None,
            noise=noise,
        )
        if not features.is_identity:
            self.layers.insert(0, features)
        initialize(self, initialization)


def fully_connected(
    width: int,
    outputs: int,
    *,
    hidden: list[int],
    activation: Activation = "relu",
    normalization: Normalization = "none",
    normalization_eps: float | None = None,
    dropout: float = 0.0,
    residual: bool = False,
    atoms: int | None = None,
    noise: float = 0.0,
    linear: type[nn.Linear] = nn.Linear,
) -> nn.Sequential:
    """The layers of an `MLP`: [batch, width] -> [batch, outputs].

    Args:
        atoms: outputs per action of a dueling head; None for a single stream.
        linear: class of the affine maps without noise.
    """

    def affine(before: int, after: int, bias: bool = True) -> nn.Module:
        return NoisyLinear(before, after, noise) if noise else linear(before, after, bias=bias)

    def stack(width: int, sizes: list[int], outputs: int | None) -> nn.Sequential:
        layers: list[nn.Module] = []
        for size in sizes:
            below = affine(width, size, normalization == "none")
            block = unit(below, size, normalization, activation, normalization_eps)
            if dropout:
                block.append(nn.Dropout(dropout))
            layers += [Residual(*block)] if residual and size == width else block
            width = size
        return nn.Sequential(*layers, *([affine(width, outputs)] if outputs else []))

    if atoms is None:
        return stack(width, hidden, outputs)
    shared, last = hidden[:-1], hidden[-1:]
    before = shared[-1] if shared else width
    head = Dueling(stack(before, last, atoms), stack(before, last, outputs), atoms)
    return stack(width, shared, None).append(head)
