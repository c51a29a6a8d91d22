"""The command line of training, run as its own process.

Most processes are forked from a server that has imported everything once, so that a run costs no start. Those that
matter as a whole (`python src/train.py`) are started for real.
"""

import atexit
import csv
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from downpour.checkpoints import read

ROOT = Path(__file__).resolve().parents[1]
DOOR = str(ROOT / "src" / "train.py")
SMALL = (
    "total_env_steps=1024",
    "eval_every=256",
    "eval_episodes=2",
    "callbacks.recorder.every=100",
    "data.num_envs=4",
    "data.round_steps=4",
    "data.updates=2",
    "data.batch_size=16",
    "data.learning_starts=64",
    "data.capacity=600",
    "model.hidden=[16]",
    "logger=csv",
)
PRELOAD = [
    "downpour.jobs",
    "downpour.worker",
    "downpour.data",
    "downpour.networks",
    "downpour.callbacks",
    "downpour.analysis.curves",
    "gymnasium.vector",
    "pandas",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "tests.commands",
]


def forkserver() -> Any:
    """The multiprocessing context whose processes begin with everything imported.

    The server is started once: whoever is first in a test process must say what it imports.
    """
    os.environ["PYTHONPATH"] = f"{ROOT}:{ROOT / 'src'}"  # where the server finds it
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


@dataclass
class Ended:
    """What a process left behind."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """All it said."""
        return self.out + self.err


class Running:
    """A process that runs `train.py` with some arguments."""

    def __init__(self, process: Any, folder: Path):
        self.process, self.folder, self.pid = process, folder, process.pid

    def wait(self, timeout: float = 240) -> Ended:
        """Wait for its end; kills it after `timeout` seconds."""
        if isinstance(self.process, subprocess.Popen):
            try:
                code = self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise
        else:
            self.process.join(timeout)
            if self.process.exitcode is None:
                self.process.kill()
                raise TimeoutError(f"still running after {timeout} s")
            code = self.process.exitcode
        return Ended(code, (self.folder / "out").read_text(), (self.folder / "err").read_text())

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def has_got(self, number: int) -> bool:
        """Whether no such signal is on its way any more."""
        return not any(self._signals(kind) & 1 << (number - 1) for kind in ("SigPnd", "ShdPnd"))

    def catches(self, number: int) -> bool:
        """Whether it has a handler for this signal."""
        return bool(self._signals("SigCgt") & 1 << (number - 1))

    def _signals(self, kind: str) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith(kind)).split()[1], 16)

    def wait_until(self, condition: Callable[[], Any], timeout: float = 240) -> None:
        """Wait until `condition()` is true; fails if the process ends before."""
        for _ in range(int(timeout / 0.005)):
            if condition():
                return
            assert self.alive(), self.wait().text
            time.sleep(0.005)
        raise TimeoutError

    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None if isinstance(self.process, subprocess.Popen) else self.process.is_alive()


class Commands:
    """Runs `python src/train.py` with some arguments, in a folder of its own."""

    def __init__(self, folder: Path):
        self.folder, self._count = folder, 0

    def start(
        self,
        *arguments: str,
        fork: bool = True,
        environment: Mapping[str, str] | None = None,
        sabotage: Callable[[], None] | None = None,
    ) -> Running:
        """Start it.

        Args:
            arguments: what follows `train.py`.
            fork: False begins with a new interpreter, as a person's shell does.
            environment: variables to add.
            sabotage: called in the (forked) process before all else.
        """
        self._count += 1
        own = self.folder / f"process{self._count}"
        own.mkdir()
        if fork:
            context = forkserver()
            where = (str(own), str(self.folder))
            process = context.Process(target=_door, args=(arguments, *where, environment or {}, sabotage))
            process.start()
            return Running(process, own)
        with open(own / "out", "w") as out, open(own / "err", "w") as err:
            command = [sys.executable, DOOR, *arguments]
            surroundings = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
            return Running(subprocess.Popen(command, cwd=self.folder, stdout=out, stderr=err, env=surroundings), own)

    def run(self, *arguments: str, **how: Any) -> Ended:
        """Start it and wait for its end."""
        return self.start(*arguments, **how).wait()


def _door(
    arguments: tuple[str, ...],
    own: str,
    folder: str,
    environment: Mapping[str, str],
    sabotage: Callable[[], None] | None,
) -> None:
    os.environ.update(environment)
    os.chdir(folder)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{own}/{name}", os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sabotage:
        sabotage()
    sys.argv = [DOOR, *arguments]
    try:
        runpy.run_path(DOOR, run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # which a forked process leaves out


def killed_at_replace(nth: int) -> None:
    """Kill this process just before it gives a checkpoint its name for the nth time."""
    original, count = os.replace, 0

    def replace(source: Any, target: Any) -> None:
        nonlocal count
        count += str(target).endswith(".ckpt")
        if count == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        original(source, target)

    os.replace = replace


def killed_half_written(nth: int) -> None:
    """Kill this process when half of its nth checkpoint is on the disk."""
    original, count = os.fsync, 0

    def fsync(handle: int) -> None:
        nonlocal count
        if os.readlink(f"/proc/self/fd/{handle}").endswith("partial.ckpt"):
            count += 1
            if count == nth:
                os.truncate(handle, os.fstat(handle).st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
        original(handle)

    os.fsync = fsync


def killed_at_call(nth: int) -> None:
    """Kill this process in the nth function that Python calls once the run has begun."""
    from downpour import jobs

    run, count = jobs.run, 0

    def counted(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"
        if count == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    def run_counted(*arguments: Any) -> Any:
        sys.setprofile(counted)
        return run(*arguments)

    jobs.run = run_counted


def size(path: Path) -> int:
    """Of a file; 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def rows(path: Path) -> list[dict[str, str]]:
    """A CSV file's rows."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def checkpoint(run: Path, name: str = "last.ckpt") -> dict[str, Any]:
    """The content of a run's checkpoint."""
    return read(run / "checkpoints" / name)


def assert_same(run: Path, other: Path) -> None:
    """The runs have the same metrics, episodes and weights, to the last bit."""
    for name in ("metrics.csv", "episodes.csv"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    mine, theirs = checkpoint(run), checkpoint(other)
    assert mine["step"] == theirs["step"]
    assert mine["gradient_steps"] == theirs["gradient_steps"] > 0
    assert mine["state_dict"].keys() == theirs["state_dict"].keys()
    for name, value in mine["state_dict"].items():
        assert torch.equal(value, theirs["state_dict"][name]), name
