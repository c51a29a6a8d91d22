"""Exploration noise for deterministic policies, in units of half the action range."""

from typing import Any

import numpy as np

from downpour.config import NonNegativeFloat, PositiveFloat


class GaussianNoise:
    """Independent Gaussian noise (Fujimoto et al. 2018)."""

    def __init__(self, *, sigma: NonNegativeFloat = 0.1):
        """
        Args:
            sigma: standard deviation.
        """
        self.sigma = sigma

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Noise [num_envs, size]."""
        return self.sigma * rng.standard_normal(shape, np.float32)

    def capture(self) -> dict[str, Any]:
        """The state of the process, without the generator."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `capture` returned."""


class OrnsteinUhlenbeckNoise(GaussianNoise):
    """dN = -theta N dt + sigma dW, one path per environment, across episodes (Lillicrap et al. 2016, section 7)."""

    def __init__(self, *, sigma: NonNegativeFloat = 0.2, theta: PositiveFloat = 0.15, dt: PositiveFloat = 1.0):
        """
        Args:
            sigma: of the driving noise; the stationary standard deviation is sigma / sqrt(2 theta) for small steps.
            theta: rate of mean reversion.
            dt: duration of an environment step.
        """
        super().__init__(sigma=sigma)
        self.theta, self.dt = theta, dt
        self._path: np.ndarray | None = None

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        path = np.zeros(shape, np.float32) if self._path is None else self._path
        shock = self.sigma * np.sqrt(self.dt) * rng.standard_normal(shape)
        self._path = (path - self.theta * self.dt * path + shock).astype(np.float32)
        return self._path

    def capture(self) -> dict[str, Any]:
        return {} if self._path is None else {"path": self._path.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        self._path = np.array(state["path"], np.float32) if state else None
