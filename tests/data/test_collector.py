"""Rows, steps and episodes against worlds whose every step is known; going on exactly where it was left."""

import copy
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from tensordict import TensorDict
from tests.worlds import a_run, scripted

from downpour.data.collector import Collector, Episode
from downpour.environments import Gymnasium


def alternate() -> Any:
    """Actions 0, 1, 0, 1, ... in every environment."""
    count = 0

    def act(observation: torch.Tensor) -> np.ndarray:
        nonlocal count
        count += 1
        return np.full(len(observation), (count + 1) % 2)

    return act


def test_rows_are_what_the_environments_hand_out(tmp_path: Path) -> None:
    """Environment 0: an episode of 2 steps, then one of 3; environment 1: one of 4. A reset takes a step of its own."""
    collector = Collector(scripted([2, 3], [4]), a_run(tmp_path))
    start = collector.start()
    assert start.batch_size == (1, 2)
    assert start["first"].all()
    assert start["observation"].tolist() == [[[0, 0, 0], [1, 0, 0]]]
    rows = collector.collect(7, alternate())
    assert rows.batch_size == (7, 2)
    assert rows["observation"][:, 0].tolist() == [
        [0, 0, 1],
        [0, 0, 2],  # the true last observation
        [0, 1, 0],  # the reset
        [0, 1, 1],
        [0, 1, 2],
        [0, 1, 3],
        [0, 2, 0],
    ]
    assert rows["first"][:, 0].tolist() == [False, False, True, False, False, False, True]
    assert rows["terminated"][:, 0].tolist() == [False, True, False, False, False, True, False]
    assert rows["first"][:, 1].tolist() == [False, False, False, False, True, False, False]
    assert rows["action"][:, 0].tolist() == [0, 1, 0, 1, 0, 1, 0]
    torch.testing.assert_close(rows["reward"][:, 0], torch.tensor([1, 2.1, 0, 1.1, 2, 3.1, 0]))
    torch.testing.assert_close(rows["reward"][:, 1], torch.tensor([1, 2.1, 3, 4.1, 0, 1.1, 2]))
    assert not rows["truncated"].any()
    assert rows["observation"].dtype == torch.float32
    assert rows["action"].dtype == torch.int64


def test_the_policy_sees_the_newest_observation(tmp_path: Path) -> None:
    seen = []

    def act(observation: torch.Tensor) -> np.ndarray:
        seen.append(observation.clone())
        return np.zeros(2, int)

    collector = Collector(scripted([2, 3], [4]), a_run(tmp_path))
    start = collector.start()
    rows = torch.cat([start, collector.collect(3, act), collector.collect(4, act)])
    assert torch.equal(torch.stack(seen), rows["observation"][:-1])


def test_truncation_is_not_termination(tmp_path: Path) -> None:
    collector = Collector(scripted([2, 2], terminates=[False, True]), a_run(tmp_path))
    collector.start()
    rows = collector.collect(6, alternate())
    assert rows["truncated"][:, 0].tolist() == [False, True, False, False, False, False]
    assert rows["terminated"][:, 0].tolist() == [False, False, False, False, True, False]
    assert rows["first"][:, 0].tolist() == [False, False, True, False, False, True]


def test_episodes_are_counted_across_blocks(tmp_path: Path) -> None:
    collector = Collector(scripted([2, 3], [4]), a_run(tmp_path))
    collector.start()
    act = alternate()
    for steps in (1, 2, 3, 1, 2):
        collector.collect(steps, act)
    assert collector.env_steps == 2 * 9
    # The return counts the rewards of the episode's own steps, the length its own steps.
    assert collector.episodes == [
        Episode(env_steps=4, episode_return=pytest.approx(3.1), length=2, environment=0),
        Episode(env_steps=8, episode_return=pytest.approx(10.2), length=4, environment=1),
        Episode(env_steps=12, episode_return=pytest.approx(6.2), length=3, environment=0),
        Episode(env_steps=18, episode_return=pytest.approx(3.1), length=2, environment=0),
        Episode(env_steps=18, episode_return=pytest.approx(10.2), length=4, environment=1),
    ]


def test_ranks_count_together(tmp_path: Path) -> None:
    collector = Collector(scripted([2], [2], [2]), a_run(tmp_path, rank=1, world_size=4))
    collector.start()
    collector.collect(2, lambda observation: np.zeros(3, int))
    assert collector.env_steps == 2 * 3 * 4
    assert [episode.environment for episode in collector.episodes] == [3, 4, 5]


def test_starting_anew_drops_the_unfinished(tmp_path: Path) -> None:
    collector = Collector(scripted([3, 3]), a_run(tmp_path))
    collector.start()
    collector.collect(2, alternate())
    rows = collector.start()
    assert rows["observation"].tolist() == [[[0, 1, 0]]]
    collector.collect(3, lambda observation: np.zeros(1, int))
    assert [(e.env_steps, e.episode_return, e.length) for e in collector.episodes] == [(5, 6.0, 3)]


def test_start_comes_first(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="start"):
        Collector(scripted([3]), a_run(tmp_path)).collect(1, alternate())


def test_seeds_and_ranks_see_other_episodes(tmp_path: Path) -> None:
    """Seed 0 is a seed; neither another rank nor another seed draws the same; a second start is another one."""

    def first_observation(seed: int, rank: int = 0, starts: int = 1) -> torch.Tensor:
        collector = Collector(Gymnasium(id="CartPole-v1").vector(3), a_run(tmp_path, seed=seed, rank=rank))
        return [collector.start() for _ in range(starts)][-1]["observation"]

    assert torch.equal(first_observation(0), first_observation(0))
    different = [first_observation(0), first_observation(1), first_observation(2), first_observation(0, starts=2)]
    different.append(first_observation(0, rank=1))
    assert len({tuple(o.flatten().tolist()) for o in different}) == 5
    assert len(set(first_observation(0)[0, :, 0].tolist())) == 3  # environments of a vector differ


def test_floats_are_kept_in_32_bits_and_the_rest_as_it_is(tmp_path: Path) -> None:
    row = {
        name: Collector(Gymnasium(id=name).vector(1), a_run(tmp_path)).row_dtype
        for name in ("CartPole-v1", "FrozenLake-v1", "MountainCarContinuous-v0")
    }
    assert row["CartPole-v1"]["observation"] == np.dtype((np.float32, (4,)))
    assert row["FrozenLake-v1"]["observation"] == np.int64
    assert row["MountainCarContinuous-v0"]["action"] == np.dtype((np.float32, (1,)))
    assert row["CartPole-v1"]["action"] == np.int64


# Exactness


def guess(environments: VectorEnv, seed: int) -> Any:
    """Actions that only depend on how often it was asked."""
    rng = np.random.default_rng(seed)
    space = environments.single_action_space

    def act(observation: torch.Tensor) -> np.ndarray:
        if isinstance(space, gym.spaces.Discrete):
            return rng.integers(space.n, size=len(observation))
        return rng.uniform(space.low, space.high, (len(observation), *space.shape)).astype(np.float32)

    return act


def as_checkpointed(state: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Through a file that loads without running code, as a checkpoint does."""
    torch.save(state, directory / "state.pt")
    return torch.load(directory / "state.pt", weights_only=True)


def assert_same(one: TensorDict, two: TensorDict) -> None:
    assert sorted(one.keys()) == sorted(two.keys())
    for name in sorted(one.keys()):
        assert torch.equal(one[name], two[name]), name


FREEZABLE = [
    ("CartPole-v1", "auto"),
    ("CartPole-v1", "sync"),
    ("Acrobot-v1", "auto"),
    ("FrozenLake-v1", "auto"),
    ("Taxi-v4", "auto"),
    ("CliffWalking-v1", "auto"),
    ("MountainCarContinuous-v0", "auto"),
    ("InvertedPendulum-v5", "auto"),
    ("MinAtar/Breakout-v1", "auto"),
]


def environment(id: str, vectorization: Any = "auto") -> Gymnasium:
    if id.startswith("InvertedPendulum"):
        pytest.importorskip("mujoco", reason="the mujoco extra is not installed")
    if id.startswith("MinAtar") and id not in gym.registry:
        pytest.importorskip("minatar.gym", reason="the minatar extra is not installed").register_envs()
    return Gymnasium(id=id, vectorization=vectorization)


@pytest.mark.parametrize("steps", [0, 37, 160])
@pytest.mark.parametrize(("id", "vectorization"), FREEZABLE)
def test_goes_on_exactly(tmp_path: Path, id: str, vectorization: str, steps: int) -> None:
    """In the middle of episodes, or just at a reset: the same rows, episodes and counts as if nothing had happened."""
    world = environment(id, vectorization)
    one, two = (Collector(world.vector(3), a_run(tmp_path)) for _ in range(2))
    one.start()
    if steps:
        one.collect(steps, guess(one.environments, 0))
    state = one.capture()
    assert state["environments"] is not None
    two.restore(as_checkpointed(state, tmp_path))
    assert_same(one.collect(150, guess(one.environments, 1)), two.collect(150, guess(two.environments, 1)))
    assert one.episodes == two.episodes
    assert one.env_steps == two.env_steps
    assert_same(one.start(), two.start())


def test_a_state_can_be_restored_twice(tmp_path: Path) -> None:
    world = Gymnasium(id="CartPole-v1")
    one = Collector(world.vector(2), a_run(tmp_path))
    one.start()
    one.collect(9, guess(one.environments, 0))
    state = one.capture()
    kept = copy.deepcopy(state)
    for _ in range(2):
        two = Collector(world.vector(2), a_run(tmp_path))
        two.restore(state)
        two.collect(60, guess(two.environments, 1))
    for name in ("observation", "done", "return", "length"):
        assert torch.equal(state[name], kept[name]), name


def blackjack(**more: Any) -> VectorEnv:
    return Gymnasium(id="Blackjack-v1", **more).vector(2)  # its tuples are flattened by way of a lambda


def asynchronous() -> VectorEnv:
    return Gymnasium(id="CartPole-v1", vectorization="async").vector(2)


@pytest.mark.parametrize("make", [blackjack, asynchronous])
def test_a_world_that_cannot_be_frozen_goes_on_from_its_newest_start(tmp_path: Path, make: Any) -> None:
    one, two = (Collector(make(), a_run(tmp_path)) for _ in range(2))
    one.start()
    one.collect(20, guess(one.environments, 0))
    one.start()
    state = one.capture()
    assert state["environments"] is None
    two.restore(as_checkpointed(state, tmp_path))
    assert_same(one.collect(60, guess(one.environments, 1)), two.collect(60, guess(two.environments, 1)))
    assert one.episodes == two.episodes
    one.environments.close()
    two.environments.close()


def test_thawing_runs_no_code(tmp_path: Path) -> None:
    """A checkpoint whose environments are somebody's program."""
    collector = Collector(Gymnasium(id="CartPole-v1").vector(1), a_run(tmp_path))
    collector.start()
    state = collector.capture()
    trap = b"cos\nsystem\n(S'touch " + str(tmp_path / "sprung").encode() + b"'\ntR."
    state["environments"] = torch.frombuffer(bytearray(trap), dtype=torch.uint8)
    with pytest.raises(pickle.UnpicklingError, match=r"os\.system"):
        collector.restore(state)
    assert not (tmp_path / "sprung").exists()


def test_a_vector_without_next_step_loses_the_last_observation(tmp_path: Path) -> None:
    """Why `Gymnasium.vector` insists on NEXT_STEP: with SAME_STEP the row of an episode's end is already the reset."""
    makers = scripted([2, 3]).env_fns
    collector = Collector(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP), a_run(tmp_path))
    collector.start()
    assert collector.collect(2, alternate())["observation"][1, 0].tolist() == [0, 1, 0]
