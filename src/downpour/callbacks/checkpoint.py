"""Checkpoints that hold everything, written so that a whole one is always there."""

import contextlib
import logging
import os
import pickle
import random
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback

from downpour.callbacks.recorder import gather
from downpour.config import ConfigError, PositiveInt
from downpour.loggers.files import RunFiles
from downpour.run import Run

log = logging.getLogger(__name__)

LAST, PREVIOUS, BEST, PARTIAL = "last.ckpt", "previous.ckpt", "best.ckpt", "partial.ckpt"


class Stopped(Exception):
    """A signal asked the run to stop, and it has been saved."""

    def __init__(self, signal_number: int):
        self.signal_number = signal_number
        super().__init__(signal.Signals(signal_number).name)


class Checkpoint(Callback):
    """Saves after each evaluation, and when SIGINT or SIGTERM asks the run to stop.

    The file holds Lightning's part (weights, optimizers, callbacks) and, for each rank, its stream and its random
    generators. Lightning's loop counters are left out: the stream knows where in an epoch it is.
    """

    def __init__(self, run: Run, *, every: PositiveInt = 1, monitor: str = "eval/return_mean", maximize: bool = True):
        """
        Args:
            every: evaluations between two checkpoints.
            monitor: the metric that decides which is best.
            maximize: whether more of it is better.
        """
        self.run, self.every, self.monitor, self.sign = run, every, monitor, 1.0 if maximize else -1.0
        self.directory = run.directory / "checkpoints"
        self.best: float | None = None
        self.best_step = 0
        self._evaluations = 0
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}
        self._loaded: dict[str, Any] | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(ValueError):  # only the main thread may set handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._remember)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self._signal == signal.SIGINT == number:
            raise KeyboardInterrupt  # asked twice: do not wait for the round to end
        self._signal = number

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        stop = self._signal is not None
        if trainer.world_size > 1:  # all ranks stop after the same round
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            self.save(trainer)
            raise Stopped(self._signal or signal.SIGTERM)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._evaluations += 1
        value = trainer.callback_metrics.get(self.monitor)
        improved = value is not None and (self.best is None or self.sign * float(value) > self.sign * self.best)
        if improved:
            self.best, self.best_step = float(value), trainer.datamodule.step
        data = trainer.datamodule
        if improved or self._evaluations % self.every == 0 or data.step >= self.run.total_steps or trainer.should_stop:
            self.save(trainer)
        if improved and trainer.is_global_zero:
            _copy(self.directory / LAST, self.directory / BEST)

    def save(self, trainer: Any) -> None:
        """Write last.ckpt; the one before becomes previous.ckpt. All ranks must call it."""
        partial = self.directory / PARTIAL
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            _sync(partial)
            last = self.directory / LAST
            if last.exists():
                os.replace(last, self.directory / PREVIOUS)
            os.replace(partial, last)
            _sync(self.directory)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        data = trainer.datamodule
        mine = {"stream": data.capture(), "algorithm": pl_module.capture(), "generators": capture_generators()}
        files = [logger.capture() for logger in trainer.loggers if isinstance(logger, RunFiles)]
        checkpoint["step"] = data.step
        checkpoint["ranks"] = gather([mine])
        checkpoint["files"] = files[0] if files else None
        checkpoint["best"] = (self.best, self.best_step, self._evaluations)
        checkpoint.pop("loops", None)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        saved = len(checkpoint["ranks"])
        if saved != self.run.world_size:
            advice = f"the run was trained by {saved} process(es); resume it with as many"
            raise ConfigError("trainer", f"{self.run.world_size} process(es)", advice)
        self._loaded = checkpoint
        self.best, self.best_step, self._evaluations = checkpoint["best"]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Last of all restore what draws: everything before may have drawn from the generators."""
        if self._loaded is None:
            return
        checkpoint, self._loaded = self._loaded, None
        mine = checkpoint["ranks"][self.run.rank]
        trainer.datamodule.restore(mine["stream"])
        pl_module.restore(mine["algorithm"])
        for logger in trainer.loggers:
            if isinstance(logger, RunFiles) and trainer.is_global_zero:
                logger.restore(checkpoint["files"])
        restore_generators(mine["generators"])


def capture_generators() -> dict[str, Any]:
    """The state of Python's, NumPy's and Torch's global generators, as plain data."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": list(random.getstate()[1]),
        "numpy": [
            str(name),
            torch.from_numpy(np.array(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_generators(state: dict[str, Any]) -> None:
    """Set the global generators to what `capture_generators` saw."""
    random.setstate((3, tuple(state["python"]), None))
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    for device, generator in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(generator, device)


def newest_whole(
    directory: Path, names: Sequence[str] = (LAST, PARTIAL, PREVIOUS, BEST)
) -> tuple[Path, dict[str, Any]]:
    """The first of a run's checkpoints (by default the newest) that can be read to its end, and its content.

    Args:
        names: which to try, in this order.

    Raises:
        ConfigError: there is none.
    """
    broken = []
    for name in names:
        path = directory / "checkpoints" / name
        if not path.exists():
            continue
        try:
            content = read(path)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
            if name != PARTIAL:
                broken.append(name)
                reason = str(error).partition(". ")[0].partition("\n")[0] or type(error).__name__
                log.warning("%s cannot be read (%s)", path, reason)
            continue
        if broken:
            log.warning("falling back from %s to %s", ", ".join(broken), path)
        return path, content
    raise ConfigError(
        message=f"{directory}: no whole checkpoint" + (f" ({', '.join(broken)} damaged)" if broken else "")
    )


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's content, on the CPU; tensors and plain containers only, so reading it runs no code."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or "algorithm" not in content:
        raise ValueError("not a checkpoint of this project")
    return content


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _copy(source: Path, target: Path) -> None:
    """A second name for the same content: a link where the disk has them."""
    partial = target.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        shutil.copyfile(source, partial)
        _sync(partial)
    os.replace(partial, target)
