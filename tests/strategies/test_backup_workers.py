"""Synchronous steps with backup workers: the mean of the first N gradients, and nobody waits for the rest."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.commands import SMALL, Commands, checkpoint, rows
from tests.ranks import furthest, weights
from tests.strategies.servers import running, tensors
from tests.strategies.test_downpour import found, process
from tests.supervised import configuration, train
from tests.training import composed

from downpour import directory as directories
from downpour import experiment, loading
from downpour.building import build_optimizer, build_strategy
from downpour.config import ConfigError
from downpour.failures import TrainingError
from downpour.strategies import asynchronous
from downpour.strategies.link import Link, TooFew
from downpour.trainer import Hardware
from downpour.validation import validate

ADAM: Any = partial(torch.optim.Adam, lr=0.01)
DIGITS = ("algo=supervised", "model.hidden=[16]", "optimizer=sgd", "optimizer.lr=0.1", "eval_every=30")
RUN = (*DIGITS, "data.updates=7", "schedule=cosine", "schedule.steps=60", "callbacks.recorder.every=10")
BACKUPS = ("trainer=ddp_cpu", "strategy=backup_workers", "strategy.seconds=20")


class Worker:
    """A worker in a thread of its own, so that it can wait."""

    def __init__(self, link: Any, create: bool = False):
        self.link, self.mine, self.pool = link, tensors(0), ThreadPoolExecutor(1)
        link.divide([self.mine])
        if create:
            link.create([self.mine])

    def push(self, gradients: list[Any]) -> Any:
        return self.pool.submit(self.link.push, 0, gradients, self.mine)


@pytest.mark.parametrize("servers", [1, 2])
def test_a_step_is_that_of_the_mean_gradient_whoever_is_late(servers: int) -> None:
    theirs = [torch.nn.Parameter(t) for t in tensors(0)]
    optimizer = ADAM(theirs)
    with running(ADAM, servers, workers=3, needed=2) as connect:
        workers = [Worker(connect(rank), rank == 0) for rank in range(3)]
        for step in range(9):
            slow = workers[2 - step % 3]  # its push comes when the others have gone on
            fast = [worker for worker in workers if worker is not slow]
            gradients: list[list[Any]] = [tensors(2 * step + 1), tensors(2 * step + 2)]
            gradients[step % 2][step % 4] = None  # as where a parameter took no part in the loss of one
            pushed = [worker.push(own) for worker, own in zip(reversed(fast), reversed(gradients), strict=True)]
            assert [each.result(20) for each in pushed] == [0, 0]
            for parameter, one, other in zip(theirs, *gradients, strict=True):
                parameter.grad = ((0 if one is None else one) + (0 if other is None else other)) / 2
            optimizer.step()
            assert slow.push(tensors(99)).result(20) == 1
            for worker in workers:
                assert all(torch.equal(a, b) for a, b in zip(worker.mine, theirs, strict=True)), step
        for each in workers[0].link.statistics()[0]:
            assert (each["updates"], each["dropped"]) == (9, 9)
            ages = {(worker, age): count for worker, age, count in each["staleness"]}
            assert ages == {(worker, age): 6 if age == 0 else 3 for worker in range(3) for age in (0, 1)}


def test_all_are_waited_for_but_the_dead() -> None:
    with running(ADAM, workers=3, needed=2) as connect:
        workers = [Worker(connect(rank), rank == 0) for rank in range(3)]
        workers[2].link.leave("killed")
        waits = workers[0].push(tensors(1))
        assert not waits.done()
        assert workers[1].push(tensors(2)).result(20) == waits.result(20) == 0
        waits = workers[0].push(tensors(3))
        workers[1].link.channels[0].close()  # as the system does for a process that is killed
        with pytest.raises(TooFew):
            waits.result(20)


def test_the_end_of_the_run_frees_those_who_wait() -> None:
    with running(ADAM, workers=2, needed=2) as connect:
        first, second = Worker(connect(0), True), Worker(connect(1))
        waits, ended = second.push(tensors(1)), threading.Event()
        waits.add_done_callback(lambda _: ended.set())
        first.link.stop()
        first.link.leave()
        assert ended.wait(20)
        assert waits.result() == 0
        assert all(torch.equal(a, b) for a, b in zip(second.mine, tensors(0), strict=True))  # no update was made


def fit_together(monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], run: Path, ranks: int = 2) -> list[Any]:
    """Train as all the workers of a run, threads of this process as its server is; what each raised."""
    mine, one_by_one, built = threading.local(), threading.Lock(), experiment.build_parts

    def build_parts(*arguments: Any) -> Any:
        with one_by_one:  # weights are drawn from the generator of the process
            return built(*arguments)

    def work(rank: int) -> BaseException | None:
        mine.rank, link = rank, connect(rank)
        try:
            experiment.fit(config, run, link)
        except Exception as error:
            link.channels[0].close()
            return error
        return None

    monkeypatch.setattr(experiment, "build_parts", build_parts)
    for module in (experiment, loading, asynchronous):
        monkeypatch.setattr(module, "process", lambda: (getattr(mine, "rank", 0), ranks))
    if not config["resume"]:
        directories.write_config(run, config, {})
    make = partial(build_optimizer, config)
    needed = ranks - config["strategy"]["backups"]
    with running(make, workers=ranks, needed=needed) as connect, ThreadPoolExecutor(ranks) as pool:
        ended = list(pool.map(work, range(ranks)))
    monkeypatch.undo()
    return ended


def test_without_backups_it_is_one_process_with_the_doubled_batch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    train(tmp_path / "one", *RUN, "data.batch_size=64", "total_gradient_steps=60")
    run = tmp_path / "run"
    options = (*RUN, *BACKUPS, "strategy.backups=0", "data.batch_size=32")
    config = configuration(run, *options, "total_gradient_steps=30")
    assert fit_together(monkeypatch, config, run) == [None, None]
    assert [rank["gradient_steps"] for rank in checkpoint(run)["ranks"]] == [30, 30]
    config = configuration(run, *options, "total_gradient_steps=60")
    assert fit_together(monkeypatch, {**config, "resume": str(run)}, run) == [None, None]
    assert furthest(weights(run), weights(tmp_path / "one")) < 1e-6
    mine, one = (
        [row for row in rows(each / "metrics.csv") if row["eval/accuracy"]] for each in (run, tmp_path / "one")
    )
    assert [row["gradient_steps"] for row in mine] == [row["gradient_steps"] for row in one] == ["30", "60"]
    assert [row["eval/accuracy"] for row in mine] == [row["eval/accuracy"] for row in one]
    last = [row for row in rows(run / "metrics.csv") if row["strategy/updates"]][-1]
    assert (float(last["strategy/updates"]), float(last["strategy/dropped"])) == (60, 0)
    assert (float(last["train/gradient_steps"]), float(last["strategy/staleness_max"])) == (60, 0)


def test_too_few_are_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = configuration(tmp_path, *RUN, *BACKUPS, "strategy.backups=0", "total_gradient_steps=60")
    posted = Link.report

    def dies(self: Link, steps: int, gradient_steps: int) -> Any:
        if self.rank == 1 and len(self.sets) and self.sets[0][0].version > 20:
            raise ArithmeticError
        return posted(self, steps, gradient_steps)

    monkeypatch.setattr(Link, "report", dies)
    first, second = fit_together(monkeypatch, config, tmp_path)
    assert isinstance(second, ArithmeticError)
    assert isinstance(first, TrainingError)
    assert str(first).startswith("an update needs 2 of the 2 workers, fewer are left: resume the run, or allow")


@pytest.mark.slow
def test_a_worker_that_is_killed_is_missed_by_nobody(commands: Commands) -> None:
    run = commands.folder / "run"
    options = (*SMALL, "algo=dqn", *BACKUPS, "total_env_steps=1000000", "optimizer.lr=1e-4")
    running = commands.start(*options, f"hydra.run.dir={run}")
    running.wait_until(lambda: {"0", "1"} <= {row["worker"] for row in found(run / "staleness.csv")})
    os.kill(process(run, "worker", 1)[0], signal.SIGKILL)
    running.wait_until(lambda: "worker 1 has gone" in (run / "train.log").read_text())
    before = len(rows(run / "metrics.csv"))
    running.wait_until(lambda: len(rows(run / "metrics.csv")) > before + 12)
    running.kill(signal.SIGTERM)
    assert running.wait().code == 128 + signal.SIGTERM
    last = [row for row in rows(run / "metrics.csv") if row["strategy/updates"]][-1]
    assert float(last["strategy/updates"]) == float(last["train/gradient_steps"]) > 0


def test_rules_with_several_optimizers_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = validate(composed("algo=td3", "env=pendulum", *BACKUPS, "logger=csv", "model.hidden=[8]"))
    told = "strategy=backup_workers: TD3 has 2 optimizers, here all gradients must be of one: use ddp or downpour"
    assert [str(error) for error in fit_together(monkeypatch, config, tmp_path)] == [told] * 2


def test_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"strategy.backups=2: of 2 worker\(s\) none would be waited for"):
        configuration(tmp_path, "algo=supervised", *BACKUPS, "strategy.backups=2")
    with pytest.raises(ConfigError, match="optimizer=LBFGS: evaluates the loss several times a step"):
        configuration(tmp_path, "algo=supervised", *BACKUPS, "optimizer=lbfgs")
    strategy = build_strategy(
        configuration(tmp_path, "algo=supervised", *BACKUPS), Hardware(accelerator="cpu", devices=2)
    )
    assert strategy.in_step(4) == 3
