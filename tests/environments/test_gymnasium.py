"""Environments by their id."""

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from downpour.config import ConfigError
from downpour.environments import Gymnasium

MODULE = """
import gymnasium
gymnasium.register("{name}", entry_point="gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=7)
"""


@pytest.mark.parametrize(
    ("id", "vectorization", "kind"),
    [
        ("CartPole-v1", "auto", "CartPoleVectorEnv"),
        ("CartPole-v1", "sync", "SyncVectorEnv"),
        ("CartPole-v1", "async", "AsyncVectorEnv"),
        ("Acrobot-v1", "auto", "SyncVectorEnv"),
    ],
)
def test_every_vector_hands_out_the_last_observation(id: str, vectorization: Any, kind: str) -> None:
    """And then a row of the reset, with reward 0."""
    environments = Gymnasium(id=id, vectorization=vectorization, max_episode_steps=8).vector(2)
    assert type(environments.unwrapped).__name__ == kind
    assert environments.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    environments.reset(seed=0)
    for _ in range(7):
        _, _, terminated, truncated, _ = environments.step(np.zeros(2, int))
        assert not (terminated | truncated).any()
    last, _, _, truncated, _ = environments.step(np.zeros(2, int))
    assert truncated.all()
    first, reward, terminated, truncated, _ = environments.step(np.zeros(2, int))
    assert not np.allclose(first, last)
    assert not reward.any()
    assert not (terminated | truncated).any()
    environments.close()


def test_one_environment_and_a_vector_are_the_same_world() -> None:
    world = Gymnasium(id="FrozenLake-v1", kwargs={"is_slippery": False, "map_name": "8x8"})
    assert world.single().observation_space == gym.spaces.Discrete(64)
    assert world.vector(2).single_observation_space == gym.spaces.Discrete(64)
    assert world.observation_space == gym.spaces.Discrete(64)
    assert world.action_space == gym.spaces.Discrete(4)


def test_what_gymnasium_calls_solved() -> None:
    assert Gymnasium(id="CartPole-v1").solved_at == 475
    assert Gymnasium(id="CliffWalking-v1").solved_at is None


def test_tuples_are_flattened() -> None:
    world = Gymnasium(id="Blackjack-v1")
    assert isinstance(world.observation_space, gym.spaces.MultiBinary | gym.spaces.Box)
    observation, _ = world.vector(3).reset(seed=0)
    assert observation.shape == (3, *world.observation_space.shape)


def test_a_module_may_register_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_worlds.py").write_text(MODULE.format(name="Mine-v0"))
    monkeypatch.syspath_prepend(tmp_path)
    world = Gymnasium(id="my_worlds:Mine-v0")
    assert world.spec.max_episode_steps == 7
    assert world.vector(2).reset(seed=0)[0].shape == (2, 4)
    del sys.modules["my_worlds"], gym.registry["Mine-v0"]


@pytest.mark.parametrize(
    ("id", "words"),
    [
        ("CartPol-v1", ["CartPole-v1"]),
        ("cartpole-v1", ["CartPole-v1"]),
        ("CartPole-v7", ["CartPole-v1"]),
        ("Taxi-v99", ["Taxi-v"]),
        ("Qqqqqq-v0", ["no environment"]),
        ("no_such_module:Thing-v0", ["no_such_module", "not installed"]),
        ("", ["no environment"]),
        ("not an id", ["no environment"]),
    ],
)
def test_an_unknown_id_is_answered_with_the_nearest(id: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Gymnasium(id=id)
    assert str(caught.value).startswith(f"env.id={id}: ")
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_arguments_it_does_not_take_are_named() -> None:
    with pytest.raises(ConfigError, match=r"^env\.kwargs=.*is_slipery"):
        Gymnasium(id="FrozenLake-v1", kwargs={"is_slipery": False})


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.mujoco")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigError, match=r"env\.id=InvertedPendulum-v5: needs a package .*gymnasium\[mujoco\]"):
        Gymnasium(id="InvertedPendulum-v5")
