"""Disks that are full or read-only, files that are damaged, losses that are not numbers: told, and nothing lost."""

import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.commands import DOOR, SMALL, Commands, Ended, assert_same, checkpoint

from downpour.checkpoints import capture_generators
from downpour.failures import explain

MOUNTS = shutil.which("unshare") and subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0
needs_mounts = pytest.mark.skipif(not MOUNTS, reason="a disk of a test's own needs a user namespace (unshare -rm)")


def assert_told(ended: Ended, *messages: str, code: int = 1) -> None:
    assert ended.code == code, ended.text
    told = [line for line in ended.err.splitlines() if not line.startswith(("running", "env_steps", "resuming"))]
    assert told[0].startswith("error: "), ended.text
    assert len(told) <= 3
    assert "Traceback" not in ended.text
    for message in messages:
        assert message in ended.err


def status(run: Path) -> str:
    return json.loads((run / "summary.json").read_text())["status"]


def dies_at_write(name: str, nth: int) -> None:
    """From the nth time that a file of this name is written on, the kernel says that the disk is full."""
    original, count = os.open, 0

    def opener(path: str, flags: int) -> int:
        nonlocal count
        count += Path(path).name == name
        return original("/dev/full" if Path(path).name == name and count >= nth else path, flags, 0o666)

    import builtins
    import io

    plain = io.open

    def open_(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
        writes = isinstance(file, str | Path) and set(mode) & set("wax+")
        return plain(file, mode, *rest, **({"opener": opener} if writes else {}), **more)

    builtins.open = open_  # type: ignore[assignment]
    io.open = open_  # type: ignore[assignment]


FULL_AT = {
    "start": ("config.yaml.partial", 1),
    "first metrics": ("metrics.partial", 1),
    "a later row": ("metrics.csv", 5),
    "an episode": ("episodes.csv", 3),
    "first checkpoint": ("partial.ckpt", 1),
    "a later checkpoint": ("partial.ckpt", 3),
    "summary": ("summary.json.partial", 2),
}


@pytest.mark.parametrize("moment", FULL_AT)
def test_a_disk_that_fills_up(commands: Commands, finished_run: Path, moment: str) -> None:
    run = commands.folder / "run"
    ended = commands.run(*SMALL, "hydra.run.dir=run", sabotage=partial(dies_at_write, *FULL_AT[moment]))
    assert_told(ended, f"hydra.run.dir={run}: the disk is full", "free space, then resume")
    if moment == "start":
        ended = commands.run(*SMALL, "hydra.run.dir=run")
    else:
        assert status(run) in ("failed", "running")
        ended = commands.run("resume=run")
    assert ended.code == 0, ended.text
    assert_same(run, finished_run)
    assert status(run) == "finished"


@pytest.mark.slow
@needs_mounts
def test_a_small_and_a_read_only_disk(commands: Commands, finished_run: Path) -> None:
    """The same on a disk of its own, to whatever moment it lasts: 90 kB hold two or three checkpoints."""
    disk = commands.folder / "disk"
    disk.mkdir()
    train = f"{sys.executable} {DOOR}"
    script = f"""
        mount -t tmpfs -o size=90k none disk
        {train} {shlex.join(SMALL)} hydra.run.dir=disk/run 2> full; echo $? > full.code
        mount -o remount,ro,size=9m disk
        {train} resume=disk/run 2> readonly; echo $? > readonly.code
        {train} hydra.run.dir=disk/new 2> new; echo $? > new.code
        mount -o remount,rw,size=9m disk
        {train} resume=disk/run 2> resumed; echo $? > resumed.code
        cp -r disk/run run
    """
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(["unshare", "-rm", "sh", "-c", script], cwd=commands.folder, env=surroundings, check=True)

    def ended(name: str) -> Ended:
        code = int((commands.folder / f"{name}.code").read_text())
        return Ended(code, "", (commands.folder / name).read_text())

    assert_told(ended("full"), "the disk is full", "free space, then resume", "resume from the last checkpoint")
    assert_told(ended("readonly"), f"hydra.run.dir={disk}/run: cannot write", "Read-only file system")
    assert_told(ended("new"), "hydra.run.dir: cannot create disk/new (Read-only file system)")
    assert ended("resumed").code == 0
    assert_same(commands.folder / "run", finished_run)


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))


def test_files_that_may_not_grow(commands: Commands) -> None:
    ended = commands.run(*SMALL, "hydra.run.dir=run", sabotage=limit_files)
    assert_told(ended, "the file exceeds the size limit")


def test_no_place_for_a_run(commands: Commands) -> None:
    (commands.folder / "file").write_text("")
    for place, reason in (("file/run", "Not a directory"), ("file", "File exists"), ("/proc/run", "No such file")):
        ended = commands.run(*SMALL, f"hydra.run.dir={place}")
        assert_told(ended, "hydra.run.dir: cannot create ", f"({reason}", "; choose another directory")


def test_a_damaged_checkpoint_is_passed_over(
    commands: Commands, copy_of_run: Callable[[str], Path], finished_run: Path
) -> None:
    run = copy_of_run("run")
    last = run / "checkpoints" / "last.ckpt"
    whole = last.read_bytes()
    last.unlink()  # it shares its content with best.ckpt, perhaps
    last.write_bytes(whole[: len(whole) // 2])
    (run / "summary.json").unlink()
    ended = commands.run("resume=run")
    assert ended.code == 0, ended.text
    assert f"{last} cannot be read (cut short" in ended.err
    assert f"falling back from last.ckpt to {run}/checkpoints/previous.ckpt, of step 768" in ended.err
    assert_same(run, finished_run)
    for path in (run / "checkpoints").iterdir():
        path.unlink()
        path.write_bytes(whole[:100])
    (run / "summary.json").unlink()
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.suffix == ".csv"}
    ended = commands.run("resume=run")
    assert ended.code == 2
    assert "no whole checkpoint (last.ckpt, previous.ckpt, best.ckpt damaged): restore one" in ended.err
    assert before == {path.name: path.read_bytes() for path in run.iterdir() if path.suffix == ".csv"}


def unfinished(run: Path) -> None:
    (run / "summary.json").unlink()


def test_checkpoints_that_are_of_something_else(commands: Commands, copy_of_run: Callable[[str], Path]) -> None:
    run = copy_of_run("run")
    content = checkpoint(run)
    weights = content["state_dict"]
    first = next(iter(weights))
    changed = {
        "algo=downpour.algorithms.double_dqn.DoubleDQN: ": {"algorithm": "downpour.algorithms.dqn.DQN"},
        "model=DoubleDQN: the weights in ": {"state_dict": {**weights, first: torch.zeros(3)}},
        "the run was trained by 2 process(es)": {"ranks": content["ranks"] * 2},
        "no whole checkpoint (last.ckpt damaged)": {"algorithm": Path("no plain data")},
    }
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    unfinished(run)
    for message, change in changed.items():
        torch.save({**content, **change}, run / "checkpoints" / "last.ckpt")
        ended = commands.run("resume=run")
        assert ended.code == 2, ended.text
        assert message in ended.err
        assert "Traceback" not in ended.text


def test_replay_that_is_gone(commands: Commands, copy_of_run: Callable[[str], Path]) -> None:
    """A run keeps its results if it cannot be trained for longer."""
    run = copy_of_run("run")
    shutil.rmtree(run / "replay")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["env_steps"] == 1024
    ended = commands.run("resume=run", "total_env_steps=2048")
    assert_told(ended, "its replay buffer was deleted; init_from= this directory starts a new run", code=2)
    assert json.loads((run / "summary.json").read_text()) == {**summary, "status": "stopped"}  # of 2048 steps


def test_replay_that_was_cut_short(commands: Commands, copy_of_run: Callable[[str], Path]) -> None:
    """The message says how to go on, and that works."""
    run = copy_of_run("run")
    newest = max((run / "replay" / "rank0").iterdir())
    os.truncate(newest, newest.stat().st_size // 2)
    unfinished(run)
    assert_told(commands.run("resume=run"), "remove last.ckpt to resume from the checkpoint before", code=2)
    (run / "checkpoints" / "last.ckpt").unlink()
    assert commands.run("resume=run").code == 0


def test_a_loss_that_is_not_a_number(commands: Commands) -> None:
    ended = commands.run(*SMALL, "hydra.run.dir=run", "optimizer.lr=1e30")
    assert_told(
        ended, "near gradient step", "the weights have diverged (q.", "lower optimizer.lr or set algo.gradient_clip"
    )
    summary = json.loads((commands.folder / "run" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "the weights have diverged" in summary["error"]


def test_an_environment_that_hands_out_nan(commands: Commands) -> None:
    where = {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    ended = commands.run(*SMALL, "env.id=tests.slow:NotANumber-v0", environment=where)
    assert_told(ended, "the batch contains non-finite values (", "check the environment")


def test_a_bug_is_one_line_and_a_traceback_in_the_log(commands: Commands) -> None:
    where = {"PYTHONPATH": str(Path(__file__).resolve().parents[1]), "RANK": "1"}
    ended = commands.run(*SMALL, "hydra.run.dir=run", "env.id=tests.slow:Broken-v0", environment=where)
    assert_told(ended, "ArithmeticError: the world has ended", "the traceback is in ", "debug=full shows it here")
    assert "raise ArithmeticError" in (commands.folder / "run" / "train.log").read_text()


def deafen() -> None:
    """Have nobody read what this process says."""
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
    os.dup2(writer, 2)


def test_a_terminal_that_goes_away(commands: Commands, finished_run: Path) -> None:
    """`train.py 2>&1 | head` must not end a run."""
    commands.run(*SMALL, "hydra.run.dir=run", sabotage=deafen)
    assert status(commands.folder / "run") == "finished"
    assert_same(commands.folder / "run", finished_run)


def test_a_gpu_without_room_is_told_what_to_lower(tmp_path: Path) -> None:
    told = str(explain(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB."), tmp_path))
    assert told.startswith("out of memory (CUDA out of memory.") and "data.batch_size" in told
    assert "data.on_device=false" in told and "data.capacity" not in told


def test_generators_of_devices_that_are_not_used_are_not_saved() -> None:
    if not torch.cuda.is_initialized():
        assert capture_generators()["cuda"] == []
