"""What a machine has, against what is asked of it."""

import os

import pytest
import torch

from downpour.trainer import Hardware


@pytest.mark.parametrize(
    ("cores", "servers", "told"),
    [
        (4, 0, []),
        (3, 0, ["this machine has only 3 core(s): each of the 4 processes gets 0.75"]),
        (4, 1, ["this machine has only 4 core(s): each of the 5 processes gets 0.8"]),
    ],
)
def test_more_processes_than_cores_is_told(
    cores: int, servers: int, told: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    Hardware(accelerator="cpu", devices=4).warn_of_crowding(servers)
    assert len(caplog.messages) == len(told)
    assert all(text in message for text, message in zip(told, caplog.messages, strict=True))


def test_denormal_numbers_count_as_zero() -> None:
    """An optimizer's memory of a gradient that stays zero ends in them, and the CPU takes its time over each."""
    tiny = torch.tensor([1e-39])
    try:
        Hardware(accelerator="cpu").apply()
        assert float(tiny * 0.5) == 0.0
    finally:
        torch.set_flush_denormal(False)
    assert float(tiny * 0.5) > 0.0
