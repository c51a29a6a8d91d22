"""TD3: actor-critic with twin critics, a delayed actor and a smoothed target (Fujimoto et al. 2018, Algorithm 1)."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from downpour.algorithms.actor_critic import ActorCritic
from downpour.config import NonNegativeFloat


class TD3(ActorCritic):
    """DDPG with the minimum of two critics at a smoothed target action. The delay is `policy_delay`."""

    num_critics: ClassVar[int] = 2

    def __init__(
        self, *args: Any, target_noise: NonNegativeFloat = 0.2, target_noise_clip: NonNegativeFloat = 0.5, **kwargs: Any
    ):
        """
        Args:
            target_noise: standard deviation of the noise on the target action, in units of half the action range.
            target_noise_clip: clip that noise to this magnitude.
        """
        super().__init__(*args, **kwargs)
        self.target_noise, self.target_noise_clip = target_noise, target_noise_clip

    def bootstrap(self, observation: Tensor) -> Tensor:
        action = self.deterministic(self.target_actor, observation)
        noise = (self.target_noise * torch.randn_like(action)).clamp(-self.target_noise_clip, self.target_noise_clip)
        action = (action + self.scale * noise).clamp(self.centre - self.scale, self.centre + self.scale)
        return self.q(self.target_critics, observation, action).amin(0)
