"""PPO: several passes over a round, with a clipped ratio (Schulman et al. 2017, eq. 7)."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from tensordict import TensorDict
from torch import Tensor

from downpour.algorithms.advantage_actor_critic import AdvantageActorCritic
from downpour.config import ConfigError, PositiveFloat, PositiveInt


class PPO(AdvantageActorCritic):
    """A2C that uses a round more than once and stops rewarding a step once the policy has moved by `clip`."""

    def __init__(
        self,
        *args: Any,
        clip: PositiveFloat = 0.2,
        value_clip: PositiveFloat | None = None,
        epochs: PositiveInt = 10,
        minibatches: PositiveInt = 4,
        target_kl: PositiveFloat | None = None,
        **kwargs: Any,
    ):
        """
        Args:
            clip: how far from 1 the ratio of new to old probability still counts.
            value_clip: how far V may move from what it was when the round arrived; None sets no bound.
            epochs: passes over a round.
            minibatches: gradient steps a pass.
            target_kl: no further pass once the policy has moved so far from the one that acted; None makes all.
        """
        super().__init__(*args, **kwargs)
        self.clip, self.value_clip, self.target_kl = clip, value_clip, target_kl
        self.epochs, self.minibatches = epochs, minibatches

    @classmethod
    def steps_each(cls, settings: Mapping[str, Any]) -> int:
        return settings["epochs"] * settings["minibatches"]

    def learn(self, round: TensorDict) -> Iterator[TensorDict]:
        """
        Raises:
            ConfigError: more minibatches than there are transitions.
        """
        steps = self.steps_of(round)
        if len(steps) < self.minibatches:
            advice = f"a round has only {len(steps)} transitions; lower it, or raise data.round_steps or data.num_envs"
            raise ConfigError("algo.minibatches", self.minibatches, advice)
        steps["log_prob"] = self.log_prob(steps)  # the weights are still those that acted
        for _ in range(self.epochs):
            order = torch.randperm(len(steps), device=steps["return"].device)
            shuffled = {name: values[order].tensor_split(self.minibatches) for name, values in steps.items()}
            # Always as many parts: ranks must make equal numbers of gradient steps.
            for part in range(self.minibatches):
                batch = {name: values[part] for name, values in shuffled.items()}
                self.watching = part == self.minibatches - 1
                yield TensorDict(batch, batch_size=batch["return"].shape)
            if self.target_kl is not None and self.moved(steps) > self.target_kl:
                break

    @torch.no_grad()
    def log_prob(self, steps: TensorDict) -> Tensor:
        """Log p of the actions taken, [batch]."""
        return self.head.distribution(self.policy(steps["observation"])).log_prob(steps["action"])

    def moved(self, steps: TensorDict) -> float:
        """How far the policy is from the one that acted, over a round; the mean over ranks: they stop together."""
        kl = divergence(self.log_prob(steps) - steps["log_prob"])
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(kl)
            kl /= dist.get_world_size()
        return float(kl)

    def policy_loss(self, log_prob: Tensor, advantage: Tensor, batch: TensorDict) -> tuple[Tensor, dict[str, Tensor]]:
        """-E min(ratio A, clip(ratio) A); and how far the policy has moved."""
        log_ratio = log_prob - batch["log_prob"]
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
        loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
        if not self.watching:
            return loss, {}
        return loss, {"clip_fraction": (ratio != clipped).float().mean(), "kl": divergence(log_ratio.detach())}

    def value_loss(self, value: Tensor, batch: TensorDict) -> Tensor:
        """That of A2C; with `value_clip` the greater of the errors of V and of V held near what it was."""
        if self.value_clip is None:
            return super().value_loss(value, batch)
        old, target = batch["value"], batch["return"]
        held = old + (value - old).clamp(-self.value_clip, self.value_clip)
        return torch.maximum((value - target).square(), (held - target).square()).mean()


def divergence(log_ratio: Tensor) -> Tensor:
    """Estimate of KL(old, new) from draws of old, E (ratio - 1 - log ratio), never negative (Schulman 2020)."""
    return (log_ratio.exp() - 1 - log_ratio).mean()
