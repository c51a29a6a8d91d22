"""Runs of several processes: one learner, one record, and an end for all when one of them ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.commands import DOOR, SMALL, Commands, assert_same, forkserver, rows, size
from tests.ranks import free_port

TWO = (*SMALL, "trainer=ddp_cpu")
TESTS_FOUND = {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}  # for the environments of tests.slow


def processes_of(folder: Path) -> list[int]:
    """Processes whose command line names `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def status(run: Path) -> str:
    return json.loads((run / "summary.json").read_text())["status"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of two processes, straight to its end."""
    folder = tmp_path_factory.mktemp("two")
    ended = Commands(folder).run(*TWO, "hydra.run.dir=run")
    assert ended.code == 0, ended.text
    spoken = [line for line in ended.err.splitlines() if not line.startswith("trainer.devices=2, ")]  # on one core
    assert len(spoken) == 6, ended.err  # one process speaks
    yield folder / "run"


def test_one_record_of_two_processes(straight: Path) -> None:
    summary = json.loads((straight / "summary.json").read_text())
    assert summary["processes"] == 2
    assert summary["env_steps"] == 1024
    assert summary["gradient_steps"] == (1024 - 64) // 32 * 2  # a round has the steps of both
    metrics = rows(straight / "metrics.csv")
    events = [(row["env_steps"], bool(row["eval/return_mean"])) for row in metrics]
    assert len(events) == len(set(events))
    assert [row["env_steps"] for row in metrics if row["eval/return_mean"]] == ["256", "512", "768", "1024"]
    episodes = rows(straight / "episodes.csv")
    assert summary["episodes"] == len(episodes)
    assert {int(row["environment"]) for row in episodes} == set(range(8))
    first, second = (
        [(row["env_steps"], row["return"]) for row in episodes if int(row["environment"]) // 4 == rank]
        for rank in (0, 1)
    )
    assert first != second  # they explore different episodes
    assert not (straight / "failure.txt").exists()


def rank(config: dict[str, Any], directory: str, number: int, port: int, out: str) -> None:
    """One of two processes; leaves its weights in `out`."""
    os.environ.update(
        RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", TORCHELASTIC_RUN_ID="test"
    )
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="False")
    from downpour import experiment, worker

    built = experiment.build_parts

    def build_and_keep(*arguments: Any) -> Any:
        nonlocal kept
        parts = built(*arguments)
        kept = parts[0]
        return parts

    kept: Any = None
    experiment.build_parts = build_and_keep
    worker.take_part(config, Path(directory) if number == 0 else Path("/nowhere"))
    torch.save({name: value.cpu() for name, value in kept.state_dict().items()}, out)


def test_weights_are_equal_on_all_ranks(straight: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((straight / "config.yaml").read_text())
    context = forkserver()
    port, files = free_port(), [str(tmp_path / f"{number}.pt") for number in (0, 1)]
    (tmp_path / "run").mkdir()
    ranks = [
        context.Process(target=rank, args=(config, str(tmp_path / "run"), number, port, files[number]))
        for number in (0, 1)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(240)
    assert [process.exitcode for process in ranks] == [0, 0]
    first, second = (torch.load(file, weights_only=True) for file in files)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert_same(tmp_path / "run", straight)  # whoever starts the processes


@pytest.mark.slow
def test_killed_with_its_launcher_and_resumed(commands: Commands, straight: Path) -> None:
    run = commands.folder / "run"
    running = commands.start(*TWO, f"hydra.run.dir={run}")
    running.wait_until((run / "checkpoints" / "last.ckpt").exists)
    ranks = [pid for pid in processes_of(run) if "\0RANK=" in environment_of(pid)]
    assert len(ranks) == 2
    for pid in ranks:
        os.kill(pid, signal.SIGSTOP)
    ended = commands.run(f"resume={run}")
    assert ended.code == 2
    assert "another process is writing to it" in ended.err
    running.kill()
    running.wait()
    for _ in range(100):
        if not processes_of(run):
            break
        time.sleep(0.1)
    assert not processes_of(run)  # no rank goes on without its launcher
    assert status(run) == "running"
    running = commands.start(f"resume={run}")
    running.wait_until(lambda: len(rows(run / "metrics.csv")) > 6)
    running.kill(signal.SIGTERM)
    ended = running.wait()
    if status(run) == "stopped":
        assert ended.code == 128 + signal.SIGTERM
        assert ended.err.splitlines()[-2:] == [
            "stopped by SIGTERM; the run is saved. To resume:",
            "  python src/train.py resume=run",
        ]
        ended = commands.run(f"resume={run}")
    assert ended.code == 0, ended.text
    assert_same(run, straight)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "options"),
    [
        (0, (*TWO, "total_env_steps=1000000")),
        (1, (*TWO, "total_env_steps=1000000", "strategy=fsdp2", "strategy.checkpoint=sharded")),
        (
            1,
            ("algo=supervised", "trainer=ddp_cpu", "strategy=pipeline", "total_gradient_steps=100000", "eval_every=20"),
        ),
    ],
)
def test_a_killed_rank_ends_the_run(commands: Commands, victim: int, options: tuple[str, ...]) -> None:
    run = commands.folder / "run"
    running = commands.start(*options, f"hydra.run.dir={run}")
    running.wait_until((run / "checkpoints" / "last.ckpt").exists)
    ranks = [pid for pid in processes_of(run) if f"\0RANK={victim}\0" in environment_of(pid)]
    os.kill(ranks[0], signal.SIGKILL)
    ended = running.wait()
    assert ended.code == 1
    assert ended.err.splitlines()[-2:] == [
        f"error: rank {victim} was ended by SIGKILL (out of memory?)",
        "resume from the last checkpoint: python src/train.py resume=run",
    ]
    assert status(run) == "failed"


def environment_of(pid: int) -> str:
    return "\0" + Path(f"/proc/{pid}/environ").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["launcher", "rank"])
def test_killed_at_random(commands: Commands, straight: Path, victim: str) -> None:
    """When as many bytes of metrics as a seed says are written."""
    run = commands.folder / "run"
    # In the first half: the run must not end before it is killed.
    written = int(np.random.default_rng(len(victim)).integers(1, size(straight / "metrics.csv") // 2))
    running = commands.start(*TWO, f"hydra.run.dir={run}")
    running.wait_until(lambda: size(run / "metrics.csv") >= written)
    ranks = [pid for pid in processes_of(run) if "\0RANK=" in environment_of(pid)]
    os.kill(running.pid if victim == "launcher" else ranks[-1], signal.SIGKILL)
    running.wait()
    for _ in range(100):
        if not processes_of(run):
            break
        time.sleep(0.1)
    ended = commands.run(f"resume={run}")
    assert ended.code == 0, ended.text
    assert_same(run, straight)


def test_an_error_on_one_rank_ends_the_run(commands: Commands) -> None:
    ended = commands.run(*TWO, "hydra.run.dir=run", "env.id=tests.slow:Broken-v0", environment=TESTS_FOUND)
    assert ended.code == 1
    assert ended.err.splitlines() == [
        "running in run",
        "error: ArithmeticError: the world has ended",
        f"the traceback is in {commands.folder}/run/train.log; debug=full shows it here",
    ]
    assert "raise ArithmeticError" in (commands.folder / "run" / "train.log").read_text()
    summary = json.loads((commands.folder / "run" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert summary["error"] == "ArithmeticError: the world has ended"


def test_bad_input_that_all_ranks_find_is_told_once(commands: Commands) -> None:
    ended = commands.run(*TWO, "env.id=Pendulum-v1")
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1
    assert "needs discrete actions" in ended.err
    assert not (commands.folder / "outputs").exists()


@pytest.mark.slow
def test_ctrl_c_twice_ends_all_ranks_at_once(commands: Commands) -> None:
    run = commands.folder / "run"
    arguments = ("env.id=tests.slow:Slow-v0", "data.round_steps=100000", "logger=csv")
    steps = commands.folder / "steps"
    surroundings = {**TESTS_FOUND, "SLOW_STEPS": str(steps)}
    running = commands.start(*TWO, f"hydra.run.dir={run}", *arguments, environment=surroundings)
    running.wait_until(lambda: size(steps) > 16)  # a round is under way
    running.kill(signal.SIGINT)
    running.wait_until(lambda: running.has_got(signal.SIGINT))
    before = size(steps)
    running.wait_until(lambda: size(steps) > before + 16)  # it waits for the round to end
    running.kill(signal.SIGINT)
    ended = running.wait()
    assert ended.code == 128 + signal.SIGINT
    assert ended.err.splitlines()[-1] == "error: ended by SIGINT, not saved; there is no checkpoint yet"
    for _ in range(100):
        if not processes_of(run):
            break
        time.sleep(0.1)
    assert not processes_of(run)


@pytest.mark.slow
def test_a_sweep_over_numbers_of_processes(commands: Commands, straight: Path, finished_run: Path) -> None:
    ended = commands.run(*SMALL, "-m", "trainer=cpu,ddp_cpu,cpu", "hydra.sweep.dir=sweep")
    assert ended.code == 0, ended.text
    for job, same in (("0", finished_run), ("1", straight), ("2", finished_run)):
        assert_same(commands.folder / "sweep" / job, same)


def test_two_nodes_write_one_run_directory(commands: Commands, straight: Path) -> None:
    nodes = [Commands(folder) for folder in (commands.folder / "node0", commands.folder / "node1")]
    port = free_port()
    for node in nodes:
        node.folder.mkdir()
    running = [
        node.start(*SMALL, "trainer=multi_node", f"trainer.port={port}", f"trainer.node_rank={number}")
        for number, node in enumerate(nodes)
    ]
    ended = [process.wait() for process in running]
    assert [each.code for each in ended] == [0, 0], ended
    (run,) = (nodes[0].folder / "outputs" / "train").glob("*/*")
    assert not (nodes[1].folder / "outputs").exists()
    assert ended[1].text == ""
    assert_same(run, straight)


@pytest.mark.slow
def test_started_by_torchrun(commands: Commands, straight: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1"}
    how: Any = {"cwd": commands.folder, "env": surroundings, "capture_output": True, "text": True}
    ended = subprocess.run([*launcher, DOOR, *TWO], **how)
    assert ended.returncode == 0, ended.stderr
    (run,) = (commands.folder / "outputs" / "train").glob("*/*")
    assert_same(run, straight)
    ended = subprocess.run([*launcher, DOOR, *SMALL], **how)
    assert ended.returncode != 0
    told = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(told) == 1
    assert "torchrun started 2 of 2 process(es) here: use trainer=ddp_cpu" in told[0]
    assert list((commands.folder / "outputs" / "train").glob("*/*")) == [run]
