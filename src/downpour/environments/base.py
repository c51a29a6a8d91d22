"""The interface of an environment: its spaces, single instances and vectors."""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from downpour.config import ConfigError, how_to_install


class Environment(ABC):
    """An environment; `vector` and `single` create instances.

    Attributes:
        id: its name, for messages and reports.
        observation_space, action_space: of one environment.
        solved_at: the mean return at which it counts as solved, or None.
        stack: number of frames in an observation, oldest first along its first axis, zeros before an episode's
            first; 1 if observations are not stacks. Replay stores each frame once.
    """

    id: str
    observation_space: gym.Space
    action_space: gym.Space
    solved_at: float | None = None
    stack = 1

    @abstractmethod
    def single(self, render_mode: str | None = None) -> gym.Env:
        """A single environment, for its spaces or a video."""

    @abstractmethod
    def vector(self, num_envs: int) -> VectorEnv:
        """`num_envs` environments stepped together, with NEXT_STEP autoreset: final observations are returned."""


def pick_game(game: str, games: Sequence[str]) -> str:
    """The game of that name.

    Raises:
        ConfigError: there is none; with the nearest names.
    """
    if game not in games:
        near = difflib.get_close_matches(game.lower().replace("-", "_"), games, n=3, cutoff=0.4)
        raise ConfigError("env.game", game, f"there is no such game; nearest: {', '.join(near or games)}")
    return game


def needs_extra(package: str, extra: str) -> Any:
    """The error for an optional environment whose package is not installed."""
    return ConfigError("env", extra, f"needs {package}, which is not installed; {how_to_install(extra)}")
