"""The random walk of Sutton and Barto (2018), Example 6.2."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class RandomWalk(gym.Env):
    """States in a row; action 0 goes left, 1 right. Leaving on the right is worth 1, on the left 0.

    A uniform policy makes it the random walk: with `states` = 5 the values are 1/6, ..., 5/6.

    Attributes:
        P: the transition table, as Gymnasium's toy environments have it.
        initial_state_distrib: all of it in the middle.
    """

    def __init__(self, states: int = 5, render_mode: str | None = None):
        """
        Args:
            states: in the row; the start is the middle one.
            render_mode: there is nothing to draw; Gymnasium hands it to every environment.
        """
        self.render_mode = render_mode
        self.observation_space, self.action_space = spaces.Discrete(states), spaces.Discrete(2)
        self.initial_state_distrib = np.eye(states)[states // 2]
        self.P = {x: {a: [self._outcome(x, a, states)] for a in range(2)} for x in range(states)}
        self._state = states // 2

    @staticmethod
    def _outcome(x: int, a: int, states: int) -> tuple[float, int, float, bool]:
        following = x + 2 * a - 1
        inside = 0 <= following < states
        return 1.0, following if inside else x, float(following == states), not inside

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self._state = len(self.P) // 2
        return self._state, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        _, self._state, reward, terminated = self.P[self._state][int(action)][0]
        return self._state, reward, terminated, False, {}
