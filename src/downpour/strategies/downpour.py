"""Downpour SGD (Dean et al. 2012, section 4.1): (3)-(4) of the lecture, computed asynchronously."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ClassVar

from torch.optim import Optimizer

from downpour.config import NonNegativeInt, PositiveInt
from downpour.strategies.board import Board
from downpour.strategies.parameter_server import OptimizerFactory, ParameterServer, ParameterSet
from downpour.strategies.remote import Remote
from downpour.strategies.served import Served


class Downpour(Served):
    """Asynchronous stochastic gradient descent with a parameter server.

    The servers keep theta, each of them some of its tensors. A worker computes g at its copy of theta, (3); the servers
    make theta <- theta - alpha g, (4), with the run's optimizer, in the order in which gradients arrive. The staleness
    of a gradient is the number of updates since its worker fetched theta.
    """

    name: ClassVar[str] = "downpour"

    def __init__(
        self,
        *args: Any,
        n_push: PositiveInt = 1,
        n_fetch: PositiveInt = 1,
        local_steps: bool = True,
        overlap: bool = False,
        staleness_aware: bool = False,
        max_staleness: NonNegativeInt | None = None,
        **kwargs: Any,
    ):
        """
        Args:
            n_push: gradient steps between two pushes, each of the sum of the gradients since the last one.
            n_fetch: gradient steps between two fetches.
            local_steps: between two fetches, a worker updates its own copy as well.
            overlap: push and fetch while the next gradient is computed. Fetched parameters are used one step later, so
                gradients are one update staler; a round ends when its last exchange has.
            staleness_aware: divide the step size by the staleness of the gradient (Zhang et al. 2016).
            max_staleness: drop gradients that are staler than this; null drops none.
        """
        super().__init__(*args, **kwargs)
        self.n_push, self.n_fetch, self.local_steps = n_push, n_fetch, local_steps
        self.pool = ThreadPoolExecutor(1) if overlap else None
        self.aware, self.bound = staleness_aware, max_staleness

    @classmethod
    def batches_each(cls, settings: Mapping[str, Any]) -> int:
        return settings["n_push"]

    def server(self, workers: int, make_optimizer: OptimizerFactory) -> ParameterServer:
        """The server that one server process runs."""
        make_set = partial(ParameterSet, make_optimizer=make_optimizer, bound=self.bound, aware=self.aware)
        return ParameterServer(Board(workers, self.longest_wait), make_set)

    def remote(self, optimizer: Optimizer, number: int) -> Remote:
        options: dict[str, Any] = {"n_push": self.n_push, "n_fetch": self.n_fetch, "local_steps": self.local_steps}
        return Remote(optimizer, number, self.link, **options, pool=self.pool)
