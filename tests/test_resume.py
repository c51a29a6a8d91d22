"""A run that is ended at any moment and resumed is the run that was never ended, to the last bit."""

import json
import random
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.commands import (
    SMALL,
    Commands,
    assert_same,
    checkpoint,
    killed_at_replace,
    killed_half_written,
    rows,
)

KINDS = {
    "prioritized, 3 steps": ("data.priority_exponent=0.6", "data.n_step=3", "algo.target_every=7"),
    "on disk": ("data.storage=disk", "data.capacity=300", "optimizer=rmsprop"),
    "no replay": ("algo=q_learning", "data.num_envs=2", "data.round_steps=1", "total_env_steps=512"),
    "table": ("algo=q_learning", "model=table", "~model.hidden", "env=frozen_lake", "optimizer=sgd", "data.round_steps=1"),
    "cannot be frozen": ("env.id=Blackjack-v1", "env.vectorization=sync"),
}


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def test_killed_again_and_again(commands: Commands, finished_run: Path) -> None:
    moments = random.Random(1)
    sabotages = [
        partial(killed_half_written, 1),  # before there is any checkpoint: it starts again
        partial(killed_half_written, 2),
        partial(killed_at_replace, 2),  # best.ckpt has its name, last.ckpt not
        partial(killed_at_replace, moments.randint(3, 5)),
    ]
    arguments: tuple[str, ...] = (*SMALL, "hydra.run.dir=run")
    for sabotage in sabotages:
        assert commands.run(*arguments, sabotage=sabotage).code == -signal.SIGKILL
        arguments = ("resume=run",)
    running = commands.start("resume=run")
    before = size(commands.folder / "run" / "metrics.csv")
    running.wait_until(lambda: size(commands.folder / "run" / "metrics.csv") != before)
    running.kill()
    assert running.wait().code == -signal.SIGKILL
    ended = commands.run("resume=run")
    assert ended.code == 0, ended.text
    assert_same(commands.folder / "run", finished_run)
    summary = json.loads((commands.folder / "run" / "summary.json").read_text())
    straight = json.loads((finished_run / "summary.json").read_text())
    clocked = ("wall_seconds", "env_steps_per_second", "git_commit")
    assert {k: v for k, v in summary.items() if k not in clocked} == {
        k: v for k, v in straight.items() if k not in clocked
    }
