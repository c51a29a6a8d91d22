"""Stepping a vector environment, recorded as blocks of rows."""

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from tensordict import TensorDict
from torch import Tensor

from downpour.environments.split import halves
from downpour.environments.state import freeze_environments, thaw_environments
from downpour.run import Purpose, Run

log = logging.getLogger(__name__)

Act = Callable[[Tensor], np.ndarray]


class Episode(NamedTuple):
    """A finished training episode; `environment` counts over all ranks, `env_steps` over all environments."""

    env_steps: int
    episode_return: float
    length: int
    environment: int


def row_dtype(observation_space: gym.Space, action_space: gym.Space, stack: int) -> np.dtype:
    """The structured type of a row; of stacked frames it holds the newest."""
    observed, kind = observation_space.shape or (), observation_space.dtype
    is_box = isinstance(action_space, gym.spaces.Box)
    return np.dtype(
        [
            ("observation", np.float32 if kind == np.float64 else kind, observed if stack == 1 else observed[1:]),
            ("action", np.float32 if is_box else np.int64, action_space.shape or ()),
            ("reward", np.float32),
            ("terminated", bool),
            ("truncated", bool),
            ("first", bool),
        ]
    )


class Collector:
    """Steps environments and records rows.

    A row is what one environment returns at one step, and the action that led there: `observation`, `action`,
    `reward`, `terminated`, `truncated`, and `first`, which is true for the observation of a reset. Two neighbouring
    rows of an environment are a transition, unless the later one is `first`. The true last observation of an episode
    is a row like any other (NEXT_STEP autoreset), so truncated episodes need no special treatment.

    An environment's info may contain values to learn from instead (`learned_reward`, `learned_terminated`: Atari's
    clipped rewards and lost lives). Rows record these, `episodes` the true ones.

    Attributes:
        finished: episodes that each environment has finished since the last reset of all.
    """

    def __init__(self, environments: VectorEnv, run: Run, *, stack: int = 1):
        """
        Args:
            stack: frames per observation (see `Environment`); rows hold the newest only.
        """
        self.environments, self.run, self.stack = environments, run, stack
        self._halves = halves(environments)
        self._begun: np.ndarray | None = None  # the actions of a step in progress
        self.num_envs = environments.num_envs
        self.vector_steps = 0
        self.episodes: list[Episode] = []
        self.seconds = {"environment": 0.0, "acting": 0.0}
        self._restarts = 0
        self._observation: np.ndarray | None = None
        self._done = np.zeros(self.num_envs, bool)
        self._return = np.zeros(self.num_envs)
        self._length = np.zeros(self.num_envs, np.int64)
        self.finished = np.zeros(self.num_envs, np.int64)
        spaces = environments.single_observation_space, environments.single_action_space
        self.row_dtype = row_dtype(*spaces, stack)
        self._dtype = self.row_dtype["observation"].base

    @property
    def own_steps(self) -> int:
        """Environment steps so far on this rank."""
        return self.vector_steps * self.num_envs

    @property
    def env_steps(self) -> int:
        """Environment steps so far over all ranks; the reset of a vector environment counts as one."""
        return self.own_steps * self.run.synchronous_replicas + self.run.others.steps

    def start(self) -> TensorDict:
        """Reset every environment; unfinished episodes are dropped. Returns rows [1, num_envs]."""
        self._restarts += 1
        self._reset()
        rows = self.blank(1)
        rows["observation"][0] = self._kept(self._observation)
        rows["first"][0] = True
        return _tensors(rows)

    def abandon(self) -> None:
        """Finish a step in progress and discard it."""
        if self._begun is not None and self._halves is not None:
            self._halves[1]()
        self._begun = None

    def _reset(self) -> None:
        self.abandon()
        seed = int(self.run.seed_sequence(Purpose.ENVIRONMENT, self._restarts).generate_state(1)[0])
        # Environment i takes seed + i, or all draw from one generator.
        observation, _ = self.environments.reset(seed=seed)
        self._observation = np.asarray(observation, self._dtype)
        self._done[:] = False
        self._return[:] = 0
        self._length[:] = 0
        self.finished[:] = 0

    def collect(self, steps: int, act: Act, until: Callable[[], bool] | None = None) -> TensorDict:
        """Take `steps` steps in every environment.

        Args:
            steps: vector steps.
            act: from observations [num_envs, *shape] to actions [num_envs, *shape], as a NumPy array.
            until: called after each step; True ends the block early.

        Returns:
            Rows [steps, num_envs], or fewer.
        """
        if self._observation is None:
            raise RuntimeError("call start() first")
        rows = self.blank(steps)
        for t in range(steps):
            begin = time.perf_counter()
            begun, self._begun = self._begun, None
            action = act(torch.from_numpy(self._observation)) if begun is None else begun
            acted = time.perf_counter()
            taken = begun is not None and self._halves is not None
            result = self._halves[1]() if taken and self._halves else self.environments.step(action)
            observation, reward, terminated, truncated, info = result
            rows["observation"][t] = self._kept(observation)
            rows["action"][t] = action
            rows["reward"][t] = info.get("learned_reward", reward)
            rows["terminated"][t] = info.get("learned_terminated", terminated)
            rows["truncated"][t] = truncated
            rows["first"][t] = self._done
            self._observation = rows["observation"][t] if self.stack == 1 else np.array(observation)
            self._account(reward, np.logical_or(terminated, truncated))
            self.seconds["acting"] += acted - begin
            self.seconds["environment"] += time.perf_counter() - acted
            if until is not None and until():
                return _tensors({name: values[: t + 1] for name, values in rows.items()})
        return _tensors(rows)

    def begin(self, act: Act) -> None:
        """Select the next action now; environments that can execute it in the background until the next `collect`."""
        before = time.perf_counter()
        self._begun = act(torch.from_numpy(self._observation))
        if self._halves is not None:
            self._halves[0](self._begun)
        self.seconds["acting"] += time.perf_counter() - before

    def _kept(self, observation: Any) -> Any:
        """What a row holds of observations [num_envs, ...]."""
        return observation if self.stack == 1 else observation[:, -1]

    def _account(self, reward: np.ndarray, done: np.ndarray) -> None:
        self.vector_steps += 1
        self._return += reward
        self._length += ~self._done
        self._done = done
        self.finished += done
        if done.any():
            for e in np.flatnonzero(done):
                environment = self.run.replica * self.num_envs + int(e)
                self.episodes.append(Episode(self.env_steps, float(self._return[e]), int(self._length[e]), environment))
            self._return[done] = 0
            self._length[done] = 0

    def blank(self, steps: int) -> dict[str, np.ndarray]:
        """Rows [steps, num_envs] to be filled in."""
        shape = (steps, self.num_envs)
        types = {name: self.row_dtype[name] for name in self.row_dtype.names or ()}
        return {name: np.zeros((*shape, *each.shape), each.base) for name, each in types.items()}

    def counters(self) -> dict[str, Any]:
        """The state needed to continue after the next `start`, as plain data."""
        episodes = [list(episode) for episode in self.episodes]
        return {"vector_steps": self.vector_steps, "restarts": self._restarts, "episodes": episodes}

    def restore_counters(self, state: dict[str, Any]) -> None:
        """Restore what `counters` returned; continue with `start`."""
        self.vector_steps, self._restarts = state["vector_steps"], state["restarts"]
        self.episodes = [Episode(*episode) for episode in state["episodes"]]

    def capture(self) -> dict[str, Any]:
        """The complete state, as plain data. `environments` is None if they cannot be pickled."""
        frozen = freeze_environments(self.environments)
        return {
            "environments": None if frozen is None else torch.frombuffer(bytearray(frozen), dtype=torch.uint8),
            **self.counters(),
            "observation": torch.from_numpy(np.array(self._observation)),
            "begun": None if self._begun is None else torch.from_numpy(self._begun.copy()),
            "done": torch.from_numpy(self._done.copy()),
            "return": torch.from_numpy(self._return.copy()),
            "length": torch.from_numpy(self._length.copy()),
            "episodes": [list(episode) for episode in self.episodes],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `capture` returned; environments that could not be pickled continue from a reset."""
        self.restore_counters(state)
        self._reset()  # some environments create their state at the first reset
        if state["environments"] is None:
            return
        thaw_environments(self.environments, state["environments"].numpy().tobytes())
        self._observation = state["observation"].numpy()
        begun = state.get("begun")
        self._begun = None if begun is None else begun.numpy()
        self._done = state["done"].numpy()
        self._return = state["return"].numpy().copy()  # these are changed in place
        self._length = state["length"].numpy().copy()


def _tensors(rows: dict[str, np.ndarray]) -> TensorDict:
    shape = rows["reward"].shape
    return TensorDict({name: torch.from_numpy(values) for name, values in rows.items()}, batch_size=shape)
