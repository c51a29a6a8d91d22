"""Three ways to predict with a network trained with dropout.

Training with dropout fits an ensemble of networks, one for each mask. The prediction that is meant is their mean,
E_R[p(y | x, R)]. Leaving all units in and scaling the weights by the probability of being kept (what `eval()` does;
Torch scales up in training instead) is ad hoc: it exchanges the mean and the nonlinearity, and is exact only where the
network is linear behind the masks.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

LARGEST = 20  # masked units that can be enumerated
DROPPING = (nn.Dropout, nn.Dropout2d, nn.RNNBase)


@contextmanager
def _dropping(network: nn.Module) -> Iterator[None]:
    """Evaluation mode, except that dropout layers stay active."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    for module in network.modules():
        if isinstance(module, DROPPING):
            module.train()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def scaled(network: nn.Module, x: Tensor) -> Tensor:
    """Weight scaling: log probabilities [batch, classes] with all units active."""
    was_training = network.training
    network.eval()
    try:
        return network(x).log_softmax(-1)
    finally:
        network.train(was_training)


def drops(network: nn.Module) -> bool:
    """Whether the network has active dropout layers."""
    dropping = (module for module in network.modules() if isinstance(module, DROPPING))
    return any((module.dropout if isinstance(module, nn.RNNBase) else module.p) > 0 for module in dropping)


def _draws(network: nn.Module, x: Tensor, samples: int, seed: int) -> Iterator[Tensor]:
    """Outputs under `samples` random masks; the global generators are not advanced."""
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices), _dropping(network):
        torch.manual_seed(seed)
        for _ in range(samples):
            yield network(x)


@torch.no_grad()
def monte_carlo(network: nn.Module, x: Tensor, samples: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The mean over `samples` random masks (Gal and Ghahramani 2016, eq. 6), and their disagreement.

    Args:
        seed: of the masks; the global generators are not advanced.

    Returns:
        Logarithms of the mean probabilities [batch, ..., classes]; the mutual information of prediction and mask in
        nats [batch, ...], which is 0 where all masks agree and is the part of the uncertainty that more data would
        remove.
    """
    mean, doubt = torch.zeros(()), torch.zeros(())
    for outputs in _draws(network, x, samples, seed):
        p = outputs.softmax(-1)
        mean, doubt = mean + p / samples, doubt + entropy(p) / samples
    return mean.log(), (entropy(mean) - doubt).clamp(min=0)


@torch.no_grad()
def monte_carlo_numbers(network: nn.Module, x: Tensor, samples: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The same for a network whose outputs are numbers: their mean and standard deviation over masks [batch, outputs].

    The noise of the targets themselves is not in it (Gal and Ghahramani 2016, eq. 7, without its first term).
    """
    mean, square = torch.zeros(()), torch.zeros(())
    for number, outputs in enumerate(_draws(network, x, samples, seed), 1):  # Welford's algorithm: no cancellation
        step = outputs - mean
        mean = mean + step / number
        square = square + step * (outputs - mean)
    return mean, (square / samples).sqrt()


@torch.no_grad()
def exact(network: nn.Module, x: Tensor) -> Tensor:
    """The mean over all masks of a small network with one dropout layer over vectors; logarithms [batch, classes].

    Raises:
        ValueError: there is not exactly one such layer, or it has more than 20 units.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Dropout)]
    if len(layers) != 1:
        raise ValueError(f"masks can be enumerated for one dropout layer only, the network has {len(layers)}")
    (layer,) = layers
    given: list[Tensor] = []
    mask: Tensor | None = None

    def replace(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        given.append(inputs[0])
        return None if mask is None else inputs[0] * mask / (1 - layer.p)

    was_training = network.training
    network.eval()
    handle = layer.register_forward_hook(replace)
    try:
        network(x)
        units = given[0].shape[-1]
        if units > LARGEST:
            raise ValueError(f"2^{units} masks are too many to enumerate; at most {LARGEST} units")
        total: Tensor | float = 0.0
        for kept in itertools.product((0.0, 1.0), repeat=units):
            mask = x.new_tensor(kept)
            chance = (1 - layer.p) ** sum(kept) * layer.p ** (units - sum(kept))
            total = total + chance * network(x).softmax(-1)
    finally:
        handle.remove()
        network.train(was_training)
    assert isinstance(total, Tensor)
    return total.log()


def entropy(probabilities: Tensor) -> Tensor:
    """-sum p log p over the classes, in nats: [..., classes] -> [...]."""
    return -torch.special.xlogy(probabilities, probabilities).sum(-1)
