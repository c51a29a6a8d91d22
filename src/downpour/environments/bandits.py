"""One-step decisions, (9): observe X, act, receive R = f(X, A) + noise; the episode ends. f is known here."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Floats = NDArray[np.floating]


class _Bandit(gym.Env):
    observation_space: spaces.Box

    def __init__(self, noise: float, render_mode: str | None):
        self.noise, self.render_mode = noise, render_mode
        self._context = np.zeros(self.observation_space.shape, np.float32)

    def f(self, x: Floats, a: Any) -> Any:
        """The mean reward."""
        raise NotImplementedError

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        space = self.observation_space
        self._context = self.np_random.uniform(space.low, space.high).astype(np.float32)
        return self._context, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(self.f(self._context, action))
        if self.noise:
            reward += self.noise * float(self.np_random.standard_normal())
        return self._context.copy(), reward, True, False, {}


class ContextualBandit(_Bandit):
    """X uniform on the square [-1, 1]^2, K actions; f(x, a) = x . (cos 2 pi a / K, sin 2 pi a / K)."""

    action_space: spaces.Discrete

    def __init__(self, actions: int = 3, noise: float = 0.0, render_mode: str | None = None):
        """
        Args:
            actions: K.
            noise: standard deviation of eps in (28).
            render_mode: unused; Gymnasium passes it to every environment.
        """
        self.observation_space = spaces.Box(-1.0, 1.0, (2,))
        self.action_space = spaces.Discrete(actions)
        super().__init__(noise, render_mode)

    def f(self, x: Floats, a: Any) -> Any:
        angle = 2 * np.pi * np.asarray(a) / self.action_space.n
        return x[..., 0] * np.cos(angle) + x[..., 1] * np.sin(angle)


class ContinuousBandit(_Bandit):
    """X uniform on [-1, 1], A in [-2, 2]; f has two equal peaks, of height 1 and width 0.3, at +-(1 + X / 2)."""

    def __init__(self, noise: float = 0.0, render_mode: str | None = None):
        """
        Args:
            noise: standard deviation of eps in (28).
            render_mode: unused; Gymnasium passes it to every environment.
        """
        self.observation_space = spaces.Box(-1.0, 1.0, (1,))
        self.action_space = spaces.Box(-2.0, 2.0, (1,))
        super().__init__(noise, render_mode)

    def f(self, x: Floats, a: Any) -> Any:
        peak, action = 1 + x[..., 0] / 2, np.asarray(a)[..., 0]
        return np.exp(-0.5 * ((action - peak) / 0.3) ** 2) + np.exp(-0.5 * ((action + peak) / 0.3) ** 2)
