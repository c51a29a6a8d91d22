"""Environments that show their transition table."""

import numpy as np

from downpour.config import ConfigError
from downpour.dynamic_programming import MDP
from downpour.environments.base import Environment


def table_of(environment: Environment) -> MDP:
    """The exact model of an environment.

    Raises:
        ConfigError: it shows none.
    """
    single = environment.single()
    table = getattr(single.unwrapped, "P", None)
    single.close()
    if table is None:
        advice = "shows no transition table; use env=frozen_lake, cliff_walking, taxi or random_walk"
        raise ConfigError("env.id", environment.id, advice)
    return MDP.from_table(table)


def start_of(environment: Environment) -> np.ndarray:
    """The distribution of the first state [states], of an environment that shows it."""
    single = environment.single()
    start = np.asarray(single.unwrapped.initial_state_distrib, np.float64)  # type: ignore[attr-defined]
    single.close()
    return start
