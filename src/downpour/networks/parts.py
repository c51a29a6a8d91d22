"""Building blocks of networks: activations, normalizations, initialization."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

Activation = Literal["relu", "tanh", "elu", "gelu", "silu"]
Normalization = Literal["none", "batch", "layer", "rms"]
Initialization = Literal["default", "xavier", "he", "orthogonal"]


class ReLU(nn.ReLU):
    """max(0, A) in place: on a CPU, small networks are bound by memory, not by arithmetic.

    A is the output of an affine map or a normalization, whose gradients do not need it.
    """

    def forward(self, a: Tensor) -> Tensor:
        """[batch, ...] -> the same, in place unless autograd forbids it."""
        if a.requires_grad and (a.is_leaf or a._is_view()):  # received from another stage or rank; a transpose
            return a.relu()
        return a.relu_()


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


class LayerNormalization(nn.Module):
    """gamma * (A - mu) / beta + b, (67), with the statistics (68) of one sample's own hidden units.

    With eps = 0 nothing is added to beta^2. Where all units are equal (beta = 0) the output is then b, and the
    gradient 0.
    """

    def __init__(self, width: int, eps: float = 0.0):
        """
        Args:
            eps: added to the square of beta, inside the root.
        """
        super().__init__()
        self.gamma, self.b = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, a: Tensor) -> Tensor:
        """[batch, width] or [batch, width, height, width], all of it the hidden units -> the same."""
        eps = self.eps
        if eps == 0:
            eps = torch.finfo(a.dtype).tiny  # avoids division by zero; equal units give b
            if torch.is_grad_enabled():  # their gradient would be 1 / sqrt(eps) times too large: zero it
                low, high = a.detach().flatten(1).aminmax(dim=1, keepdim=True)
                a = a * (low < high).view(-1, *(1,) * (a.ndim - 1))
        if a.ndim == 2:
            return nn.functional.layer_norm(a, a.shape[1:], self.gamma, self.b, eps)
        return nn.functional.group_norm(a, 1, self.gamma, self.b, eps)


class RMSNormalization(nn.Module):
    """gamma * A / sqrt(mean of A^2) + b over one sample's hidden units (Zhang and Sennrich 2019, eq. 4).

    With eps = 0 nothing is added to the mean; where the mean is 0, A is not divided.
    """

    def __init__(self, width: int, eps: float = 0.0):
        """
        Args:
            eps: added to the mean of A^2, inside the root.
        """
        super().__init__()
        self.gamma, self.b = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, a: Tensor) -> Tensor:
        """[batch, width, ...] -> the same."""
        mean = a.square().mean(tuple(range(1, a.ndim)), keepdim=True)
        shape = (-1, *(1,) * (a.ndim - 2))
        added = mean + (self.eps or torch.finfo(a.dtype).tiny)
        if not self.eps:
            added = torch.where(mean > 0, added, 1.0)
        return self.gamma.view(shape) * a * added.rsqrt() + self.b.view(shape)


class BatchNormalization(nn.Module):
    """Batch normalization (Ioffe and Szegedy 2015, Algorithm 1), including batches of one.

    For one sample the formula gives the bias, and no gradient to the layers below; Torch raises an error. Running
    statistics are still updated.
    """

    def __init__(self, width: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.gamma, self.b = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.momentum, self.eps = momentum, eps
        self.mean: Tensor
        self.variance: Tensor
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, a: Tensor) -> Tensor:
        """[batch, width, ...] -> the same."""
        if self.training and a.numel() == a.shape[1]:
            with torch.no_grad():
                self.mean.lerp_(a.flatten(), self.momentum)
                self.variance.mul_(1 - self.momentum)
            shape = (-1, *(1,) * (a.ndim - 2))
            return (a - a) * self.gamma.view(shape) + self.b.view(shape)
        return nn.functional.batch_norm(
            a, self.mean, self.variance, self.gamma, self.b, self.training, self.momentum, self.eps
        )


NORMALIZATIONS: dict[str, Callable[..., nn.Module]] = {
    "batch": BatchNormalization,
    "layer": LayerNormalization,
    "rms": RMSNormalization,
}


def unit(
    affine: nn.Module, width: int, normalization: Normalization, activation: Activation, eps: float | None = None
) -> list[nn.Module]:
    """A layer: (66), or (67) with normalization, whose affine map needs no bias.

    Args:
        eps: of the normalization; None takes its own.
    """
    more = {} if eps is None else {"eps": eps}
    between = [] if normalization == "none" else [NORMALIZATIONS[normalization](width, **more)]
    return [affine, *between, ACTIVATIONS[activation]()]


class Residual(nn.Module):
    """x + layers(x) (He et al. 2016, eq. 1)."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, ...] -> the same."""
        return x + self.layers(x)


def initialize(network: nn.Module, kind: Initialization) -> None:
    """Initialize all weight matrices and kernels, biases to 0; `default` keeps Torch's initialization.

    xavier: Glorot and Bengio 2010, eq. 16; he: He et al. 2015, eq. 10; orthogonal: Saxe et al. 2014. The gates of a
    recurrent layer are initialized separately.
    """
    if kind == "default":
        return
    draw: Callable[[Tensor], Tensor] = {
        "xavier": nn.init.xavier_uniform_,
        "he": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
        "orthogonal": nn.init.orthogonal_,
    }[kind]
    for module in network.modules():
        if isinstance(module, nn.RNNBase):
            gates = 4 if module.mode == "LSTM" else 3
            for name, weight in module.named_parameters():
                with torch.no_grad():
                    for gate in weight.chunk(gates):
                        if name.startswith("weight"):
                            draw(gate)
                        else:
                            gate.zero_()
        elif isinstance(module, nn.Linear | nn.Conv2d):
            draw(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
