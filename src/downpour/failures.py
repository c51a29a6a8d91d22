"""Failures of a run, as one short message and an exit code."""

import errno
import os
import re
import signal
import sys
import traceback
from pathlib import Path

from downpour.config import ConfigError

BAD_INPUT, FAILED = 2, 1
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
# Messages of plain RuntimeErrors from Torch's backends when the other end of a connection is lost.
LOST_PEER = re.compile(
    r"connection (was )?(likely )?(closed|reset|refused)|broken pipe|socket timeout"
    r"|gloo/transport/|ncclRemoteError|ncclSystemError|NCCL communicator was aborted",
    re.IGNORECASE,
)


class Failed(Exception):
    """A run failed. Its text is the complete message for the user, `code` the exit code.

    Attributes:
        stopped: a signal asked for it, and the run is saved.
        lost: another process of the run was lost, and reports the cause.
    """

    def __init__(self, code: int, message: str, *, stopped: bool = False, lost: bool = False):
        super().__init__(message)
        self.code, self.stopped, self.lost = code, stopped, lost

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.code, str(self)), {"stopped": self.stopped, "lost": self.lost}


class Stopped(Exception):
    """A signal asked the run to stop, and it has been saved."""

    def __init__(self, signal_number: int):
        self.signal_number = signal_number
        super().__init__(signal.Signals(signal_number).name)


class TrainingError(RuntimeError):
    """Training cannot continue; the message says why and what to change."""


def explain(error: BaseException, directory: Path) -> Failed:
    """The message and exit code for an exception; unexpected tracebacks go to train.log."""
    if isinstance(error, Failed):
        return error
    if isinstance(error, Stopped):
        return stopped(error.signal_number, directory)
    if isinstance(error, KeyboardInterrupt):
        return interrupted(signal.SIGINT, directory)
    if isinstance(error, ConfigError):
        return Failed(BAD_INPUT, str(error))
    if isinstance(error, TrainingError):
        return Failed(FAILED, f"{error}\n{last_checkpoint(directory)}")
    if isinstance(error, OSError) and error.errno in (*FULL, *REFUSED):
        return Failed(FAILED, explain_disk(error, directory))
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "out of memory" in str(error)):
        advice = "lower data.batch_size, data.capacity or the size of the model"
        if type(error).__name__ == "OutOfMemoryError":  # Torch's, on a GPU
            advice = "lower data.batch_size or the size of the model, or keep the data set in host memory"
            advice += " (data.on_device=false)"
        return Failed(FAILED, f"out of memory ({_first_line(error)}): {advice}\n{last_checkpoint(directory)}")
    if type(error).__name__ == "MisconfigurationException":  # Lightning's own, matched without importing it
        return Failed(BAD_INPUT, _first_line(error))
    if type(error).__name__ == "UncompletedJobError":  # submitit's, when it does not start the job again
        advice = "raise hydra.launcher.timeout_min, or hydra.launcher.max_num_timeout to start it again"
        return Failed(FAILED, f"the job reached its time limit: {advice}\n{last_checkpoint(directory)}")
    _write_traceback(error, directory)
    if _lost_a_peer(error):
        what = f"lost another process of this run ({_first_line(error)})"
        return Failed(FAILED, f"{what}\n{last_checkpoint(directory)}", lost=True)
    where = f"the traceback is in {directory / 'train.log'}; debug=full shows it here"
    return Failed(FAILED, f"{type(error).__name__}: {_first_line(error)}\n{where}")


def stopped(number: int, directory: Path) -> Failed:
    """The message of a run that a signal stopped and that is saved."""
    name = signal.Signals(number).name
    text = f"stopped by {name}; the run is saved. To resume:\n  python src/train.py resume={shown(directory)}"
    return Failed(128 + number, text, stopped=True)


def interrupted(number: int, directory: Path) -> Failed:
    """The message of a run that a signal ended before it could save."""
    return Failed(128 + number, f"ended by {signal.Signals(number).name}, not saved; {last_checkpoint(directory)}")


def explain_disk(error: OSError, directory: Path) -> str:
    """The message for a full or read-only disk."""
    where = error.filename or directory
    if error.errno in FULL:
        what = "the file exceeds the size limit" if error.errno == errno.EFBIG else "the disk is full"
        return f"hydra.run.dir={directory}: {what} ({where}); free space, then resume\n{last_checkpoint(directory)}"
    return f"hydra.run.dir={directory}: cannot write {where} ({error.strerror}); choose another directory"


def has_trained(directory: Path) -> bool:
    """Whether a run has left a checkpoint or metrics."""
    return any(directory.glob("checkpoints/*.ckpt")) or (directory / "metrics.csv").exists()


def last_checkpoint(directory: Path) -> str:
    """How to resume, as one line."""
    if (directory / "checkpoints" / "last.ckpt").exists():
        return f"resume from the last checkpoint: python src/train.py resume={shown(directory)}"
    return "there is no checkpoint yet"


def shown(path: Path) -> str:
    """The path relative to the working directory, if inside."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def say(failed: Failed, prefix: str = "") -> None:
    """Print the message to stderr."""
    kind = "" if failed.stopped else "error: "
    print(f"{kind}{prefix}{failed}", file=sys.stderr, flush=True)


def _lost_a_peer(error: BaseException) -> bool:
    if "TORCHELASTIC_RUN_ID" not in os.environ or not isinstance(error, RuntimeError):
        return False
    from torch.distributed import DistError

    return isinstance(error, DistError) or LOST_PEER.search(str(error)) is not None


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__


def _write_traceback(error: BaseException, directory: Path) -> None:
    try:
        with open(directory / "train.log", "a") as file:
            traceback.print_exception(error, file=file)
    except OSError:
        pass
