"""A ring that will not fit is refused before it is made."""

from pathlib import Path

import pytest
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
    assert "needs 0.062 GB of memory, 0.01 GB are free: data.capacity=140000 would fit" in refused(
        tmp_path, capacity=1_000_000
    )


def test_what_it_says_would_fit_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 10_000_000)
    ReplayData(Gymnasium(id="CartPole-v1"), a_run(tmp_path), gamma=0.9, capacity=290_000)


def test_a_disk_is_asked_too(tmp_path: Path) -> None:
    message = refused(tmp_path, storage="disk")
    assert f"on the disk of {tmp_path}" in message
    assert message.endswith("would fit")


def test_a_container_has_less_than_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = memory.free_memory()
    assert everything > 10**8
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("2000000\n")
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    assert memory.free_memory() == 3_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_memory() > 10**8
