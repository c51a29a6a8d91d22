"""Sandblaster against L-BFGS on the whole batch, whoever computes what, dies or dawdles."""

import json
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.commands import Commands, checkpoint, rows
from tests.strategies.test_downpour import found, process
from tests.supervised import configuration, train
from torch import Tensor, nn

from downpour import directory as directories
from downpour import experiment
from downpour.config import ConfigError
from downpour.strategies.board import Board
from downpour.strategies.coordinator import Coordinator
from downpour.strategies.link import Link
from downpour.strategies.sandblaster import Portioned
from downpour.strategies.transport import listen, serve

LBFGS: Any = partial(torch.optim.LBFGS, line_search_fn="strong_wolfe", max_iter=6)
STEPS = 3


class Batch:
    """A small regression whose loss is no quadratic; `before` is called with each portion."""

    def __init__(self, before: Callable[[slice], None] = lambda part: None):
        generator = torch.Generator().manual_seed(0)
        self.x, self.y = (torch.randn(50, size, generator=generator) for size in (4, 2))
        torch.manual_seed(1)
        self.network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        self.before = before

    def __len__(self) -> int:
        return len(self.x)

    def __call__(self, part: slice = slice(None)) -> Tensor:
        self.before(part)
        self.network.zero_grad()
        loss = nn.functional.mse_loss(self.network(self.x[part]), self.y[part])
        loss.backward()
        return loss


@contextmanager
def coordinator(workers: int, backups: int = 1) -> Iterator[tuple[Coordinator, Callable[[int], Link]]]:
    """One in a thread of this process, and what connects worker `rank` to it."""
    token, listener = secrets.token_bytes(32), listen("127.0.0.1", None)
    server = Coordinator(Board(workers, 20), backups)

    def run() -> None:
        try:
            serve(listener, token, server.serve)
        except OSError:  # the test is over
            return

    threading.Thread(target=run, daemon=True).start()
    yield server, lambda rank: Link([listener.getsockname()], token, rank, 20)
    listener.close()


def weights(batch: Batch) -> Tensor:
    return torch.cat([p.detach().flatten() for p in batch.network.parameters()])


def trained(workers: int, befores: dict[int, Any], backups: int = 1) -> tuple[Tensor, list[float], Coordinator]:
    """Weights after some steps by several workers; those of rank 0, its losses, and the coordinator."""
    with coordinator(workers, backups) as (server, connect):

        def help(rank: int, link: Link) -> None:
            batch = Batch(befores.get(rank, lambda part: None))
            portioned = Portioned(LBFGS(batch.network.parameters()), link, 7)
            try:
                for _ in range(STEPS):
                    portioned.step(batch)
            except ConnectionError:  # it has died
                link.channels[0].close()

        helpers = [threading.Thread(target=help, args=(rank, connect(rank)), daemon=True) for rank in range(1, workers)]
        batch = Batch(befores.get(0, lambda part: None))
        portioned = Portioned(LBFGS(batch.network.parameters()), connect(0), 7)
        for helper in helpers:
            helper.start()
        losses = [float(portioned.step(batch)) for _ in range(STEPS)]
        for helper in helpers:
            helper.join(20)
            assert not helper.is_alive()
    return weights(batch), losses, server


def test_as_torch_does_it_on_the_whole_batch_whoever_computes_what() -> None:
    whole = Batch()
    optimizer = LBFGS(whole.network.parameters())
    expected = [float(optimizer.step(whole).detach()) for _ in range(STEPS)]
    alone, losses, server = trained(1, {})
    assert losses == pytest.approx(expected, rel=1e-5)
    assert torch.allclose(alone, weights(whole), atol=1e-4)
    assert server.evaluations > STEPS and server.reissued == 0

    calls = 0

    def dies(part: slice) -> None:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise ConnectionError

    def dawdles(part: slice) -> None:
        time.sleep(0.02)

    together, losses_together, server = trained(4, {1: dies, 2: dawdles})
    assert calls == 9
    assert server.reissued > 0
    assert torch.equal(together, alone)  # to the last bit
    assert losses_together == losses


def test_a_result_that_comes_too_late_changes_nothing() -> None:
    """The copy of a portion outlives its evaluation, as a straggler's does."""
    late = threading.Event()

    def first_is_late(part: slice, seen: list[slice] = []) -> None:  # noqa: B006
        seen.append(part)
        if len(seen) == 1:
            late.wait(20)

    def wakes(part: slice, seen: list[slice] = []) -> None:  # noqa: B006
        seen.append(part)
        if len(seen) == 20:  # evaluations later
            late.set()

    alone = trained(1, {})[0]
    together, _, server = trained(2, {0: wakes, 1: first_is_late})
    assert late.is_set() and server.reissued > 0
    assert torch.equal(together, alone)


def test_a_run_as_one_process_makes_it(tmp_path: Path) -> None:
    options = ("algo=supervised", "optimizer=lbfgs", "optimizer.max_iter=4", "data.batch_size=1000", "eval_every=2")
    options += ("model.hidden=[16]", "data.updates=2", "callbacks.recorder.every=2")
    train(tmp_path / "plain", *options, "total_gradient_steps=4")
    run = tmp_path / "run"
    for length, resume in ((2, None), (4, str(run))):
        config = configuration(run, *options, "strategy=sandblaster", f"total_gradient_steps={length}")
        if resume is None:
            directories.write_config(run, config, {})
        with coordinator(1) as (_, connect):
            experiment.fit({**config, "resume": resume}, run, connect(0))
    mine, plain = checkpoint(run), checkpoint(tmp_path / "plain")
    assert mine["gradient_steps"] == plain["gradient_steps"] == 4
    for name, value in plain["state_dict"].items():
        assert torch.allclose(mine["state_dict"][name], value, atol=1e-3), name
    losses = [
        [float(row["train/loss"]) for row in rows(each / "metrics.csv") if row["train/loss"]]
        for each in (run, tmp_path / "plain")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.slow
def test_a_worker_that_is_killed_changes_nothing(commands: Commands) -> None:
    options = ("algo=supervised", "strategy=sandblaster", "optimizer=lbfgs", "trainer=ddp_cpu", "data.batch_size=1000")
    options += (
        "total_gradient_steps=60",
        "eval_every=6",
        "optimizer.max_iter=4",
        "strategy.portions=8",
        "data.updates=1",
        "callbacks.recorder.every=1",
        "logger=csv",
    )
    run = commands.folder / "run"
    running = commands.start(*options, f"hydra.run.dir={run}")
    running.wait_until(lambda: process(run, "worker", 1) and len(found(run / "metrics.csv")) > 2)
    os.kill(process(run, "worker", 1)[0], signal.SIGKILL)
    ended = running.wait()
    assert ended.code == 0, ended.text
    assert "worker 1 has gone (" in ended.err
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["gradient_steps"], summary["processes"]) == ("finished", 60, 2)


def test_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="optimizer=Adam: takes one gradient a step: use optimizer=lbfgs"):
        configuration(tmp_path, "algo=supervised", "strategy=sandblaster")
    with pytest.raises(ConfigError, match="optimizer=LBFGS: evaluates the loss several times a step"):
        configuration(tmp_path, "algo=supervised", "strategy=downpour", "optimizer=lbfgs")
    with pytest.raises(
        ConfigError, match="optimizer=LBFGS: evaluates the loss several times a gradient step, DoubleDQN"
    ):
        configuration(tmp_path, "algo=double_dqn", "strategy=sandblaster", "optimizer=lbfgs")
    options = ("algo=supervised", "strategy=sandblaster", "optimizer=lbfgs", "model.normalization=batch")
    config = configuration(tmp_path, *options)
    with (
        coordinator(1) as (_, connect),
        pytest.raises(ConfigError, match="the statistics of network"),
    ):
        experiment.fit(config, tmp_path, connect(0))
