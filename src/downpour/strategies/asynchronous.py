"""Base of the strategies whose workers communicate with servers only; for Lightning, each is a single process."""

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import SingleDeviceStrategy

from downpour.checkpoints import capture_rank, restore_rank, same_ranks
from downpour.config import ConfigError, PositiveFloat
from downpour.failures import FAILED, Failed
from downpour.launch import Launch
from downpour.run import Run, process
from downpour.strategies.base import Parallelism
from downpour.strategies.board import EPISODES, STATE
from downpour.strategies.launch import LEAVING_SECONDS, launch
from downpour.strategies.link import Link
from downpour.trainer import Hardware

log = logging.getLogger(__name__)


class Asynchronous(Parallelism, SingleDeviceStrategy):
    """Workers that communicate with servers, never with each other, so that the run survives the loss of a worker.

    Rank 0 evaluates, records and saves; when it ends, so does the run. There is no process group: with one, Lightning
    would synchronize the ranks before each batch.

    Attributes:
        link: connection to the servers.
        run: facts of the run.
        reports_epochs: the workers make each step together, so each posts its part of a checkpoint when an evaluation
            is due: afterwards it may be blocked, waiting for rank 0, and could not answer a request.
    """

    servers = 1
    reports_epochs = False
    link: Link
    run: Run

    def __init__(self, hardware: Hardware, *, seconds: PositiveFloat = 60.0):
        """
        Args:
            seconds: timeout for answers of a server, and for what rank 0 requests from the other workers.
        """
        rank = process()[0] % hardware.devices
        super().__init__(device=torch.device("cuda", rank) if hardware.accelerator == "gpu" else torch.device("cpu"))
        self.seconds = {"communicating": 0.0}
        self.longest_wait = seconds
        self._reason = ""
        self._states: dict[int, Any] = {}

    @classmethod
    def own_launcher(cls) -> Launch:
        return launch

    def attach(self, link: Link, run: Run) -> None:
        """Set the connection to the servers, before training."""
        self.link, self.run = link, run
        self.global_rank = run.rank

    @property
    def is_global_zero(self) -> bool:
        return self.run.rank == 0

    def callbacks(self, own: list[Callback]) -> list[Callback]:
        """The callbacks of this rank: `Exchange`, then those of the configuration (rank 0 only)."""
        return [Exchange(self), *own]

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        super().load_model_state_dict(checkpoint, strict)
        if same_ranks(checkpoint, self.run, self):  # otherwise rank 0 starts from the steps of all
            self._states = dict(enumerate(checkpoint["ranks"]))

    def on_train_start(self) -> None:
        """Start all workers from the state of rank 0, which has restored its checkpoint by now.

        Raises:
            Failed: rank 0 was lost before it had published its state.
        """
        module: Any = self.lightning_module
        if self.run.rank == 0:
            self.link.publish({"weights": module.state_dict(), "ranks": self._states})
            return
        published = self.link.join()
        if published is None:
            raise Failed(FAILED, "rank 0 has gone", lost=True)
        module.load_state_dict(published["weights"])
        if (mine := published["ranks"].get(self.run.rank)) is not None:
            restore_rank(mine, module.trainer.datamodule, module)
        self.report()

    def in_step(self, ranks: int) -> int:
        return 1

    def report(self) -> list[tuple[int, str]]:
        """Report this worker's progress to the servers, and receive that of the others; see `Link.report`."""
        module: Any = self.lightning_module
        return self.link.report(*self.progress(module.trainer.datamodule, module))

    def progress(self, data: Any, algorithm: Any) -> tuple[int, int]:
        """(stream steps, gradient steps) that this rank adds to those of the others."""
        return data.own_steps, algorithm.gradient_steps

    def gather(self, items: list[Any]) -> list[Any]:
        """Rank 0's items, and those that the other workers have posted since the last call."""
        return items + [item for _, part in self.link.collect(EPISODES) for item in part]

    def gather_states(self, own: dict[str, Any]) -> list[dict[str, Any] | None]:
        """Each worker's part of a checkpoint, in rank order; None for a worker that was lost before it posted one."""
        states: dict[int, Any] = {**self._states, **dict(self.link.collect(STATE, ask=True)), 0: own}
        return [states.get(rank) for rank in range(self.run.world_size)]

    def flush(self) -> None:
        """Push gradients that have been accumulated but not sent."""

    def snapshot(self) -> None:
        """Set this rank's parameters to the current ones of the run."""

    def metrics(self, gradient_steps: int) -> dict[str, float]:
        self.traffic += self.link.take_traffic()
        return super().metrics(gradient_steps)

    def check(self, algorithm: Any, data: Any, config: Mapping[str, Any]) -> None:
        if not data.divisible:
            raise ConfigError("strategy", self.name, f"data={data.stream} has nothing to divide: use strategy=auto")

    def on_exception(self, exception: BaseException) -> None:
        self._reason = f"{type(exception).__name__}: {exception}".splitlines()[0]

    def teardown(self) -> None:
        with contextlib.suppress(Failed):  # the server may be lost
            if self.run.rank == 0:
                self.link.stop(LEAVING_SECONDS)
            self.link.leave(self._reason)
        super().teardown()


class Exchange(Callback):
    """After each round, reports progress to the servers and answers the requests of rank 0."""

    def __init__(self, strategy: Asynchronous):
        self.strategy, self.answered = strategy, 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        link, data = self.strategy.link, trainer.datamodule
        for worker, reason in self.strategy.report():
            if reason:
                log.warning("worker %d has gone (%s): the run goes on without it", worker, reason)
        if self.strategy.run.rank == 0:
            return
        if link.stopping:
            trainer.should_stop = True
        if episodes := data.take_episodes():
            link.post(EPISODES, [tuple(episode) for episode in episodes])
        if link.asked > self.answered:
            self._post_state(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self.strategy.run.rank == 0:
            self.strategy.snapshot()
        elif self.strategy.reports_epochs:
            self._post_state(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self.strategy.run.rank:
            self._post_state(trainer, pl_module)

    def _post_state(self, trainer: Any, algorithm: Any) -> None:
        self.answered = self.strategy.link.asked
        self.strategy.flush()
        self.strategy.link.post(STATE, capture_rank(trainer.datamodule, algorithm))
