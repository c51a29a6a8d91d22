"""When a run is saved, and what is saved."""

import signal
import time
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback

from downpour.checkpoints import LAST, PARTIAL, capture_rank, install, mark_best, restore_rank, same_ranks, sync
from downpour.config import ConfigError, PositiveInt
from downpour.failures import Stopped
from downpour.loggers.files import RunFiles
from downpour.processes import handle, restore
from downpour.run import Run
from downpour.strategies import Parallelism, parallelism


class Checkpoint(Callback):
    """Saves after each evaluation, at the end, and when a signal asks the run to stop.

    A checkpoint holds Lightning's part (weights, optimizers, callbacks) and, for each rank, its stream and its random
    generators. Lightning's loop counters are omitted: the data module knows its position in an epoch.

    Attributes:
        best, best_step: the best value of `monitor` so far, and when.
        metrics: latest value of every metric at the last checkpoint.
    """

    def __init__(self, run: Run, *, every: PositiveInt = 1, monitor: str = "eval/return_mean", maximize: bool = True):
        """
        Args:
            every: evaluations between two checkpoints.
            monitor: the metric that selects the best.
            maximize: whether higher is better.
        """
        self.run, self.every, self.monitor, self.sign = run, every, monitor, 1.0 if maximize else -1.0
        self.directory = run.directory / "checkpoints"
        self.best: float | None = None
        self.best_step = 0
        self._evaluations = 0
        self._saved_step = -1
        self._seconds_before, self._begin = 0.0, time.perf_counter()
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}
        self._loaded: dict[str, Any] | None = None
        self._as_before = True  # each rank goes on from its own part of the checkpoint

    @property
    def seconds(self) -> float:
        """Training time over all resumes, without work lost to a kill."""
        return self._seconds_before + time.perf_counter() - self._begin

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._handlers = handle(self._remember)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        restore(self._handlers)
        self._handlers = {}

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self._signal == signal.SIGINT == number:  # second Ctrl-C: do not wait for the round to end
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._signal = number

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        # After the last round of an epoch evaluate first: a resumed run would not catch up on it.
        if not trainer.datamodule.evaluation_due:
            self._stop_if_asked(trainer, pl_module)

    def _stop_if_asked(self, trainer: Any, pl_module: Any) -> None:
        asked = self._signal or 0
        if trainer.world_size > 1:  # all ranks stop after the same round
            numbers = torch.tensor(asked, device=pl_module.device)
            asked = int(trainer.strategy.reduce(numbers, reduce_op="max"))
        if asked:
            if trainer.datamodule.step != self._saved_step:
                self.save(trainer)
            raise Stopped(asked)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._evaluations += 1
        value = trainer.callback_metrics.get(self.monitor)
        improved = value is not None and (self.best is None or self.sign * float(value) > self.sign * self.best)
        if improved:
            self.best, self.best_step = float(value), trainer.datamodule.step
        if improved or self._evaluations % self.every == 0:
            self.save(trainer)
        if improved and trainer.is_global_zero:
            mark_best(self.directory / LAST)
        if not trainer.datamodule.finished:
            self._stop_if_asked(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.datamodule.step != self._saved_step:
            self.save(trainer)

    def save(self, trainer: Any) -> None:
        """Write last.ckpt; the one before becomes previous.ckpt. All ranks must call it."""
        trainer.save_checkpoint(self.directory / PARTIAL)
        if trainer.is_global_zero:
            install(self.directory)
        self._saved_step = trainer.datamodule.step

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        data = trainer.datamodule
        mine = capture_rank(data, pl_module)
        if isinstance(trainer.strategy, Parallelism):
            mine["strategy"] = {"name": trainer.strategy.name, **trainer.strategy.capture()}
        files = [logger.capture() for logger in trainer.loggers if isinstance(logger, RunFiles)]
        strategy = parallelism(trainer.strategy)
        checkpoint["step"] = data.step
        checkpoint["total_gradient_steps"] = pl_module.gradient_steps + self.run.others.gradient_steps
        checkpoint["ranks"] = strategy.gather_states(mine)
        checkpoint["replicas"] = self.run.replicas
        checkpoint["asynchronous"] = strategy.name if self.run.asynchronous else None
        for name in files[0] if files and trainer.is_global_zero else ():
            sync(self.run.directory / f"{name}.csv")  # the checkpoint relies on these rows
        checkpoint["files"] = files[0] if files else None
        checkpoint["best"] = (self.best, self.best_step, self._evaluations)
        checkpoint["metrics"] = {name: float(value) for name, value in trainer.callback_metrics.items()}
        checkpoint["seconds"] = self.seconds
        checkpoint.pop("loops", None)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._as_before = same_ranks(checkpoint, self.run, trainer.strategy)
        if not self._as_before and not trainer.datamodule.any_ranks:
            saved = len(checkpoint["ranks"])
            by = f"{saved} process(es) with {checkpoint.get('replicas', saved)} replica(s)"
            by += f" and strategy={name}" if (name := checkpoint.get("asynchronous")) else ""
            advice = f"the run was trained by {by}; resume it in the same way"
            raise ConfigError("trainer", f"{self.run.world_size} process(es)", advice)
        self._loaded = checkpoint
        self.best, self.best_step, self._evaluations = checkpoint["best"]
        self._seconds_before = checkpoint["seconds"]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Restore the generators last: everything before may have drawn from them."""
        self._begin = time.perf_counter()
        if self._loaded is None:
            return
        checkpoint, self._loaded = self._loaded, None
        ranks, data = checkpoint["ranks"], trainer.datamodule
        if self._as_before:
            mine = ranks[self.run.rank]
        else:  # only data sets get here: their state is the step, here that of all ranks together
            steps = checkpoint.get("total_gradient_steps", checkpoint["step"])
            mine = {**ranks[0], "stream": {"step": checkpoint["step"]}, "gradient_steps": steps}
        try:
            restore_rank(mine, data, pl_module, draws=self._as_before)  # a different set of ranks draws anew
        except (FileNotFoundError, EOFError) as error:
            if any((self.run.directory / "replay").glob("*/*")):
                what = f"the replay journal of its checkpoint at step {checkpoint['step']} is missing or cut short"
                advice = f"{what} ({error}); remove {LAST} to resume from the checkpoint before"
            else:
                advice = "its replay buffer was deleted; init_from= this directory starts a new run from its weights"
            raise ConfigError("resume", self.run.directory, advice) from None
        strategy, before = trainer.strategy, mine.get("strategy", {})
        if self._as_before and isinstance(strategy, Parallelism) and strategy.name == before.get("name"):
            strategy.restore(before)
        for logger in trainer.loggers:
            if isinstance(logger, RunFiles) and trainer.is_global_zero:
                logger.restore(checkpoint["files"])
        trainer.callback_metrics.update({name: torch.tensor(v) for name, v in checkpoint["metrics"].items()})
        self._saved_step = data.step
        trainer.should_stop = data.finished
