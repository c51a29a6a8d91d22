"""Value iteration: (39) applied as an update until the HJB equation (40) holds."""

from typing import ClassVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torch import Tensor

from downpour.algorithms.base import Algorithm, OptimizerFactory
from downpour.config import ConfigError, NonNegativeFloat, Probability


class ValueIteration(Algorithm):
    """Knows the model; needs no experience, no gradient and no network.

    Attributes:
        q: V(x, a) of (34), [states, actions], float64.
    """

    learns_from: ClassVar[tuple[str, ...]] = ("model",)
    q: Tensor

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        optimizer: OptimizerFactory,
        *,
        gamma: Probability,
        tolerance: NonNegativeFloat = 1e-12,
    ):
        """
        Args:
            gamma: discount.
            tolerance: the run ends at the first evaluation where (40) is violated by no more than this.

        Raises:
            ConfigError: states or actions are not discrete.
        """
        super().__init__(optimizer)
        if not (isinstance(observation_space, spaces.Discrete) and isinstance(action_space, spaces.Discrete)):
            advice = "needs discrete states and actions; use env=frozen_lake, cliff_walking, taxi or random_walk"
            raise ConfigError("algo", type(self).__name__, advice)
        self.gamma, self.tolerance = gamma, tolerance
        shape = (int(observation_space.n), int(action_space.n))
        self.register_buffer("q", torch.zeros(shape, dtype=torch.float64))

    def configure_optimizers(self) -> None:  # type: ignore[override]
        """There is nothing to optimize."""

    def setup(self, stage: str) -> None:
        if self.trainer.world_size > 1:
            raise ConfigError("trainer", f"{self.trainer.world_size} processes", "an exact solution needs one")

    def act(self, observation: Tensor, rng: np.random.Generator, *, env_steps: int, explore: bool) -> np.ndarray:
        return self.q[observation.long()].argmax(-1).cpu().numpy()

    def state_values(self, observation: Tensor) -> Tensor:
        """V(x), (36): [batch] -> [batch]."""
        return self.q[observation.long()].amax(-1)

    @torch.no_grad()
    def update(self, batch: TensorDict) -> Tensor:
        following = batch["reward"] + self.gamma * batch["transition"] @ self.state_to_go(batch)
        residual = (following - self.q).abs().max()
        self.q.copy_(following)
        self.gradient_steps += 1
        self.latest |= {"bellman_residual": residual, "value_mean": self.q.amax(-1).mean()}
        return residual

    def state_to_go(self, batch: TensorDict) -> Tensor:
        """What (39) takes for the value of the next state: max_a V(x, a), [states]."""
        return self.q.amax(-1)

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        if float(self.latest["bellman_residual"]) <= self.tolerance:
            self.trainer.should_stop = True
