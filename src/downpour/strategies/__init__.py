"""How one learning rule runs on many processes; the rule knows nothing of it."""

from downpour.strategies.base import Parallelism, parallelism
from downpour.strategies.data_parallel import DataParallel

__all__ = ["DataParallel", "Parallelism", "parallelism"]
