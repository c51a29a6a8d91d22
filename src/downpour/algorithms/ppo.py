"""PPO: several passes over a rollout, with a clipped probability ratio (Schulman et al. 2017, eq. 7)."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from tensordict import TensorDict
from torch import Tensor

from downpour.algorithms.advantage_actor_critic import AdvantageActorCritic
from downpour.config import PositiveFloat, PositiveInt


class PPO(AdvantageActorCritic):
    """A2C with several passes over each round; a step whose ratio is beyond `clip` gets no further gradient."""

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
            clip: clip the ratio of new to old probability to 1 +- this.
            value_clip: clip the change of V since the round arrived to this; None does not clip.
            epochs: passes over a round.
            minibatches: gradient steps per pass.
            target_kl: stop once the KL divergence from the acting policy exceeds this; None makes all passes.
        """
        super().__init__(*args, **kwargs)
        self.clip, self.value_clip, self.target_kl = clip, value_clip, target_kl
        self.epochs, self.minibatches = epochs, minibatches

    @classmethod
    def steps_each(cls, settings: Mapping[str, Any]) -> int:
        return settings["epochs"] * settings["minibatches"]

    def learn(self, round: TensorDict) -> Iterator[TensorDict]:
        steps = self.steps_of(round)
        steps["log_prob"] = self.log_prob(steps)  # the weights are still those of acting time
        for _ in range(self.epochs):
            order = torch.randperm(len(steps), device=steps["return"].device)
            shuffled = {name: values[order].tensor_split(self.minibatches) for name, values in steps.items()}
            # Always the same number of parts: ranks must make equal numbers of gradient steps.
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
        """KL divergence from the acting policy over a round; the mean over ranks, so that they stop together."""
        kl = divergence(self.log_prob(steps) - steps["log_prob"])
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(kl)
            kl /= dist.get_world_size()
        return float(kl)

    def policy_loss(self, log_prob: Tensor, advantage: Tensor, batch: TensorDict) -> tuple[Tensor, dict[str, Tensor]]:
        """-E min(ratio A, clip(ratio) A), and metrics."""
        log_ratio = log_prob - batch["log_prob"]
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
        loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
        if not self.watching:
            return loss, {}
        return loss, {"clip_fraction": (ratio != clipped).float().mean(), "kl": divergence(log_ratio.detach())}

    def value_loss(self, value: Tensor, batch: TensorDict) -> Tensor:
        """As A2C; with `value_clip` the maximum of the squared errors with and without clipping."""
        if self.value_clip is None:
            return super().value_loss(value, batch)
        old, target = batch["value"], batch["return"]
        held = old + (value - old).clamp(-self.value_clip, self.value_clip)
        return torch.maximum((value - target).square(), (held - target).square()).mean()


def divergence(log_ratio: Tensor) -> Tensor:
    """Estimate of KL(old, new) from samples of old, E (ratio - 1 - log ratio); never negative (Schulman 2020)."""
    return (log_ratio.exp() - 1 - log_ratio).mean()
