"""REINFORCE: (14)-(18) for one-step decisions, (24)-(25) with continuous actions, (30)-(33) for whole episodes."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from tensordict import TensorDict
from torch import Tensor

from downpour.algorithms.policy import StochasticPolicy
from downpour.algorithms.returns import discounted_sums
from downpour.config import NonNegativeFloat


def score_function_loss(log_prob: Tensor, advantage: Tensor, episodes: float) -> Tensor:
    """Its gradient is minus G of (30) and (32), averaged over episodes, since (grad p) / p = grad log p.

    Args:
        log_prob: log p(A_t, X_t; theta) of every step of every episode, [batch].
        advantage: R~_t minus a baseline, if any, [batch].
        episodes: number of episodes that the batch holds.
    """
    return -(advantage * log_prob).sum() / episodes


class Reinforce(StochasticPolicy):
    """Reinforce actions by the return that followed."""

    learns_from: ClassVar[tuple[str, ...]] = ("episodes",)

    def __init__(
        self,
        *args: Any,
        baseline: Literal["none", "batch_mean", "value"] = "batch_mean",
        normalize_returns: bool = True,
        value_coefficient: NonNegativeFloat = 0.5,
        **kwargs: Any,
    ):
        """
        Args:
            baseline: what is subtracted from R~_t: nothing, the mean over the round, or a learned V(X_t).
            normalize_returns: divide what is left by its standard deviation over the round.
            value_coefficient: weight of the error of V in the loss.
        """
        super().__init__(*args, with_value=baseline == "value", **kwargs)
        self.baseline, self.normalize_returns, self.value_coefficient = baseline, normalize_returns, value_coefficient

    def missing_values(self) -> str | None:
        return None if self.baseline == "value" else "learns V(x) with algo.baseline=value only"

    def learn(self, round: TensorDict) -> Iterator[TensorDict]:
        before, after = round[:-1], round[1:]
        ended = after["terminated"] | after["truncated"]
        counts = after["weight"].bool()
        to_come = discounted_sums(after["reward"], self.gamma * ~ended)
        yield TensorDict(
            {
                "observation": before["observation"][counts],
                "action": after["action"][counts],
                "return": to_come[counts],
                "ends": ended[counts],
            },
            batch_size=[int(counts.sum())],
        )

    def loss(self, batch: TensorDict) -> tuple[Tensor, dict[str, Tensor]]:
        observation = self.seen(batch["observation"])
        distribution = self.head.distribution(self.policy(observation))
        log_prob = distribution.log_prob(batch["action"])
        to_come, episodes = batch["return"], batch["ends"].sum()
        value_loss: Tensor | float = 0.0
        advantage = to_come
        if self.baseline == "value":
            assert self.value is not None
            value = self.value(observation).squeeze(-1)
            value_loss = (value - to_come).square().sum() / episodes
            advantage = to_come - value.detach()
        elif self.baseline == "batch_mean":
            advantage = to_come - to_come.mean()
        if self.normalize_returns:
            advantage = advantage / advantage.std(correction=0).clamp(min=1e-8)
        entropy = self.entropy(distribution, log_prob)
        loss = score_function_loss(log_prob, advantage, episodes)
        loss = loss - self.entropy_coefficient * entropy.sum() / episodes + self.value_coefficient * value_loss
        metrics = {"entropy": entropy.detach(), "advantage_std": advantage.std(correction=0)}
        if self.baseline == "value":
            metrics["value_loss"] = torch.as_tensor(value_loss).detach()
        return loss, metrics
