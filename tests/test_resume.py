"""A run that is ended at any moment and resumed is the run that was never ended, to the last bit."""

import json
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.commands import (
    SMALL,
    Commands,
    assert_same,
    checkpoint,
    killed_at_call,
    killed_at_replace,
    killed_half_written,
    rows,
    size,
)

KINDS = {
    "prioritized, 3 steps": ("data.priority_exponent=0.6", "data.n_step=3", "algo.target_every=7"),
    "on disk": ("data.storage=disk", "data.capacity=300", "optimizer=rmsprop"),
    "no replay": ("algo=q_learning", "data.num_envs=2", "data.round_steps=1", "model=linear", "~model.hidden"),
    "table": (
        "algo=q_learning",
        "model=table",
        "~model.hidden",
        "env=frozen_lake",
        "optimizer=sgd",
        "data.round_steps=1",
    ),
    "cannot be frozen": ("env.id=Blackjack-v1", "env.vectorization=sync"),
}


def test_a_job_that_slurm_starts_again_goes_on(commands: Commands, finished_run: Path) -> None:
    job = (*SMALL, "hydra.run.dir=run")
    assert commands.run(*job, sabotage=partial(killed_half_written, 2)).code == -signal.SIGKILL
    assert "already contains a run" in commands.run(*job).err  # typed again by mistake
    again = {"environment": {"SLURM_RESTART_COUNT": "1"}}
    other = commands.run(*job, "seed=1", **again)
    assert other.code == 2 and "hydra.run.dir=" in other.err and "now it is" in other.err
    ended = commands.run(*job, **again)
    assert ended.code == 0, ended.text
    assert_same(commands.folder / "run", finished_run)
    assert "is finished" in commands.run(*job, **again).text


def test_a_longer_run_that_is_killed_goes_on_to_its_new_end(commands: Commands) -> None:
    assert commands.run(*SMALL, "hydra.run.dir=run").code == 0
    killed = commands.run("resume=run", "total_env_steps=2_048", sabotage=partial(killed_half_written, 2))
    assert killed.code == -signal.SIGKILL
    ended = commands.run("resume=run")
    assert ended.code == 0, ended.text
    assert commands.run(*SMALL, "total_env_steps=2048", "hydra.run.dir=whole").code == 0
    assert_same(commands.folder / "run", commands.folder / "whole")
    choices = yaml.safe_load((commands.folder / "run" / "choices.yaml").read_text())
    assert "total_env_steps=2048" in choices["overrides"] and "total_env_steps=1024" not in choices["overrides"]


def test_killed_again_and_again(commands: Commands, finished_run: Path) -> None:
    sabotages = [
        partial(killed_half_written, 1),  # before there is any checkpoint: it starts again
        partial(killed_half_written, 2),
        partial(killed_at_replace, 2),  # previous.ckpt has its name, last.ckpt not
        partial(killed_at_replace, 1),  # the new one is whole, but has not been given its name
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


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random(commands: Commands, finished_run: Path, seed: int) -> None:
    """In whatever it is at, three times or until it is through."""
    arguments: tuple[str, ...] = (*SMALL, "hydra.run.dir=run")
    moments = np.random.default_rng(seed).integers(1, 150_000, 3)
    kills = 0
    for sabotage in [*(partial(killed_at_call, int(nth)) for nth in moments), None]:
        ended = commands.run(*arguments, sabotage=sabotage)
        if ended.code == 0:
            break
        assert ended.code == -signal.SIGKILL, ended.text
        kills += 1
        if (commands.folder / "run" / "config.yaml").exists():
            arguments = ("resume=run",)
    assert ended.code == 0, ended.text
    assert kills > 0
    assert_same(commands.folder / "run", finished_run)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_state(commands: Commands, kind: str) -> None:
    arguments = [o for o in SMALL if f"~{o.partition('=')[0]}" not in KINDS[kind]]
    arguments += [o for o in KINDS[kind] if not o.startswith("~")]
    assert commands.run(*arguments, "hydra.run.dir=straight").code == 0
    sabotage = partial(killed_half_written, 3)
    assert commands.run(*arguments, "hydra.run.dir=run", sabotage=sabotage).code == -signal.SIGKILL
    ended = commands.run("resume=run")
    assert ended.code == 0, ended.text
    assert_same(commands.folder / "run", commands.folder / "straight")


def take_time() -> None:
    """Each round takes so long that a signal meets the run on its way, however fast the machine is."""
    from downpour.data.collector import Collector

    collect = Collector.collect

    def slowly(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.03)
        return collect(*args, **kwargs)

    Collector.collect = slowly  # type: ignore[method-assign]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stopped_by_a_signal(commands: Commands, finished_run: Path, number: signal.Signals) -> None:
    run = commands.folder / "run"
    running = commands.start(*SMALL, "hydra.run.dir=run", sabotage=take_time)
    running.wait_until(lambda: len((run / "metrics.csv").read_text()) > 300 if (run / "metrics.csv").exists() else 0)
    running.kill(number)
    ended = running.wait()
    assert ended.code == 128 + number
    assert ended.err.splitlines()[-2:] == [
        f"stopped by {number.name}; the run is saved. To resume:",
        "  python src/train.py resume=run",
    ]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "stopped"
    assert summary["env_steps"] == checkpoint(run)["step"] < 1024
    assert commands.run("resume=run").code == 0
    assert_same(run, finished_run)
    summary_after = json.loads((run / "summary.json").read_text())
    assert summary_after["status"] == "finished"
    assert summary_after["wall_seconds"] > summary["wall_seconds"]


def test_ctrl_c_twice_ends_at_once(commands: Commands) -> None:
    steps = commands.folder / "steps"
    slow = ("env.id=tests.slow:Slow-v0", "data.round_steps=100000")
    running = commands.start(*SMALL, "hydra.run.dir=run", *slow, environment={"SLOW_STEPS": str(steps)})
    running.wait_until(lambda: running.catches(signal.SIGHUP) and size(steps))  # a round is under way
    running.kill(signal.SIGINT)
    running.wait_until(lambda: running.has_got(signal.SIGINT))
    before = size(steps)
    running.wait_until(lambda: size(steps) > before + 8)  # it waits for the round to end
    running.kill(signal.SIGINT)
    assert running.wait().code == -signal.SIGINT


def test_longer_than_planned(commands: Commands, copy_of_run: Callable[[str], Path]) -> None:
    run = copy_of_run("run")
    assert commands.run(*SMALL, "total_env_steps=2048", "hydra.run.dir=straight").code == 0
    before = len(rows(run / "metrics.csv"))
    running = commands.start(*SMALL[1:], "resume=run", "total_env_steps=2048")  # its own settings again are no change
    running.wait_until(lambda: len(rows(run / "metrics.csv")) > before)
    assert json.loads((run / "summary.json").read_text())["status"] == "running"
    ended = running.wait()
    assert ended.code == 0, ended.text
    assert_same(run, commands.folder / "straight")


def test_killed_after_the_last_checkpoint(commands: Commands, copy_of_run: Callable[[str], Path]) -> None:
    run = copy_of_run("run")
    told = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text('{"status": "running"}')
    ended = commands.run("resume=run")
    assert ended.code == 0, ended.text
    assert_same(run, run)
    summary = json.loads((run / "summary.json").read_text())
    same = (
        "status",
        "eval/return_mean",
        "eval/return_std",
        "best/return_mean",
        "best/env_steps",
        "env_steps",
        "episodes",
    )
    assert {name: summary[name] for name in same} == {name: told[name] for name in same}


def test_early_stop_saves_where_it_stops(commands: Commands) -> None:
    arguments = ("callbacks=early_stop", "callbacks.early_stop.threshold=1", "callbacks.checkpoint.every=100")
    ended = commands.run(*SMALL, "hydra.run.dir=run", *arguments)
    assert ended.code == 0, ended.text
    summary = json.loads((commands.folder / "run" / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["env_steps"] == 256 == checkpoint(commands.folder / "run")["step"]
    ended = commands.run("resume=run")
    assert ended.code == 2
    assert "the run is finished" in ended.err
