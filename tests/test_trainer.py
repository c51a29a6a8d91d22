"""What a machine has, against what is asked of it."""

import os

import pytest

from downpour.trainer import Hardware


@pytest.mark.parametrize(
    ("cores", "told"), [(4, []), (3, ["this machine has 3 core(s), each of the 4 processes gets 0.75"])]
)
def test_more_processes_than_cores_is_told(
    cores: int, told: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    Hardware(accelerator="cpu", devices=4).warn_of_crowding()
    assert len(caplog.messages) == len(told)
    assert all(text in message for text, message in zip(told, caplog.messages, strict=True))
