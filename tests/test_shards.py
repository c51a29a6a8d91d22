"""Checkpoints in parts are read back as they were written, run no code, and survive whatever happens in between."""

import contextlib
import errno
import os
import pickle
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.commands import SMALL, Commands, assert_same, killed_at_replace
from torch import Tensor
from torch.distributed.checkpoint.metadata import BytesStorageMetadata
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from downpour import shards
from downpour.checkpoints import BEST, LAST, PARTIAL, WholeFile, inspect, install, mark_best, newest_whole, read, settle
from downpour.config import ConfigError

FILES = ("__0_0.distcp", ".metadata", "meta.pt")


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """Of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def content(mesh: DeviceMesh, step: int = 1, best_step: int = 1) -> dict[str, Any]:
    """A checkpoint; all its numbers are `step`."""

    def spread(*size: int, **of: Any) -> Tensor:
        return distribute_tensor(torch.full(size, step, **of), mesh, [Shard(0)])

    return {
        "algorithm": "one",
        "step": step,
        "best": (0.5, best_step, 1),
        "state_dict": {"q.weight": spread(300, 4, dtype=torch.float32), "q.count": torch.tensor(step)},
        "optimizer_states": [
            {"state": {0: {"step": torch.tensor(float(step)), "exp_avg": spread(3, dtype=torch.bfloat16)}}}
        ],
        "ranks": [{"stream": [1, (2, 3)]}],
    }


def save(content: dict[str, Any], directory: Path, sharded: bool = True) -> None:
    """As a run does, of its best weights."""
    if sharded:
        shards.write(content, directory / PARTIAL)
    else:
        WholeFile().save_checkpoint({**content, "state_dict": {}, "optimizer_states": []}, directory / PARTIAL)
    install(directory)
    if content["best"][1] == content["step"]:
        mark_best(directory / LAST)


def test_read_back(mesh: DeviceMesh, tmp_path: Path) -> None:
    written = content(mesh)
    shards.write(written, tmp_path / "one")
    found = read(tmp_path / "one")
    assert {name: found[name] for name in ("algorithm", "step", "best", "ranks")} == {
        name: written[name] for name in ("algorithm", "step", "best", "ranks")
    }
    weights, (optimizer,) = found["state_dict"], found["optimizer_states"]
    assert torch.equal(weights["q.weight"], torch.ones(300, 4)) and torch.equal(weights["q.count"], torch.tensor(1))
    assert torch.equal(optimizer["state"][0]["exp_avg"], torch.ones(3, dtype=torch.bfloat16))
    assert type(weights["q.weight"]) is Tensor

    seen = inspect(tmp_path / "one")
    assert seen["state_dict"]["q.weight"].is_meta and seen["state_dict"]["q.weight"].shape == (300, 4)
    assert not seen["state_dict"]["q.count"].is_meta

    def like(place: shards.Place, saved: Tensor) -> Tensor:
        return torch.empty_like(written["state_dict"]["q.weight"]) if "q.weight" in place else torch.empty(3)

    found = shards.read(tmp_path / "one", like)
    assert isinstance(found["state_dict"]["q.weight"], DTensor)
    assert torch.equal(found["state_dict"]["q.weight"].full_tensor(), torch.ones(300, 4))

    shards.write(written, tmp_path / "two")
    assert [(tmp_path / "one" / name).read_bytes() for name in FILES] == [
        (tmp_path / "two" / name).read_bytes() for name in FILES
    ]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("left", [None, 0.0, 0.5])
def test_damage_is_passed_over(mesh: DeviceMesh, tmp_path: Path, name: str, left: float | None) -> None:
    directory = tmp_path / "checkpoints"
    for step in (1, 2):
        save(content(mesh, step), directory)
    damaged = directory / LAST / name
    whole = damaged.read_bytes()
    damaged.unlink()
    if left is not None:
        damaged.write_bytes(whole[: int(len(whole) * left)])
    for how in (read, inspect):
        path, found = newest_whole(tmp_path, how=how)
        assert (path.name, found["step"]) == ("previous.ckpt", 1)
    shutil.rmtree(directory / "previous.ckpt")
    shutil.rmtree(directory / BEST)
    with pytest.raises(ConfigError, match=r"no whole checkpoint \(last\.ckpt damaged\)"):
        newest_whole(tmp_path)


class Runs:
    """What pickle would run."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


def test_reading_runs_no_code(mesh: DeviceMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shards.write(content(mesh), tmp_path / "one")
    path = tmp_path / "one" / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    for change in (Runs(), {"state_dict/q.weight": BytesStorageMetadata()}):
        path.write_bytes(pickle.dumps({**vars(metadata), "state_dict_metadata": change}))
        with pytest.raises(ValueError, match="describes no tensor"):
            read(tmp_path / "one")
    for name in ("__0_0.distcp", "meta.pt"):
        torch.save(Runs(), tmp_path / "one" / name)
        size = (tmp_path / "one" / name).stat().st_size
        where = {index: replace(info, offset=0, length=size) for index, info in metadata.storage_data.items()}
        path.write_bytes(pickle.dumps(replace(metadata, storage_data=where)))
        with pytest.raises((RuntimeError, ValueError, pickle.UnpicklingError)):
            read(tmp_path / "one")
    assert not Path("ran").exists()


def test_a_full_disk_is_told_and_not_kept_full(
    mesh: DeviceMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    save(content(mesh), tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        save(content(mesh, 2), tmp_path)
    assert read(tmp_path / LAST)["step"] == 1
    assert not (tmp_path / PARTIAL).exists()


class Killed(BaseException):
    """In the place of SIGKILL."""


def dies(patch: pytest.MonkeyPatch, nth: int) -> list[str]:
    """From its nth change to the disk on this process makes no more; the list says which it has asked for."""
    asked: list[str] = []

    def guarded(name: str) -> Any:
        original = getattr(os, name)

        def change(*arguments: Any, **more: Any) -> Any:
            asked.append(name)
            if len(asked) >= nth:
                raise Killed
            return original(*arguments, **more)

        return change

    for name in ("mkdir", "fsync", "rename", "replace", "link", "unlink", "rmdir"):
        patch.setattr(os, name, guarded(name))
    return asked


@pytest.mark.parametrize("before", [True, False], ids=["after parts", "after a file"])
@pytest.mark.parametrize("now", [True, False], ids=["parts", "a file"])
def test_killed_at_any_moment(
    mesh: DeviceMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool, now: bool
) -> None:
    """While the third checkpoint, the best so far, is saved; and in what follows nothing is in the way."""
    straight = tmp_path / "straight" / "checkpoints"
    straight.mkdir(parents=True)
    for step in (1, 2):
        save(content(mesh, step), straight, before)
    found = []
    for nth in range(1, 100):
        directory = Path(shutil.copytree(straight, tmp_path / str(nth) / "checkpoints"))
        with monkeypatch.context() as patch:
            asked = dies(patch, nth)
            with contextlib.suppress(Killed):
                save(content(mesh, 3, best_step=3), directory, now)
        for name in ("last.ckpt", "previous.ckpt", "best.ckpt"):  # none of these is half of one
            assert not (directory / name).exists() or read(directory / name)["step"] in (1, 2, 3)
        path, newest = newest_whole(directory.parent, how=inspect)
        settle(path, newest)
        found.append(newest["step"])
        assert read(directory / BEST)["step"] == {2: 1, 3: 3}[newest["step"]]
        save(content(mesh, 4, best_step=newest["best"][1]), directory, now)
        assert sorted(each.name for each in directory.iterdir()) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
        steps = {name: read(directory / f"{name}.ckpt")["step"] for name in ("last", "previous", "best")}
        assert steps == {"last": 4, "previous": newest["step"], "best": newest["best"][1]}
        if len(asked) < nth:
            break
    assert found == sorted(found) and set(found) == {2, 3}


def killed_in_part(nth: int) -> None:
    """Kill this process when it has the nth part of a checkpoint on the disk."""
    original, count = os.fsync, 0

    def fsync(handle: int) -> None:
        nonlocal count
        count += os.readlink(f"/proc/self/fd/{handle}").endswith("partial.ckpt/__0_0.distcp")
        if count == nth:
            os.truncate(handle, 100)
            os.kill(os.getpid(), signal.SIGKILL)
        original(handle)

    os.fsync = fsync


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on(commands: Commands) -> None:
    options = (*SMALL, "strategy=fsdp2", "strategy.checkpoint=sharded")
    assert commands.run(*options, "hydra.run.dir=straight").code == 0
    arguments: tuple[str, ...] = (*options, "hydra.run.dir=run")
    for sabotage, nth in ((killed_in_part, 1), (killed_in_part, 3), (killed_at_replace, 2)):
        ended = commands.run(*arguments, sabotage=partial(sabotage, nth))
        assert ended.code == -signal.SIGKILL, ended.text
        arguments = ("resume=run",)
    ended = commands.run("resume=run")
    assert ended.code == 0, ended.text
    assert_same(commands.folder / "run", commands.folder / "straight")
