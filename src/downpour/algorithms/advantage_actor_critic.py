"""Advantage actor-critic, A2C (Mnih et al. 2016): the policy gradient (30) with an advantage estimate."""

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from downpour.algorithms.policy import StochasticPolicy
from downpour.algorithms.returns import generalized_advantage
from downpour.config import ConfigError, NonNegativeFloat, Probability


class AdvantageActorCritic(StochasticPolicy):
    """Reinforce actions by how much better they were than V(x) predicted, and learn V."""

    learns_from: ClassVar[tuple[str, ...]] = ("rollout",)
    minibatches = 1  # gradient steps that share the transitions of a round
    value: nn.Module
    watching = True  # whether the metrics of the next gradient step are logged

    def __init__(
        self,
        *args: Any,
        gae_lambda: Probability,
        value_coefficient: NonNegativeFloat = 0.5,
        normalize_advantage: bool,
        **kwargs: Any,
    ):
        """
        Args:
            gae_lambda: lambda of the generalized advantage estimate; 1 sums rewards to the end of the round.
            value_coefficient: weight of the error of V in the loss.
            normalize_advantage: give the advantages of a batch mean 0 and standard deviation 1.
        """
        super().__init__(*args, with_value=True, **kwargs)
        self.gae_lambda, self.value_coefficient, self.normalize_advantage = (
            gae_lambda,
            value_coefficient,
            normalize_advantage,
        )

    def learn(self, round: TensorDict) -> Iterator[TensorDict]:
        yield self.steps_of(round)

    @torch.no_grad()
    def steps_of(self, round: TensorDict) -> TensorDict:
        """The transitions of a round [batch].

        Returns:
            `observation` as the networks get it, `action`, `value` (V before learning), `advantage`, and `return`, the
            target for V.

        Raises:
            ConfigError: they are fewer than gradient steps.
        """
        after = round[1:]
        observation = self.seen(round["observation"].flatten(0, 1))
        value = self.value(observation).view(round.shape)
        ended = after["terminated"] | after["truncated"]
        advantage = generalized_advantage(
            after["reward"], value, after["terminated"], ended, self.gamma, self.gae_lambda
        )
        steps = TensorDict(
            {
                "observation": observation.unflatten(0, round.shape)[:-1],
                "action": after["action"],
                "value": value[:-1],
                "advantage": advantage,
                "return": advantage + value[:-1],
            },
            batch_size=after.shape,
        )
        steps = steps[after["weight"].bool()]
        if len(steps) < self.minibatches:
            advice = f"{len(steps)} transitions per round are too few for {self.minibatches} minibatches"
            raise ConfigError("data.round_steps", len(after), f"{advice}; increase it or data.num_envs")
        return steps

    def loss(self, batch: TensorDict) -> tuple[Tensor, dict[str, Tensor]]:
        distribution = self.head.distribution(self.policy(batch["observation"]))
        log_prob = distribution.log_prob(batch["action"])
        advantage = batch["advantage"]
        if self.normalize_advantage and len(advantage) > 1:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        policy_loss, metrics = self.policy_loss(log_prob, advantage, batch)
        value_loss = self.value_loss(self.value(batch["observation"]).squeeze(-1), batch)
        loss = policy_loss + self.value_coefficient * value_loss
        if self.entropy_coefficient or self.watching:
            entropy = self.entropy(distribution, log_prob).mean()
            loss = loss - self.entropy_coefficient * entropy
            metrics |= {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
        return loss, {name: value.detach() for name, value in metrics.items()}

    def value_loss(self, value: Tensor, batch: TensorDict) -> Tensor:
        """Mean squared distance of V(x) [batch] from the returns."""
        return (value - batch["return"]).square().mean()

    def policy_loss(self, log_prob: Tensor, advantage: Tensor, batch: TensorDict) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus the mean of A log p, whose gradient is (30) per step; and metrics."""
        return -(advantage * log_prob).mean(), {}
