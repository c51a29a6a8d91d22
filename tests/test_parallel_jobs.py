"""A sweep on `hydra/launcher=joblib` that receives a signal."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.commands import Commands

from downpour.directory import read_summary
from downpour.failures import Failed
from downpour.processes import SIGNALS, handle, restore

parallel_jobs = pytest.importorskip("downpour.parallel_jobs", reason="joblib is an extra: make test EXTRAS=sweep")
SHORT = ["total_env_steps=4000", "eval_every=500", "eval_episodes=2", "data.learning_starts=500", "logger=csv"]


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """`run_job` of a sweep that is this process's parent; SIGTERM arrives as in a worker."""
    monkeypatch.setattr(parallel_jobs, "end_with", lambda sweep, number: None)
    config = SimpleNamespace(runtime=SimpleNamespace(output_dir=str(tmp_path)))
    monkeypatch.setattr(parallel_jobs.HydraConfig, "get", lambda: config)
    parallel_jobs.listener.cache_clear()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield lambda task: parallel_jobs.run_job(task, os.getppid(), {})
    restore(before)
    parallel_jobs.listener.cache_clear()


def test_no_job_begins_after_one_was_stopped(worker: Any, tmp_path: Path) -> None:
    assert worker(lambda config: 1.5) == 1.5
    with pytest.raises(Failed) as stopped:
        worker(lambda config: sys.exit(128 + signal.SIGTERM))
    assert stopped.value.code == 143 and stopped.value.stopped
    with pytest.raises(Failed, match="not started"):
        worker(lambda config: pytest.fail("must not begin"))
    assert not tmp_path.exists()  # or a report would list it


def test_a_sweep_without_workers_is_no_worker() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    assert parallel_jobs.run_job(lambda config: config, os.getpid(), 1.5) == 1.5
    assert [signal.getsignal(number) for number in SIGNALS] == before
    with pytest.raises(SystemExit) as ended, parallel_jobs.relayed():
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143


def test_a_signal_interrupts_a_job_that_has_no_handler_yet(worker: Any) -> None:
    def starting(config: Any) -> None:
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        worker(starting)
    with pytest.raises(Failed, match="not started") as refused:
        worker(lambda config: pytest.fail("must not begin"))
    assert refused.value.code == 143


def test_a_signal_between_two_jobs_is_remembered(worker: Any) -> None:
    worker(lambda config: None)
    signal.raise_signal(signal.SIGHUP)
    with pytest.raises(Failed, match="not started"):
        worker(lambda config: pytest.fail("must not begin"))


def test_signals_are_ignored_where_they_were() -> None:
    first = {number: signal.getsignal(number) for number in SIGNALS}
    received: list[int] = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        before = handle(lambda number, _: received.append(number))
        for number in SIGNALS:
            signal.raise_signal(number)
        restore(before)
        assert received == [signal.SIGINT, signal.SIGTERM]
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert all(signal.getsignal(number) == first[number] for number in before)
    finally:
        restore(first)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a worker learns of the end of its sweep on Linux only")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_running_jobs_save_and_the_sweep_goes_on_later(number: signal.Signals, commands: Commands) -> None:
    sweep = commands.folder / "sweep"
    jobs = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=0,1,2", f"hydra.sweep.dir={sweep}"]
    jobs += ["total_env_steps=1_000_000", *SHORT[1:]]  # none ends before both have saved
    running = commands.start("-m", *jobs, fork=False)
    running.wait_until(lambda: all((sweep / f"{job}/checkpoints/last.ckpt").exists() for job in (0, 1)))
    running.kill(number)
    assert running.wait().code == (-number if number == signal.SIGKILL else 128 + number)
    end = time.monotonic() + 200  # the workers of a killed sweep are still saving
    while [read_summary(sweep / str(job)).get("status") for job in (0, 1)] != ["stopped"] * 2:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert not (sweep / "2").exists()
    resumed = commands.run("-m", f"resume_sweep={sweep}", "hydra/launcher=basic", "total_env_steps=4000")
    assert resumed.code == 0, resumed.text
    assert "Joblib" not in resumed.text
    assert all(read_summary(sweep / f"{job}")["status"] == "finished" for job in range(3))
