"""Any environment registered with Gymnasium, alone or as a vector."""

import contextlib
import difflib
import importlib
import logging
import os
from typing import Any, Literal

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # otherwise pygame prints a greeting

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorActionWrapper, VectorEnv

from downpour.config import ConfigError, PositiveInt
from downpour.environments.base import Environment
from downpour.environments.table_vector import TableVector, copied_actions, copied_states, table_in

log = logging.getLogger(__name__)


class Gymnasium(Environment):
    """Any registered environment; Dict and Tuple observations are flattened, images converted to channels-first."""

    def __init__(
        self,
        *,
        id: str,
        vectorization: Literal["auto", "sync", "async", "table"] = "auto",
        max_episode_steps: PositiveInt | None = None,
        trials: PositiveInt = 1,
        kwargs: dict[str, Any] | None = None,
    ):
        """
        Args:
            id: a registered id; "module:Name-v0" imports the module that registers it first.
            vectorization: `auto` uses the environment's own vector version if it has one; `table` samples from its
                transition table, many times faster than stepping it.
            max_episode_steps: truncate episodes here; None keeps the registered limit.
            trials: number of independent copies of the state space; environment i uses copy i modulo `trials`, so
                that a table learns that many independent trials.
            kwargs: arguments of the environment.

        Raises:
            ConfigError: no such id, a missing package, an unsupported action space, or no transition table where one
                is needed.
        """
        self.id, self.vectorization, self.trials, self.kwargs = id, vectorization, trials, kwargs or {}
        module, _, name = id.rpartition(":")
        try:
            if module:
                importlib.import_module(module)
            self.spec = gym.spec(name)
        except (gym.error.Error, ModuleNotFoundError) as error:
            raise ConfigError("env.id", id, _unknown(id, error)) from None
        if max_episode_steps is not None:
            self.kwargs = {**self.kwargs, "max_episode_steps": max_episode_steps}
        probe = self.single()
        self.wrapped = isinstance(probe, gym.wrappers.FlattenObservation | ChannelsFirst)
        self.observation_space, self.action_space = probe.observation_space, probe.action_space
        if not isinstance(self.action_space, spaces.Discrete | spaces.Box):
            advice = f"its action space is {self.action_space}, but only Discrete and Box are"
            raise ConfigError("env.id", id, f"{advice} supported: register it with a wrapper that converts it")
        if vectorization == "table":
            table_in(probe)
            self.observation_space = copied_states(self.observation_space, trials)
            self.action_space = copied_actions(self.action_space, trials)
        elif trials > 1:
            raise ConfigError("env.trials", trials, "needs env.vectorization=table")
        probe.close()
        self.solved_at = self.spec.reward_threshold

    def single(self, render_mode: str | None = None) -> gym.Env:
        try:
            # Not every environment accepts this argument.
            rendering: dict[str, Any] = {"render_mode": render_mode} if render_mode else {}
            environment = gym.make(self.id, **rendering, **self.kwargs)
        except gym.error.DependencyNotInstalled as error:
            raise ConfigError("env.id", self.id, f"needs a package that is not installed ({error})") from None
        except TypeError as error:
            raise ConfigError("env.kwargs", self.kwargs, f"{self.id} does not accept them ({error})") from None
        return _readable(environment)

    def vector(self, num_envs: int) -> VectorEnv:
        """Continuous actions are clipped to their bounds, because Gaussian policies are unbounded."""
        if self.vectorization == "table":
            return TableVector(self.single(), num_envs, self.trials)
        has_own = self.vectorization == "auto" and self.spec.vector_entry_point is not None and not self.wrapped
        if has_own:
            environments = gym.make_vec(self.id, num_envs, vectorization_mode="vector_entry_point", **self.kwargs)
        else:
            environments = gym.make_vec(
                self.id,
                num_envs,
                vectorization_mode="async" if self.vectorization == "async" else "sync",
                vector_kwargs={"autoreset_mode": AutoresetMode.NEXT_STEP},
                wrappers=[_readable],
                **self.kwargs,
            )
        if environments.metadata.get("autoreset_mode") != AutoresetMode.NEXT_STEP:
            raise ConfigError(
                "env.id", self.id, "its vector version lacks NEXT_STEP autoreset; use env.vectorization=sync"
            )
        return _Clipped(environments) if isinstance(self.action_space, spaces.Box) else environments


class _Clipped(VectorActionWrapper):
    """Clips actions to their bounds; the spaces do not change."""

    def actions(self, actions: Any) -> Any:
        space: Any = self.single_action_space
        return np.clip(actions, space.low, space.high)


class ChannelsFirst(gym.ObservationWrapper):
    """Converts images [height, width, channels] to [channels, height, width]."""

    def __init__(self, environment: gym.Env):
        super().__init__(environment)
        space: Any = environment.observation_space
        self.observation_space = spaces.Box(
            space.low.transpose(2, 0, 1), space.high.transpose(2, 0, 1), dtype=space.dtype
        )

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation.transpose(2, 0, 1)


def _readable(environment: gym.Env) -> Any:
    space = environment.observation_space
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return gym.wrappers.FlattenObservation(environment)
    shape = space.shape or () if isinstance(space, spaces.Box) and space.dtype == np.uint8 else ()
    return ChannelsFirst(environment) if len(shape) == 3 and shape[-1] in (1, 3, 4) else environment


def _unknown(id: str, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"needs the package {error.name}, which is not installed"
    with contextlib.suppress(ImportError):
        import ale_py  # noqa: F401  (registers its games, so that they can be suggested)
    family = id.split("-v")[0]
    known = sorted(gym.registry)
    close = [name for name in known if name.split("-v")[0].lower() == family.lower()]
    close += difflib.get_close_matches(id, known, n=3, cutoff=0.5)
    listed = ", ".join(dict.fromkeys(close[-1:] + close)) or "see gymnasium.pprint_registry()"
    return f"no environment of that name is registered; nearest: {listed}"
