"""Environments that show their transition table."""

import numpy as np

from downpour.config import ConfigError
from downpour.dynamic_programming import MDP
from downpour.environments.base import Environment
from downpour.environments.table_vector import table_in


def table_of(environment: Environment) -> MDP:
    """The exact model of an environment.

    Raises:
        ConfigError: it shows none, or hides in which state it is.
    """
    single = environment.single()
    table = table_in(single)
    single.close()
    if len(table) != single.observation_space.n:  # type: ignore[attr-defined]
        raise ConfigError(
            "env.id", environment.id, "hides its state, so there is no exact solution; use env=frozen_lake"
        )
    return MDP.from_table(table)


def start_of(environment: Environment) -> np.ndarray:
    """The distribution of the first state [states], of an environment that shows it."""
    single = environment.single()
    start = np.asarray(single.unwrapped.initial_state_distrib, np.float64)  # type: ignore[attr-defined]
    single.close()
    return start
