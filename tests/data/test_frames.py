"""Replay that stores the newest frame of a stack only, beside a naive one that stores everything twice."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from downpour.data.journal import Journal
from downpour.data.replay import Replay

GAMMA = 0.5
ROW = np.dtype(
    [
        ("observation", np.uint8, (2, 3)),
        ("action", np.int64),
        ("reward", np.float32),
        ("terminated", bool),
        ("truncated", bool),
        ("first", bool),
    ]
)


@dataclass
class World:
    """What happened: rows [steps, num_envs], and how they are kept."""

    rows: TensorDict
    blocks: list[int]
    capacity: int
    n_step: int
    stack: int


@st.composite
def worlds(draw: Any) -> World:
    """Episodes of random lengths that end in either way; lives that are lost on the way end nothing but a return."""
    num_envs, stack, n_step = draw(st.integers(1, 3)), draw(st.integers(2, 4)), draw(st.integers(1, 3))
    blocks = draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    steps = sum(blocks)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    longest = draw(st.integers(1, 12))
    rows = np.zeros((steps, num_envs), ROW)
    rows["observation"] = rng.integers(1, 256, (steps, num_envs, 2, 3))  # 0 is what stands before an episode
    rows["action"], rows["reward"] = rng.integers(5, size=(2, steps, num_envs))
    for e in range(num_envs):
        t = 0
        while t < steps:
            rows["first"][t, e] = True
            t += rng.integers(1, longest + 1)
            if t < steps:
                rows["terminated" if rng.random() < 0.5 else "truncated"][t, e] = True
            t += 1
    lost = (rng.random((steps, num_envs)) < 0.1) & ~rows["first"] & ~rows["truncated"]
    rows["terminated"] |= lost
    capacity = num_envs * draw(st.integers(n_step + 1 + stack, 25))
    columns = {name: torch.from_numpy(rows[name].copy()) for name in ROW.names or ()}
    return World(TensorDict(columns, batch_size=[steps, num_envs]), blocks, capacity, n_step, stack)


def naive(world: World) -> dict[int, dict[str, Any]]:
    """Every transition whose frames and n steps are in the ring, whole, by the row its first step ends at."""
    steps, num_envs = world.rows.shape
    rows = {name: value.numpy() for name, value in world.rows.items()}
    seen = np.zeros((steps, num_envs, world.stack, 2, 3), np.uint8)
    for t in range(steps):
        for e in range(num_envs):
            if t and not rows["first"][t, e]:
                seen[t, e, :-1] = seen[t - 1, e, 1:]
            seen[t, e, -1] = rows["observation"][t, e]
    kept = world.capacity // num_envs
    oldest = max(0, steps - kept)
    found = {}
    for t in range(oldest + (world.stack if oldest else 1), steps - world.n_step + 1):
        for e in range(num_envs):
            if rows["first"][t, e]:
                continue
            reward, discount, last = 0.0, 1.0, t
            for last in range(t, t + world.n_step):
                reward += discount * rows["reward"][last, e]
                discount *= GAMMA
                if rows["terminated"][last, e] or rows["truncated"][last, e]:
                    break
            found[(t * num_envs + e) % world.capacity] = {
                "observation": seen[t - 1, e],
                "action": rows["action"][t, e],
                "reward": reward,
                "next_observation": seen[last, e],
                "terminated": rows["terminated"][last, e],
                "discount": discount,
            }
    return found


def ring(world: World, alpha: float | None = None, directory: Path | None = None, seed: int = 0) -> Replay:
    generator = torch.Generator().manual_seed(seed)
    num_envs = world.rows.shape[1]
    more: dict[str, Any] = {"n_step": world.n_step, "stack": world.stack, "alpha": alpha, "directory": directory}
    return Replay(world.capacity, num_envs, generator, gamma=GAMMA, **more)


def filled(world: World, alpha: float | None = None, directory: Path | None = None) -> Replay:
    replay = ring(world, alpha, directory)
    for block in world.rows.split(world.blocks):
        replay.extend(block)
    return replay


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("alpha", [None, 0.6])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(world=worlds())
def test_the_values_of_a_naive_buffer(
    world: World, alpha: float | None, on_disk: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    replay = filled(world, alpha, tmp_path_factory.mktemp("ring") if on_disk else None)
    expected = naive(world)
    rows = torch.arange(min(replay.count, replay.capacity))
    assert set(rows[replay.is_transition(rows)].tolist()) == set(expected)
    assert replay.has_transitions() == bool(expected)
    if not expected:
        return
    index = torch.tensor(sorted(expected))
    known = {str(name): value.numpy() for name, value in replay.transitions(index).items()}
    for name, values in known.items():
        wanted = np.stack([expected[int(i)][name] for i in index])
        assert np.array_equal(values, wanted.astype(values.dtype)), name
    batch = replay.sample(3, 20)
    assert batch["observation"].shape == (3, 20, world.stack, 2, 3)
    drawn = {tuple(x.flatten().tolist()) for x in batch["observation"].flatten(0, 1)}
    assert drawn <= {tuple(each["observation"].flatten().tolist()) for each in expected.values()}
    if alpha is not None:
        assert set(batch["index"].flatten().tolist()) <= set(expected)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(world=worlds(), piece=st.integers(1, 20), alpha=st.sampled_from([None, 0.6]))
def test_capture_and_restore_in_pieces(
    world: World, piece: int, alpha: float | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    replay = filled(world, alpha)
    journal = Journal(tmp_path_factory.mktemp("journal"), ROW, segment=max(1, world.capacity // 8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Replay, "_piece", piece)
        state = copy.deepcopy(replay.capture(journal, 0))
        other = ring(world, alpha, seed=9)
        other.restore(state, journal)
    for one in (replay, other):
        one.extend(world.rows[: min(3, len(world.rows))])
    assert replay.has_transitions() == other.has_transitions()
    if replay.has_transitions():
        here, there = replay.sample(2, 8), other.sample(2, 8)
        for name in sorted(here.keys()):
            assert torch.equal(here[name], there[name]), name
