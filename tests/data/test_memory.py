"""A ring that will not fit is refused before it is made."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.commands import Commands
from tests.worlds import a_run

from downpour.config import ConfigError
from downpour.data import ReplayData, memory
from downpour.environments import Gymnasium


def refused(directory: Path, storage: str = "memory", capacity: int = 10**15) -> str:
    with pytest.raises(ConfigError) as caught:
        ReplayData(Gymnasium(id="CartPole-v1"), a_run(directory), gamma=0.9, capacity=capacity, storage=storage)  # type: ignore[arg-type]
    return str(caught.value)


def test_it_says_what_is_needed_and_what_would_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 10_000_000)  # a row of CartPole has 31 bytes
    expected = "data.capacity=1000000: needs 0.031 GB of memory, 0.01 GB are free: data.capacity=290000 would fit"
    assert refused(tmp_path, capacity=1_000_000) == f"{expected}, or data.storage=disk"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert "2 processes need 0.062 GB of memory, 0.01 GB are free: data.capacity=140000 would fit" in refused(
        tmp_path, capacity=1_000_000
    )


def test_a_disk_that_is_too_small_is_not_recommended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring of 31 MB; the journal of a short run fits."""
    monkeypatch.setattr(memory, "free_memory", lambda: 10_000_000)
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda path: SimpleNamespace(free=30_000_000))
    assert refused(tmp_path, capacity=1_000_000).endswith("data.capacity=290000 would fit")


def test_what_it_says_would_fit_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 10_000_000)
    ReplayData(Gymnasium(id="CartPole-v1"), a_run(tmp_path), gamma=0.9, capacity=290_000)


def test_a_disk_is_asked_too(tmp_path: Path) -> None:
    message = refused(tmp_path, storage="disk")
    assert f"on the disk of {tmp_path}" in message
    assert message.endswith("would fit")


def test_the_journal_of_checkpoints_needs_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring of 1000 rows of 100 bytes, a checkpoint every 100: two more stretches, two files of an eighth."""
    free = {"bytes": 0}
    monkeypatch.setattr(memory, "free_memory", lambda: 10**9)
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda path: SimpleNamespace(free=free["bytes"]))
    known = {"on_disk": False, "written": 10**6, "between": 100, "processes": 2}
    need = 2 * 100 * (1000 + 2 * (100 + 125))
    free["bytes"] = round(need / 0.9) + 10
    memory.check_room(1000, 100, tmp_path, **known)
    free["bytes"] = need
    with pytest.raises(ConfigError) as caught:
        memory.check_room(1000, 100, tmp_path, **known)
    words = str(caught.value)
    assert words.startswith(f"data.capacity=1000: 2 processes need 0.00029 GB on the disk of {tmp_path}")
    assert "for the journal of checkpoints" in words and "storage=disk" not in words
    fits = int(words.rpartition("data.capacity=")[2].split()[0])
    memory.check_room(fits, 100, tmp_path, **known)
    memory.check_room(1000, 100, tmp_path, **{**known, "written": 500})  # as many as the run writes at all
    (tmp_path / "replay" / "rank0").mkdir(parents=True)  # a resumed run writes over its own
    (tmp_path / "replay" / "rank0" / "rows-000000.bin").write_bytes(bytes(100_000))
    memory.check_room(1000, 100, tmp_path, **known)


def test_ranks_are_counted_before_they_are_started(commands: Commands, tmp_path: Path) -> None:
    """By the message of the process that was typed, with no run directory left behind."""
    ended = commands.run("trainer=ddp_cpu", "data.capacity=1_000_000_000_000", "hydra.run.dir=run")
    assert ended.code == 2 and "data.capacity=1000000000000: 2 processes need 62000 GB" in ended.text
    assert not (commands.folder / "run").exists() and "torchrun" not in ended.text


def test_a_container_has_less_than_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = memory.free_memory()
    assert everything > 10**8
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("2000000\n")
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    assert memory.free_memory() == 3_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_memory() > 10**8
