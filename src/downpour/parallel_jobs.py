"""Parallel jobs of a sweep (`hydra/launcher=joblib`): a signal to the sweep lets each of them save, then ends it.

Joblib alone kills its workers on Ctrl-C before they have saved, and leaves them behind after SIGTERM.
"""

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.types import TaskFunction
from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher

from downpour.failures import Failed
from downpour.processes import end_with, handle, restore


class Launcher(JoblibLauncher):
    """Joblib's launcher; after signal N the sweep ends with exit code 128 + N, once the running jobs have saved."""

    def setup(self, *, task_function: TaskFunction, **given: Any) -> None:
        super().setup(task_function=functools.partial(run_job, task_function, os.getpid()), **given)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        with relayed() as received:
            try:
                results = super().launch(job_overrides, initial_job_idx)
            except Exception:
                if not received:  # otherwise: the signal has ended a worker that was about to start
                    raise
        if received:
            sys.exit(128 + received[0])
        return results


@contextlib.contextmanager
def relayed() -> Iterator[list[int]]:
    """Send SIGTERM to all workers when a signal arrives; yields those that did. A second Ctrl-C ends the sweep at once,
    and so does a signal while there are no workers."""
    received: list[int] = []

    def relay(number: int, frame: FrameType | None) -> None:
        workers = multiprocessing.active_children()
        if not workers or (number == signal.SIGINT and number in received):
            sys.exit(128 + number)
        received.append(number)
        for worker in workers:
            worker.terminate()

    before = handle(relay)
    try:
        yield received
    finally:
        restore(before)


class Listener:
    """Signals to a worker between the trainings of its jobs; during one, its checkpoint callback has them.

    Attributes:
        asked: the signal that asked the worker to stop; 0: none yet.
        busy: whether it has a job, which a signal then interrupts.
    """

    def __init__(self) -> None:
        self.asked, self.busy = 0, False
        handle(self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        first, self.asked = not self.asked, self.asked or number
        if self.busy and first:
            raise KeyboardInterrupt


@functools.cache
def listener(sweep: int) -> Listener:
    """This worker's. When the sweep's process ends, even killed, the worker is asked to stop."""
    found = Listener()
    end_with(sweep, signal.SIGTERM)
    return found


def run_job(task: TaskFunction, sweep: int, composed: Any) -> Any:
    """Run a job in a worker, unless a signal has asked it to stop.

    Args:
        sweep: process of the sweep.

    Raises:
        Failed: also when stopped by a signal: on SystemExit joblib would kill the other workers, which are saving.
    """
    if os.getpid() == sweep:  # hydra.launcher.n_jobs=1 needs no worker
        return task(composed)
    mine = listener(sweep)
    if mine.asked:
        with contextlib.suppress(OSError):  # has a run from before
            os.rmdir(HydraConfig.get().runtime.output_dir)
        raise Failed(128 + mine.asked, "not started")
    mine.busy = True
    try:
        return task(composed)
    except SystemExit as end:
        if os.getppid() != sweep:  # nobody is left to answer
            os._exit(int(end.code or 0))
        mine.asked = mine.asked or int(end.code or 0) - 128
        raise Failed(128 + mine.asked, "stopped", stopped=True) from None
    finally:
        mine.busy = False
