"""Action distributions p(a, x; theta), parametrized by a network's outputs."""

from typing import Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.distributions import Categorical as CategoricalDistribution
from torch.distributions import Distribution, Independent, MixtureSameFamily, Normal

from downpour.config import ConfigError, NonNegativeFloat, PositiveFloat, PositiveInt, Probability


class Head(nn.Module):
    """Turns the outputs of a network into a distribution over actions.

    Attributes:
        outputs: number of network outputs it needs.
        has_entropy: whether its entropy has a closed form.
    """

    outputs: int
    has_entropy = True

    def distribution(self, outputs: Tensor) -> Distribution:
        """p(., x; theta) for outputs [batch, outputs]; its log_prob takes actions as `sample` returns them."""
        raise NotImplementedError

    def sample(self, outputs: Tensor, rng: np.random.Generator) -> np.ndarray:
        """Actions [batch, ...] sampled from p, using `rng` only."""
        raise NotImplementedError

    def mode(self, outputs: Tensor) -> np.ndarray:
        """The most likely actions [batch, ...] (for a mixture: the mean of its heaviest component)."""
        raise NotImplementedError

    def probabilities(self, outputs: Tensor) -> np.ndarray:
        """p(a, x) of discrete actions, [batch, actions]."""
        raise TypeError(f"the actions of {type(self).__name__} are not discrete")


class Categorical(Head):
    """Softmax over K actions, the model of (10)-(18)."""

    def __init__(self, action_space: gym.Space):
        """
        Raises:
            ConfigError: the actions are not discrete.
        """
        super().__init__()
        if not isinstance(action_space, spaces.Discrete):
            advice = f"needs discrete actions, not {action_space}; use model/head=gaussian or mixture_of_gaussians"
            raise ConfigError("model/head", "categorical", advice)
        self.outputs, self.first_action = int(action_space.n), int(action_space.start)

    def distribution(self, outputs: Tensor) -> Distribution:
        return _Shifted(outputs, self.first_action)

    def sample(self, outputs: Tensor, rng: np.random.Generator) -> np.ndarray:
        scores = outputs.cpu().numpy()  # the largest of logit + Gumbel noise is a draw from the softmax
        return (scores + rng.gumbel(size=scores.shape)).argmax(-1) + self.first_action

    def mode(self, outputs: Tensor) -> np.ndarray:
        return outputs.argmax(-1).cpu().numpy() + self.first_action

    def probabilities(self, outputs: Tensor) -> np.ndarray:
        return outputs.double().softmax(-1).cpu().numpy()


class _Shifted(CategoricalDistribution):
    """A categorical distribution over first, first + 1, ..."""

    def __init__(self, logits: Tensor, first: int):
        super().__init__(logits=logits, validate_args=False)
        self.first = first

    def log_prob(self, value: Tensor) -> Tensor:
        index, logits = torch.broadcast_tensors((value - self.first).long().unsqueeze(-1), self.logits)
        return logits.gather(-1, index[..., :1]).squeeze(-1)


class _Continuous(Head):
    """Actions in units of half their range, relative to its centre; unscaled where there are no bounds."""

    centre: Tensor
    scale: Tensor
    log_sigma: Tensor

    def __init__(self, action_space: gym.Space, sigma: float, learn_sigma: bool):
        super().__init__()
        name = type(self).__name__
        if not isinstance(action_space, spaces.Box):
            advice = f"needs continuous actions, not {action_space}; use model/head=categorical"
            raise ConfigError("model/head", name, advice)
        if len(action_space.shape) != 1:
            raise ConfigError("model/head", name, f"actions of shape {action_space.shape} are not a vector")
        self.size = action_space.shape[0]
        low, high = torch.as_tensor(action_space.low), torch.as_tensor(action_space.high)
        bounded = low.isfinite() & high.isfinite()
        self.register_buffer("centre", torch.where(bounded, (low + high) / 2, 0.0).float())
        self.register_buffer("scale", torch.where(bounded, (high - low) / 2, 1.0).float())
        log_sigma = torch.full((self.size,), float(np.log(sigma)))
        if learn_sigma:
            self.log_sigma = nn.Parameter(log_sigma)
        else:
            self.register_buffer("log_sigma", log_sigma)

    @property
    def sigma(self) -> Tensor:
        """Standard deviation of each action [size]."""
        return self.scale * self.log_sigma.exp()


class Gaussian(_Continuous):
    """Independent Gaussians around mu(x; theta): (19) with one component."""

    def __init__(self, action_space: gym.Space, *, sigma: PositiveFloat = 0.5, learn_sigma: bool = True):
        """
        Args:
            sigma: initial standard deviation, in units of half the action range.
            learn_sigma: whether it is learned; it does not depend on the observation.

        Raises:
            ConfigError: the actions are not a continuous vector.
        """
        super().__init__(action_space, sigma, learn_sigma)
        self.outputs = self.size

    def distribution(self, outputs: Tensor) -> Distribution:
        return Independent(Normal(self.centre + self.scale * outputs, self.sigma, validate_args=False), 1)

    def sample(self, outputs: Tensor, rng: np.random.Generator) -> np.ndarray:
        noise = rng.standard_normal(outputs.shape, dtype=np.float32)
        return self.mode(outputs) + self.sigma.detach().cpu().numpy() * noise

    def mode(self, outputs: Tensor) -> np.ndarray:
        return (self.centre + self.scale * outputs).cpu().numpy()


class MixtureOfGaussians(_Continuous):
    """c_1 N(mu_1(x), sigma) + ... + c_M N(mu_M(x), sigma): (19); with weights c_i(x; nu), (21)."""

    has_entropy = False
    log_weights: Tensor

    def __init__(
        self,
        action_space: gym.Space,
        *,
        components: PositiveInt = 2,
        weights: Literal["fixed", "learned"] | list[Probability] = "learned",
        sigma: PositiveFloat = 0.3,
        learn_sigma: bool = False,
        spread: NonNegativeFloat = 0.5,
    ):
        """
        Args:
            components: M.
            weights: c_1, ..., c_M of (19), or `fixed` at 1 / M; `learned`, a softmax over outputs of the network, (21).
            sigma: initial standard deviation of every component, in units of half the action range.
            learn_sigma: whether it is learned.
            spread: initial means are evenly spaced in [-spread, spread], in the same unit.

        Raises:
            ConfigError: the actions are not a continuous vector, or the weights are not a convex combination, (20).
        """
        super().__init__(action_space, sigma, learn_sigma)
        self.components, self.weights_are_learned = components, weights == "learned"
        fixed = torch.tensor(weights if isinstance(weights, list) else [1 / components] * components)
        if len(fixed) != components or abs(float(fixed.sum()) - 1) > 1e-6:
            advice = f"needs {components} non-negative numbers (algo.head.components) that sum to 1"
            raise ConfigError("algo.head.weights", weights, advice)
        log_weights = fixed.log() if isinstance(weights, list) else torch.zeros(components)
        self.register_buffer("log_weights", log_weights, persistent=False)
        self.outputs = components * self.size + (components if self.weights_are_learned else 0)
        offset = torch.linspace(-spread, spread, components) if components > 1 else torch.zeros(1)
        self.register_buffer("offset", offset.unsqueeze(-1).expand(components, self.size).clone())

    def parts(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """log c_i [batch, M], up to a constant, and mu_i [batch, M, size]."""
        means = outputs[:, : self.components * self.size].unflatten(-1, (self.components, self.size))
        learned = outputs[:, self.components * self.size :]
        logits = learned if self.weights_are_learned else self.log_weights.to(means).expand_as(means[..., 0])
        return logits, self.centre + self.scale * (self.offset + means)

    def distribution(self, outputs: Tensor) -> Distribution:
        logits, means = self.parts(outputs)
        parts = Independent(Normal(means, self.sigma, validate_args=False), 1)
        weights = CategoricalDistribution(logits=logits, validate_args=False)
        return MixtureSameFamily(weights, parts, validate_args=False)

    def sample(self, outputs: Tensor, rng: np.random.Generator) -> np.ndarray:
        logits, means = (part.cpu().numpy() for part in self.parts(outputs))
        chosen = (logits + rng.gumbel(size=logits.shape)).argmax(-1)
        mean = means[np.arange(len(means)), chosen]
        return mean + self.sigma.detach().cpu().numpy() * rng.standard_normal(mean.shape, dtype=np.float32)

    def mode(self, outputs: Tensor) -> np.ndarray:
        logits, means = (part.cpu().numpy() for part in self.parts(outputs))
        return means[np.arange(len(means)), logits.argmax(-1)]


def fitting(action_space: gym.Space) -> Head:
    """The usual head: categorical for discrete actions, one Gaussian with a learned sigma for continuous ones."""
    return Categorical(action_space) if isinstance(action_space, spaces.Discrete) else Gaussian(action_space)
