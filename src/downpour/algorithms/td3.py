"""TD3: actor-critic with twin critics, a delayed actor and a smoothed target (Fujimoto et al. 2018, Algorithm 1)."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from downpour.algorithms.actor_critic import ActorCritic
from downpour.config import NonNegativeFloat


class TD3(ActorCritic):
    """DDPG that believes the lesser of two critics, at a blurred action. The delay is `actor_every`."""

    num_critics: ClassVar[int] = 2

    def __init__(
        self, *args: Any, smoothing: NonNegativeFloat = 0.2, smoothing_clip: NonNegativeFloat = 0.5, **kwargs: Any
    ):
        """
        Args:
            smoothing: deviation of the noise on the target's action, in half widths of the action's bounds.
            smoothing_clip: largest such noise.
        """
        super().__init__(*args, **kwargs)
        self.smoothing, self.smoothing_clip = smoothing, smoothing_clip

    def bootstrap(self, observation: Tensor) -> Tensor:
        action = self.deterministic(self.target_actor, observation)
        noise = (self.smoothing * torch.randn_like(action)).clamp(-self.smoothing_clip, self.smoothing_clip)
        action = (action + self.scale * noise).clamp(self.centre - self.scale, self.centre + self.scale)
        return self.q(self.target_critics, observation, action).amin(0)
