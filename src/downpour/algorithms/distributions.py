"""Learning the distribution of the return instead of its mean, represented by "atoms" for each action."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from downpour.config import ConfigError, PositiveFloat, PositiveInt


class ReturnDistribution(nn.Module, ABC):
    """How a distribution is represented by atoms.

    Attributes:
        atoms: numbers per action.
    """

    atoms: int

    @abstractmethod
    def mean(self, atoms: Tensor) -> Tensor:
        """Q: [..., atoms] -> [...]."""

    @abstractmethod
    def losses(self, atoms: Tensor, following: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        """Distance between the distribution of (X_t, A_t) and its target, R_t + discount * following; never negative.

        Args:
            atoms, following: [batch, atoms].
            reward, discount: [batch]; the discount of a terminal step is 0.

        Returns:
            [batch].
        """


class Categorical(ReturnDistribution):
    """C51 (Bellemare et al. 2017): logits of fixed returns from `low` to `high`."""

    support: Tensor

    def __init__(self, *, atoms: PositiveInt = 51, low: float = -10.0, high: float = 10.0):
        """
        Args:
            atoms: number of returns.
            low, high: the smallest and largest of them.

        Raises:
            ConfigError: the support is empty.
        """
        super().__init__()
        if atoms < 2 or low >= high:
            raise ConfigError(
                "algo.distribution.atoms", atoms, f"needs at least 2, and low={low:g} below high={high:g}"
            )
        self.atoms, self.spacing = atoms, (high - low) / (atoms - 1)
        self.register_buffer("support", torch.linspace(low, high, atoms))

    def mean(self, atoms: Tensor) -> Tensor:
        return (atoms.softmax(-1) * self.support).sum(-1)

    def project(self, probability: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        """Eq. 7: project the distribution of reward + discount * support onto the support, [batch, atoms].

        Args:
            probability: [batch, atoms].
            reward, discount: [batch].
        """
        moved = (reward[:, None] + discount[:, None] * self.support).clamp(self.support[0], self.support[-1])
        distance = (moved[:, None, :] - self.support[:, None]).abs() / self.spacing
        return ((1 - distance).clamp(min=0) * probability[:, None, :]).sum(-1)

    def losses(self, atoms: Tensor, following: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        """D_KL(target || p): the gradient is that of the cross-entropy in Algorithm 1."""
        target = self.project(following.softmax(-1), reward, discount)
        return (torch.special.xlogy(target, target) - target * atoms.log_softmax(-1)).sum(-1)


class Quantile(ReturnDistribution):
    """QR-DQN (Dabney et al. 2018): quantiles at the midpoints of equal probability intervals."""

    tau: Tensor

    def __init__(self, *, atoms: PositiveInt = 51, kappa: PositiveFloat = 1.0):
        """
        Args:
            atoms: number of quantiles (the paper: 200).
            kappa: threshold of the Huber loss.
        """
        super().__init__()
        self.atoms, self.kappa = atoms, kappa
        self.register_buffer("tau", (torch.arange(atoms) + 0.5) / atoms)

    def mean(self, atoms: Tensor) -> Tensor:
        return atoms.mean(-1)

    def losses(self, atoms: Tensor, following: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        """Quantile Huber loss, eq. 10 and Algorithm 1: summed over the atoms, averaged over the target's."""
        target = reward[:, None] + discount[:, None] * following
        error = target[:, None, :] - atoms[:, :, None]
        weight = (self.tau[:, None] - (error.detach() < 0).to(error)).abs()
        huber = nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=self.kappa)
        return (weight * huber / self.kappa).mean(-1).sum(-1)


class DistributionalQ(nn.Module):
    """Q as the means of the distributions that a network predicts."""

    def __init__(self, network: nn.Module, actions: int, distribution: ReturnDistribution):
        super().__init__()
        self.network, self.actions, self.distribution = network, actions, distribution

    def atoms(self, observation: Tensor) -> Tensor:
        """[batch, ...] -> [batch, actions, atoms]."""
        return self.network(observation).float().unflatten(-1, (self.actions, self.distribution.atoms))

    def forward(self, observation: Tensor) -> Tensor:
        """[batch, ...] -> [batch, actions]."""
        return self.distribution.mean(self.atoms(observation))
