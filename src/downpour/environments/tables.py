"""The transition tables of environments that have one."""

import numpy as np

from downpour.config import ConfigError
from downpour.dynamic_programming import MDP
from downpour.environments.base import Environment
from downpour.environments.table_vector import table_in


def table_of(environment: Environment) -> MDP:
    """The exact model of an environment.

    Raises:
        ConfigError: it has none, its observation is not its state, or it is copied (`env.trials`).
    """
    single = environment.single()
    table = table_in(single)
    single.close()
    shown, in_all = (int(space.n) for space in (single.observation_space, environment.observation_space))  # type: ignore[attr-defined]
    if len(table) != shown:
        raise ConfigError(
            "env.id", environment.id, "hides its state, so there is no exact solution; use env=frozen_lake"
        )
    if in_all != shown:
        raise ConfigError("env.trials", in_all // shown, "an exact solution is that of one environment: use 1")
    return MDP.from_table(table)


def start_of(environment: Environment) -> np.ndarray:
    """The distribution of the first state, [states]."""
    single = environment.single()
    start = np.asarray(single.unwrapped.initial_state_distrib, np.float64)  # type: ignore[attr-defined]
    single.close()
    return start
