"""What stochastic policies share: acting, evaluation, normalization statistics."""

from collections.abc import Iterator
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torch.distributions import Distribution

from downpour.algorithms.base import Algorithm, Network, OptimizerFactory
from downpour.algorithms.returns import RewardNormalizer
from downpour.config import ConfigError, Discount, NonNegativeFloat, PositiveFloat
from downpour.networks.heads import Head
from downpour.networks.normalizer import RunningNormalizer


class StochasticPolicy(Algorithm):
    """Acts by sampling from p(a, x; theta). A subclass defines `learn`, which shapes a round into batches, and `loss`.

    A round is rows [steps + 1, num_envs] (see `RolloutData`). The weights that acted are those in place when the round
    arrives, so log-probabilities and values at acting time are computed here, for the whole round at once.
    """

    def __init__(
        self,
        observation_space: gym.Space,
        network: Network,
        optimizer: OptimizerFactory,
        *,
        head: Head,
        gamma: Discount,
        entropy_coefficient: NonNegativeFloat = 0.0,
        normalize_observations: bool = False,
        normalize_rewards: bool = False,
        evaluation: Literal["mode", "sample"] = "mode",
        with_value: bool = True,
        gradient_clip: PositiveFloat | None,
    ):
        """
        Args:
            head: turns the network's outputs into the distribution.
            gamma: discount.
            entropy_coefficient: weight of the entropy in the objective.
            normalize_observations: feed the networks observations of mean 0 and variance 1 over the run so far.
            normalize_rewards: divide rewards by the standard deviation of their discounted sums over the run so far.
            evaluation: take the most likely action, or sample, when exploration is off.
            with_value: whether to have a second network for V(x).

        Raises:
            ConfigError: an entropy bonus for a head without a closed-form entropy.
        """
        super().__init__(optimizer, gradient_clip=gradient_clip)
        if entropy_coefficient > 0 and not head.has_entropy:
            advice = f"{type(head).__name__} has no closed-form entropy; use 0 or model/head=gaussian"
            raise ConfigError("algo.entropy_coefficient", entropy_coefficient, advice)
        self.gamma, self.entropy_coefficient, self.evaluation = gamma, entropy_coefficient, evaluation
        self.head = head
        self.policy = network(observation_space, head.outputs)
        self.value = network(observation_space, 1) if with_value else None
        self.normalizer = RunningNormalizer(observation_space) if normalize_observations else None
        self.rewards = RewardNormalizer(gamma) if normalize_rewards else None

    def seen(self, observation: Tensor) -> Tensor:
        """Observations as the networks get them: normalized, if asked for."""
        return observation if self.normalizer is None else self.normalizer(observation)

    @torch.no_grad()
    def act(self, observation: Tensor, rng: np.random.Generator, *, env_steps: int, explore: bool) -> np.ndarray:
        outputs = self.policy(self.seen(observation))
        draws = explore or self.evaluation == "sample"
        return self.head.sample(outputs, rng) if draws else self.head.mode(outputs)

    def missing_values(self) -> str | None:
        return None if self.value is not None else "learns no V(x) with these settings"

    def state_values(self, observation: Tensor) -> Tensor:
        """V(x): [batch, ...] -> [batch]."""
        assert isinstance(self.value, nn.Module)
        return self.value(self.seen(observation)).squeeze(-1)

    @torch.no_grad()
    def valued_policy(self, observation: Tensor) -> np.ndarray:
        return self.head.probabilities(self.policy(self.seen(observation)))

    def action_probabilities(self, observation: Tensor) -> np.ndarray:
        p = self.valued_policy(observation)
        return p if self.evaluation == "sample" else np.eye(p.shape[1])[p.argmax(1)]

    def entropy(self, distribution: Distribution, log_prob: Tensor) -> Tensor:
        """Entropy at each observation [batch]; 0 where there is no closed form."""
        return distribution.entropy() if self.head.has_entropy else torch.zeros_like(log_prob)

    def batches(self, round: TensorDict) -> Iterator[TensorDict]:
        if self.rewards is not None:
            round = self.rewards(round)
        yield from self.learn(round)
        if self.normalizer is not None:  # after learning: until then the statistics are those used for acting
            counted = round["weight"].bool()
            self.normalizer.update(round["observation"][counted])

    def capture(self) -> dict[str, Any]:
        return {} if self.rewards is None or self.rewards.sums is None else {"reward_sums": self.rewards.sums}

    def restore(self, state: dict[str, Any]) -> None:
        if self.rewards is not None and "reward_sums" in state:
            self.rewards.sums = state["reward_sums"].to(self.device)

    def learn(self, round: TensorDict) -> Iterator[TensorDict]:
        """The batches [batch] of a round, one per gradient step."""
        raise NotImplementedError
