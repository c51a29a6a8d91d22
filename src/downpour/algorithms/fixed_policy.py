"""Fixed policies p(a | x) for (60): uniform, given as a table, or learned by another run."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from torch import Tensor, nn

from downpour.algorithms.base import Algorithm
from downpour.config import ConfigError
from downpour.environments.table_vector import Available

KEY = "algo.policy"
RunPolicy = Callable[[Path], Algorithm]
"""a run's directory -> its algorithm with the weights of its best checkpoint."""


class FixedPolicy(nn.Module, ABC):
    """A policy that never changes."""

    @abstractmethod
    def act(self, observation: Tensor, rng: np.random.Generator) -> np.ndarray:
        """Actions [batch, ...] for observations [batch, ...]; every draw comes from `rng`."""

    def probabilities(self, observation: Tensor) -> np.ndarray:
        """p(a | x), [batch, actions], of discrete actions."""
        raise TypeError(f"{type(self).__name__} has no table")


class Uniform(FixedPolicy):
    """The uniform policy over a discrete space or a bounded box."""

    def __init__(self, action_space: gym.Space):
        """
        Raises:
            ConfigError: there is no uniform distribution over the actions.
        """
        super().__init__()
        is_bounded = isinstance(action_space, spaces.Box) and action_space.is_bounded()
        if not (is_bounded or isinstance(action_space, spaces.Discrete)):
            advice = f"there is no uniform policy over {action_space}; give a run directory"
            raise ConfigError(KEY, "uniform", advice)
        self.space: Any = action_space

    def act(self, observation: Tensor, rng: np.random.Generator) -> np.ndarray:
        if isinstance(self.space, spaces.Discrete):
            return rng.integers(self.space.n, size=len(observation)) + self.space.start
        shape = (len(observation), *self.space.shape)
        return rng.uniform(self.space.low, self.space.high, shape).astype(np.float32)

    def probabilities(self, observation: Tensor) -> np.ndarray:
        return np.full((len(observation), int(self.space.n)), 1 / int(self.space.n))


class Tabular(FixedPolicy):
    """Given probabilities of discrete actions, per state or the same everywhere."""

    def __init__(self, table: np.ndarray, observation_space: gym.Space, action_space: gym.Space, named: Any):
        """
        Args:
            table: [states, actions], or [actions].
            named: what the person typed, for messages.

        Raises:
            ConfigError: the actions are not discrete, the table has another shape, or a row is not a distribution.
        """
        super().__init__()
        if not isinstance(action_space, spaces.Discrete):
            advice = f"a table needs discrete actions, not {action_space}; use uniform or a run directory"
            raise ConfigError(KEY, named, advice)
        shape: tuple[int, ...] = (int(action_space.n),)
        if table.ndim != 1:
            if not isinstance(observation_space, spaces.Discrete):
                advice = f"one row per state needs discrete observations, not {observation_space}; give a single row"
                raise ConfigError(KEY, named, advice)
            shape = (int(observation_space.n), *shape)
        if table.shape != shape:
            raise ConfigError(KEY, named, f"has shape {list(table.shape)}, this environment needs {list(shape)}")
        if not ((table >= 0).all() and np.allclose(table.sum(-1), 1, rtol=0, atol=1e-6)):
            raise ConfigError(KEY, named, "its numbers must not be negative and must sum to 1 for each state")
        self.table = np.atleast_2d(table)
        self.first_state = int(observation_space.start) if isinstance(observation_space, spaces.Discrete) else 0
        self.first_action = int(action_space.start)

    def probabilities(self, observation: Tensor) -> np.ndarray:
        if len(self.table) == 1:
            return np.repeat(self.table, len(observation), 0)
        return self.table[observation.long().cpu().numpy() - self.first_state]

    def act(self, observation: Tensor, rng: np.random.Generator) -> np.ndarray:
        edges = self.probabilities(observation).cumsum(-1)[:, :-1]
        return (rng.random((len(observation), 1)) >= edges).sum(-1) + self.first_action


class Learned(FixedPolicy):
    """What a run has learned, as eval.py plays it: exploration off."""

    def __init__(self, algorithm: Algorithm):
        super().__init__()
        self.algorithm = algorithm.requires_grad_(False)

    def train(self, mode: bool = True) -> "Learned":
        return super().train(False)

    def act(self, observation: Tensor, rng: np.random.Generator) -> np.ndarray:
        return self.algorithm.act(observation, rng, env_steps=0, explore=False)

    def probabilities(self, observation: Tensor) -> np.ndarray:
        return self.algorithm.action_probabilities(observation)


def fixed_policy(
    choice: str | list[float], observation_space: gym.Space, action_space: gym.Space, of_run: RunPolicy | None
) -> FixedPolicy:
    """The policy that `algo.policy` names.

    Args:
        choice: `uniform`, probabilities [actions], a .npy or .csv file [states, actions] or [actions], or a run's
            directory.

    Raises:
        ConfigError: there is no such policy, or it does not fit the environment.
    """
    if not isinstance(choice, str):
        return Tabular(np.asarray(choice, np.float64), observation_space, action_space, choice)
    if choice == "uniform":
        if not isinstance(action_space, Available):
            return Uniform(action_space)
        counts = action_space.available.sum(1, keepdims=True)
        return Tabular(action_space.available / counts, observation_space, action_space, choice)
    path = Path(choice).expanduser()
    if path.is_dir() and of_run is not None:
        return Learned(of_run(path))
    if not path.is_file():
        advice = "is not a policy: give uniform, probabilities [0.2,0.8], a .npy or .csv file, or a run directory"
        raise ConfigError(KEY, choice, advice)
    return Tabular(read_table(path), observation_space, action_space, choice)


def read_table(path: Path) -> np.ndarray:
    """Numbers of a .npy or .csv file; reading it runs no code.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        read = np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.loadtxt(path, delimiter=",")
        return np.asarray(read, np.float64)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(KEY, path, f"contains no table of numbers ({str(error).splitlines()[0]})") from None
