"""summary.json: the status and results of a run."""

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Trainer

from downpour import directory as directories
from downpour.algorithms.base import Algorithm
from downpour.callbacks.checkpoint import Checkpoint
from downpour.callbacks.recorder import Recorder
from downpour.failures import Stopped, shown
from downpour.loggers import WandB
from downpour.run import Run

log = logging.getLogger(__name__)


@contextlib.contextmanager
def recorded(trainer: Trainer, algorithm: Algorithm, data: Any, run: Run) -> Iterator[None]:
    """Context of training that keeps summary.json up to date, however the run ends, and closes the loggers.

    `status` is `running` until it is known to be `finished`, `stopped` (by a signal, saved) or `failed`; one that was
    killed therefore says `running`. A resumed run that fails before its first step keeps the summary it had.
    """
    before = directories.read_summary(run.directory)
    known = {"seed": run.seed, "processes": run.world_size, **directories.provenance()}
    if run.rank == 0:
        directories.write_summary(run.directory, {"status": "running", **known})
        log.info("running in %s", shown(run.directory))
    begin, status = time.perf_counter(), "finished"
    try:
        yield
    except BaseException as error:
        status = "stopped" if isinstance(error, Stopped) else "failed"
        raise
    finally:
        try:
            if run.rank == 0:
                found = results(trainer, algorithm, data, time.perf_counter() - begin)
                begun = not before or status != "failed" or data.step > 0  # 0: its checkpoint could not be restored
                directories.write_summary(run.directory, {"status": status, **found, **known} if begun else before)
        except OSError:
            if status == "finished":
                raise  # otherwise the disk may be the cause
        finally:
            _close_loggers(trainer, status)
    if run.rank == 0:
        log.info("finished after %.1f s: %s", found["wall_seconds"], shown(run.directory))


def results(trainer: Trainer, algorithm: Algorithm, data: Any, seconds: float) -> dict[str, Any]:
    """The current results of a run; `seconds` is the training time of this process."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    saver = next((c for c in callbacks if isinstance(c, Checkpoint)), None)
    recorder = next((c for c in callbacks if isinstance(c, Recorder)), None)
    seconds = saver.seconds if saver else seconds
    return {
        **{name: float(v) for name, v in trainer.callback_metrics.items() if name.startswith(("eval/", "test/"))},
        **({"eval/episodes": data.run.eval_episodes} if data.run.eval_episodes else {}),
        **({f"best/{saver.monitor.rpartition('/')[2]}": saver.best} if saver else {}),
        f"best/{data.step_name}": saver.best_step if saver else None,
        data.step_name: data.step,
        "gradient_steps": algorithm.gradient_steps + data.run.others.gradient_steps,
        "episodes": recorder.episodes if recorder else None,
        "wall_seconds": round(seconds, 3),
        f"{data.step_name}_per_second": round(data.step / seconds, 1),
    }


def _close_loggers(trainer: Trainer, status: str) -> None:
    for logger in trainer.loggers:
        with contextlib.suppress(Exception):
            logger.finalize("success" if status == "finished" else "failed")
            if isinstance(logger, WandB):
                logger.close(status)
