"""How one algorithm runs in many processes; its learning rule does not depend on it."""

from downpour.strategies.base import Parallelism, parallelism, parallelism_of
from downpour.strategies.data_parallel import DataParallel

__all__ = ["DataParallel", "Parallelism", "parallelism", "parallelism_of"]
