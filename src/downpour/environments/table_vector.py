"""Many environments that move by one transition table, stepped together in NumPy."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from downpour.config import ConfigError


class Available(spaces.Discrete):
    """Actions 0 to n - 1, not all available in every state.

    Attributes:
        available: mask, [states, n].
    """

    def __init__(self, available: np.ndarray):
        super().__init__(available.shape[1])
        self.available = available


class TableVector(VectorEnv):
    """Samples from `P[state][action]` of an environment, as its own `step` would; NEXT_STEP autoreset.

    An environment may also have `reward_std`, the standard deviation of Gaussian noise on its rewards
    [states, actions], and `shown`, the observation emitted in each state [states].
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 (Gymnasium's own)

    def __init__(self, single: gym.Env, num_envs: int, trials: int = 1):
        """
        Args:
            single: the environment with the table.
            num_envs: environments stepped together.
            trials: environment i shows its states as those of copy i modulo `trials`.
        """
        table = table_in(single)
        environment: Any = single.unwrapped
        states: Any = single.observation_space
        self.num_envs = num_envs
        self.single_observation_space = copied_states(states, trials)
        self.single_action_space = copied_actions(single.action_space, trials)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(spaces.Discrete(len(table[0])), num_envs)
        self._limit = (single.spec.max_episode_steps if single.spec else None) or np.iinfo(np.int64).max
        self._actions = len(table[0])
        widest = max(len(outcomes) for row in table.values() for outcomes in row.values())
        shape = (len(table) * self._actions, widest)
        self._edges = np.full(shape, np.inf)  # cumulative probabilities: an outcome is selected by a uniform number
        self._following, self._gain = np.zeros(shape, np.int64), np.zeros(shape)
        self._ends = np.zeros(shape, bool)
        for x, row in table.items():
            for a, outcomes in row.items():
                pair = x * self._actions + a
                probability, self._following[pair, : len(outcomes)], self._gain[pair, : len(outcomes)], ends = zip(
                    *outcomes, strict=True
                )
                self._ends[pair, : len(outcomes)] = ends
                self._edges[pair, : len(outcomes) - 1] = np.cumsum(probability)[:-1]
        self._reward_std = np.ravel(environment.reward_std) if np.any(getattr(environment, "reward_std", 0)) else None
        self._starts = np.cumsum(environment.initial_state_distrib)[:-1]
        shown = np.asarray(getattr(environment, "shown", np.arange(len(table))))
        self._shown = shown + int(states.start)
        self._offset = np.arange(num_envs) % trials * int(states.n)
        self._rng = np.random.default_rng()
        self._state, self._length = np.zeros(num_envs, np.int64), np.zeros(num_envs, np.int64)
        self._done = np.zeros(num_envs, bool)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._state = self._first(self.num_envs)
        self._length[:], self._done[:] = 0, False
        return self._shown[self._state] + self._offset, {}

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        pair = self._state * self._actions + actions
        outcome = (self._rng.random((self.num_envs, 1)) >= self._edges[pair]).sum(1)
        state, reward, terminated = (a[pair, outcome] for a in (self._following, self._gain, self._ends))
        if self._reward_std is not None:
            reward += self._reward_std[pair] * self._rng.standard_normal(self.num_envs)
        self._length += 1
        if self._done.any():  # these are reset, whatever the action
            state[self._done] = self._first(int(self._done.sum()))
            reward[self._done], terminated[self._done], self._length[self._done] = 0, False, 0
        truncated = self._length >= self._limit
        self._state, self._done = state, terminated | truncated
        return self._shown[state] + self._offset, reward, terminated, truncated, {}

    def _first(self, count: int) -> np.ndarray:
        return np.searchsorted(self._starts, self._rng.random(count), side="right")


def table_in(environment: gym.Env) -> Any:
    """`P` of an environment.

    Raises:
        ConfigError: it has none.
    """
    table = getattr(environment.unwrapped, "P", None)
    if table is None:
        name = environment.spec.id if environment.spec else type(environment.unwrapped).__name__
        advice = "has no transition table; use env=frozen_lake, cliff_walking, taxi, random_walk or mdp"
        raise ConfigError("env.id", name, advice)
    return table


def copied_states(space: Any, trials: int) -> Any:
    """The states of `trials` copies of an environment, one copy after the other."""
    return space if trials == 1 else spaces.Discrete(int(space.n) * trials, start=int(space.start))


def copied_actions(space: Any, trials: int) -> Any:
    """The actions of `trials` copies, if they differ between states."""
    return (
        space if trials == 1 or not isinstance(space, Available) else Available(np.tile(space.available, (trials, 1)))
    )
