"""A vector of one as an ordinary environment, rendered from its observations."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv


class Single(gym.Env):
    """For spaces and videos."""

    def __init__(self, vector: VectorEnv, draw: Callable[[np.ndarray], np.ndarray], render_mode: str | None):
        """
        Args:
            draw: from an observation to an image [height, width, 3] of bytes.
        """
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 15}
        self.vector, self.draw, self.render_mode = vector, draw, render_mode
        self.observation_space, self.action_space = vector.single_observation_space, vector.single_action_space
        self._observation = np.zeros(self.observation_space.shape or (), self.observation_space.dtype)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._observation = self.vector.reset(seed=seed)[0][0]
        return self._observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, _ = self.vector.step(np.array([action]))
        self._observation = observation[0]
        return self._observation, float(reward[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> Any:
        return self.draw(self._observation)

    def close(self) -> None:
        self.vector.close()
