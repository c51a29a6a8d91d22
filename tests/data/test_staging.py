"""Rounds travel whole, and no piece of memory twice."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tensordict import TensorDict

from downpour.data.replay import Replay
from downpour.data.staging import Staging, memory_of, rebuilt


def ring(directory: Path | None = None, **settings: Any) -> Replay:
    """One that holds 40 steps of two environments."""
    replay = Replay(100, 2, torch.Generator().manual_seed(0), gamma=0.9, directory=directory, **settings)
    steps = (40, 2)
    first = torch.zeros(steps, dtype=torch.bool)
    first[::7] = True
    rows = {
        "observation": torch.randint(0, 255, (*steps, 3, 5), dtype=torch.uint8),
        "action": torch.randint(4, steps),
        "reward": torch.randn(steps),
        "terminated": first.roll(-1, 0),
        "truncated": torch.zeros(steps, dtype=torch.bool),
        "first": first,
    }
    replay.extend(TensorDict(rows, batch_size=steps))
    return replay


def assert_equal(one: TensorDict, other: TensorDict) -> None:
    assert one.batch_size == other.batch_size
    assert set(one.keys()) == set(other.keys())
    for name, value in one.items():
        assert value.dtype == other[name].dtype and torch.equal(value, other[name].cpu()), name


@pytest.mark.parametrize("settings", [{}, {"stack": 2}, {"stack": 2, "n_step": 3, "alpha": 0.6}])
@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_a_round_is_rebuilt_from_copies_of_its_memory(tmp_path: Path, storage: str, settings: dict[str, Any]) -> None:
    round = ring(tmp_path if storage == "disk" else None, **settings).sample(3, 4)
    memory = memory_of(round)
    there = rebuilt(round, [piece.clone() for piece in memory])
    assert_equal(round, there)
    frames = 3 * 4 * 15 * (3 if settings == {"stack": 2} else 2 * settings.get("stack", 1))  # those of a pair, once
    others = sum(value.nbytes for name, value in round.items() if "observation" not in name)
    assert sum(len(piece) for piece in memory) == frames + others
    there["reward"].zero_()
    assert round["reward"].any()


def test_a_round_without_transitions_is_one(tmp_path: Path) -> None:
    round = ring(stack=2).transitions(torch.empty(0, dtype=torch.long)).view(0, 4)
    assert_equal(round, rebuilt(round, memory_of(round)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_rounds_arrive_though_buffers_take_turns() -> None:
    replay, staging = ring(stack=2, alpha=0.6), Staging(torch.device("cuda", 0))
    rounds = [replay.sample(updates, 64) for updates in (2, 1, 4, 0, 3, 2)]
    sent = []
    for round in rounds:
        torch.cuda._sleep(10_000_000)  # what the GPU was given before
        sent.append(staging.send(round))
        staging.wait()
    for round, there in zip(rounds, sent, strict=True):
        assert all(value.is_cuda for value in there.values())
        assert_equal(round, there)
