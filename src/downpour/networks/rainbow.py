"""Layers of deep Q-learning: noisy layers, dueling heads, outputs in full precision."""

import torch
from torch import Tensor, nn


class NoisyLinear(nn.Module):
    """(mu + sigma * eps) x + a noisy bias, with factorised eps (Fortunato et al. 2018, eqs. 9-11).

    Each forward pass in training draws new noise, so acting, learning and the target network are perturbed
    independently. There is no noise in evaluation.
    """

    def __init__(self, inputs: int, outputs: int, sigma: float):
        """
        Args:
            sigma: sigma_0 of section 3.2; the paper has 0.5.
        """
        super().__init__()
        self.mean = nn.Linear(inputs, outputs)
        bound = inputs**-0.5
        nn.init.uniform_(self.mean.weight, -bound, bound)
        nn.init.uniform_(self.mean.bias, -bound, bound)
        self.weight_sigma = nn.Parameter(torch.full((outputs, inputs), sigma * bound))
        self.bias_sigma = nn.Parameter(torch.full((outputs,), sigma * bound))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs] -> [batch, outputs]."""
        y = self.mean(x)
        if not self.training:
            return y
        outputs, inputs = self.weight_sigma.shape
        noise = torch.randn(inputs + outputs, device=x.device, dtype=self.weight_sigma.dtype)
        before, after = (noise.sign() * noise.abs().sqrt()).split([inputs, outputs])
        return y + after * nn.functional.linear(before * x, self.weight_sigma, self.bias_sigma)


class Dueling(nn.Module):
    """Q = V + A - mean of A over the actions (Wang et al. 2016, eq. 9), separately for each atom of a distribution."""

    def __init__(self, value: nn.Sequential, advantage: nn.Sequential, atoms: int):
        """
        Args:
            value: [batch, width] -> [batch, atoms].
            advantage: [batch, width] -> [batch, actions * atoms].
        """
        super().__init__()
        self.value, self.advantage, self.atoms = value, advantage, atoms

    def forward(self, x: Tensor) -> Tensor:
        """[batch, width] -> [batch, actions * atoms]."""
        advantage = to_outputs(self.advantage, x).unflatten(-1, (-1, self.atoms))
        return (to_outputs(self.value, x).unsqueeze(-2) + advantage - advantage.mean(-2, keepdim=True)).flatten(-2)


def to_outputs(layers: nn.Sequential, x: Tensor) -> Tensor:
    """`layers(x)`, with the last affine map (or the two of a dueling head) in full precision."""
    if not torch.is_autocast_enabled(x.device.type):
        return layers(x)
    *before, last = layers
    for layer in before:
        x = layer(x)
    return last(x) if isinstance(last, Dueling) else in_full(last, x)


def in_full(layer: nn.Module, x: Tensor) -> Tensor:
    """`layer(x)` in the precision of its weights.

    Under autocast its outputs would be bfloat16, whose numbers near 10 are 1/16 apart: often more than the
    difference between the values of two actions.
    """
    if not torch.is_autocast_enabled(x.device.type):
        return layer(x)
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.to(next(layer.parameters()).dtype))
