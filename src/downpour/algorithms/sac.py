"""SAC: actor-critic with a stochastic actor and an entropy bonus (Haarnoja et al. 2018b)."""

import math
from typing import Any, ClassVar

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torch.optim import Optimizer

from downpour.algorithms.actor_critic import ActorCritic
from downpour.algorithms.q_learning import weighted_mean
from downpour.config import ConfigError, PositiveFloat


class SAC(ActorCritic):
    """Twin critics; a Gaussian actor, squashed by tanh to the bounds; alpha keeps its entropy near a target."""

    num_critics: ClassVar[int] = 2
    outputs_per_action: ClassVar[int] = 2

    def __init__(
        self,
        *args: Any,
        alpha: PositiveFloat = 1.0,
        learn_alpha: bool = True,
        target_entropy: float | None = None,
        **kwargs: Any,
    ):
        """
        Args:
            alpha: initial weight of the entropy.
            learn_alpha: adapt alpha so that the entropy of the actions approaches `target_entropy`.
            target_entropy: with actions in units of half their range; None is minus their dimension.

        Raises:
            ConfigError: noise for a policy that already samples, or a target entropy with a fixed alpha.
        """
        if kwargs.get("noise") is not None:
            raise ConfigError(
                "algo.noise", type(kwargs["noise"]).__name__, "SAC already samples its actions; use algo/noise=null"
            )
        if target_entropy is not None and not learn_alpha:
            raise ConfigError("algo.target_entropy", target_entropy, "needs algo.learn_alpha=true")
        super().__init__(*args, **kwargs)
        self.target_entropy = -float(self.size) if target_entropy is None else target_entropy
        self.target_actor = self.actor  # the soft value is that of the current policy
        self.learn_alpha = learn_alpha
        self.log_alpha = nn.Parameter(torch.tensor(math.log(alpha)), requires_grad=learn_alpha)

    def configure_optimizers(self) -> list[Optimizer]:  # type: ignore[override]
        alpha = [self.optimizer_factory([self.log_alpha])] if self.learn_alpha else []
        return super().configure_optimizers() + alpha

    def gaussian(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation before the squashing, [batch, size] each."""
        mean, log_deviation = self.actor(observation).chunk(2, -1)
        return mean, log_deviation.clamp(-20, 2).exp()

    def deterministic(self, actor: nn.Module, observation: Tensor) -> Tensor:
        return self.centre + self.scale * actor(observation).chunk(2, -1)[0].tanh()

    def draw(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Actions [batch, size], differentiable in the actor, and log p of each [batch]."""
        mean, deviation = self.gaussian(observation)
        raw = mean + deviation * torch.randn_like(mean)
        density = torch.distributions.Normal(mean, deviation, validate_args=False).log_prob(raw)
        # log of d tanh(u) / du = 1 - tanh(u)^2, in the form that does not overflow
        stretch = 2 * (math.log(2) - raw - nn.functional.softplus(-2 * raw)) + self.scale.log()
        return self.centre + self.scale * raw.tanh(), (density - stretch).sum(-1)

    @torch.no_grad()
    def act(self, observation: Tensor, rng: np.random.Generator, *, env_steps: int, explore: bool) -> np.ndarray:
        if not explore or env_steps < self.random_steps:
            return super().act(observation, rng, env_steps=env_steps, explore=explore)
        mean, deviation = self.gaussian(observation)
        raw = mean.cpu().numpy() + deviation.cpu().numpy() * rng.standard_normal(mean.shape, np.float32)
        return self.centre.cpu().numpy() + self.scale.cpu().numpy() * np.tanh(raw)

    def bootstrap(self, observation: Tensor) -> Tensor:
        """min Q(x, a) - alpha log p(a, x) at a sampled action: [batch, ...] -> [batch]."""
        action, log_prob = self.draw(observation)
        return self.q(self.target_critics, observation, action).amin(0) - self.log_alpha.exp() * log_prob

    def actor_loss(self, batch: TensorDict) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean of alpha log p - min Q; the critics get no gradient."""
        observation = batch["observation"]
        action, log_prob = self.draw(observation)
        value = self.frozen_q(self.critics, observation, action).amin(0)
        loss = weighted_mean(self.log_alpha.exp().detach() * log_prob - value, batch.get("weight"))
        return loss, {
            "actor_loss": loss.detach(),
            "entropy": -log_prob.detach(),
            "alpha": self.log_alpha.detach().exp(),
        }

    def alpha_loss(self, entropy: Tensor) -> Tensor:
        """Descent on it raises alpha while the entropy [batch], in the action's own unit, is below the target."""
        return self.log_alpha * (entropy - self.scale.log().sum() - self.target_entropy).mean()

    def learn_from(self, batch: TensorDict) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = super().learn_from(batch)
        if self.learn_alpha and self.variant():
            metrics |= self.backward_and_step(self.alpha_loss(metrics["entropy"]), self.optimizers()[2])
        return loss, metrics
