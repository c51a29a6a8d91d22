"""Synchronous gradient descent with backup workers (Chen et al. 2016, section 3)."""

from functools import partial
from typing import Any, ClassVar

from downpour.config import ConfigError, NonNegativeInt
from downpour.failures import TrainingError
from downpour.strategies.board import Board
from downpour.strategies.gathering import Gathering
from downpour.strategies.link import TooFew
from downpour.strategies.parameter_server import OptimizerFactory, ParameterServer
from downpour.strategies.served import Served
from downpour.trainer import Hardware


class BackupWorkers(Served):
    """Of N + b workers, the first N gradients of the current parameters make an update, by their mean. The b gradients
    that arrive later are dropped, and their workers continue from the new parameters.

    Without backup workers (b = 0) it computes what data parallelism computes, through a server. Up to b workers may be
    lost. A gradient step is an update of the servers, whichever workers contributed.
    """

    name: ClassVar[str] = "backup_workers"
    reports_epochs = True

    def __init__(self, hardware: Hardware, *, backups: NonNegativeInt = 1, **kwargs: Any):
        """
        Args:
            backups: b, workers that an update does not wait for; each server takes the first N that reach it.

        Raises:
            ConfigError: no fewer backups than workers.
        """
        super().__init__(hardware, **kwargs)
        self.workers, self.backups = hardware.world_size, backups
        if backups >= self.workers:
            advice = f"of {self.workers} worker(s) none would be waited for; must be below trainer.devices"
            raise ConfigError("strategy.backups", backups, advice)
        self._steps_before = 0

    def in_step(self, ranks: int) -> int:
        return ranks - self.backups

    def server(self, workers: int, make_optimizer: OptimizerFactory) -> ParameterServer:
        board = Board(workers, self.longest_wait)
        needed = self.in_step(workers)
        return ParameterServer(board, partial(Gathering, make_optimizer=make_optimizer, board=board, needed=needed))

    def setup_optimizers(self, trainer: Any) -> None:
        super().setup_optimizers(trainer)
        if len(self.optimizers) > 1:  # a deadlock: workers could wait for each other in different ones
            rule = type(self.lightning_module).__name__
            advice = f"{rule} has {len(self.optimizers)} optimizers, here all gradients must be of one: use ddp"
            raise ConfigError("strategy", self.name, f"{advice} or downpour")

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.link.fetch(0, self._sets[0])
        self.report()

    def on_train_start(self) -> None:
        super().on_train_start()
        module: Any = self.lightning_module  # steps made with another strategy are no updates of these servers
        self._steps_before = max(0, module.gradient_steps - self._updates())

    def optimizer_step(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().optimizer_step(*args, **kwargs)
        except TooFew:
            advice = f"an update needs {self.in_step(self.workers)} of the {self.workers} workers, fewer are left"
            raise TrainingError(f"{advice}: resume the run, or allow for more with strategy.backups") from None

    def progress(self, data: Any, algorithm: Any) -> tuple[int, int]:
        return (data.own_steps if data.step_name == "env_steps" else 0), 0

    def report(self) -> list[tuple[int, str]]:
        """As always; updates that this worker did not contribute to count as gradient steps of the others."""
        news = super().report()
        module: Any = self.lightning_module
        missed = max(0, self._steps_before + self._updates() - module.gradient_steps)
        self.link.others.gradient_steps = missed
        if module.trainer.datamodule.step_name == "gradient_steps":
            self.link.others.steps = missed
        return news

    def _updates(self) -> int:
        return min(part.version for part in self.link.sets[0])
