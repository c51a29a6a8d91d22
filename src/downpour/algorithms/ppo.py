"""PPO: several passes over a round, with a clipped ratio (Schulman et al. 2017, eq. 7)."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from downpour.algorithms.advantage_actor_critic import AdvantageActorCritic
from downpour.config import PositiveFloat, PositiveInt


class PPO(AdvantageActorCritic):
    """A2C that uses a round more than once and stops rewarding a step once the policy has moved by `clip`."""

    def __init__(
        self,
        *args: Any,
        clip: PositiveFloat = 0.2,
        epochs: PositiveInt = 10,
        minibatches: PositiveInt = 4,
        **kwargs: Any,
    ):
        """
        Args:
            clip: how far from 1 the ratio of new to old probability still counts.
            epochs: passes over a round.
            minibatches: gradient steps a pass.
        """
        super().__init__(*args, **kwargs)
        self.clip, self.epochs, self.minibatches = clip, epochs, minibatches

    @classmethod
    def steps_each(cls, settings: Mapping[str, Any]) -> int:
        return settings["epochs"] * settings["minibatches"]

    def learn(self, round: TensorDict) -> Iterator[TensorDict]:
        steps = self.steps_of(round)
        with torch.no_grad():  # the weights are still those that acted
            outputs = self.policy(self.seen(steps["observation"]))
            steps["log_prob"] = self.head.distribution(outputs).log_prob(steps["action"])
        for _ in range(self.epochs):
            order = torch.randperm(len(steps), device=steps["return"].device)
            shuffled = {name: values[order].tensor_split(self.minibatches) for name, values in steps.items()}
            # Always as many parts: ranks must make equal numbers of gradient steps.
            for part in range(self.minibatches):
                batch = {name: values[part] for name, values in shuffled.items()}
                yield TensorDict(batch, batch_size=batch["return"].shape)

    def policy_loss(self, log_prob: Tensor, advantage: Tensor, batch: TensorDict) -> tuple[Tensor, dict[str, Tensor]]:
        """-E min(ratio A, clip(ratio) A); and how far the policy has moved."""
        log_ratio = log_prob - batch["log_prob"]
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
        loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
        moved = {"clip_fraction": (ratio != clipped).float().mean(), "kl": (ratio - 1 - log_ratio).mean()}
        return loss, moved
