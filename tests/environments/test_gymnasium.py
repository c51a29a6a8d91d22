"""Environments by their id."""

import sys
from collections.abc import Iterator
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


class Camera(gym.Env):
    """Sees height 5, width 6 and three colours; each cell tells where it is and the time."""

    def __init__(self, dtype: Any = np.uint8) -> None:
        self.observation_space = gym.spaces.Box(0, 255, (5, 6, 3), dtype)
        self.action_space = gym.spaces.Discrete(2)
        self.t = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t = 0
        return self.see(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        return self.see(), 0.0, self.t == 3, False, {}

    def see(self) -> np.ndarray:
        y, x, c = np.indices((5, 6, 3))
        return (100 * self.t + 18 * y + 3 * x + c).astype(self.observation_space.dtype)


@pytest.fixture
def camera() -> Iterator[str]:
    gym.register("Camera-v0", entry_point=Camera)
    yield "Camera-v0"
    del gym.registry["Camera-v0"]


def test_images_have_their_channels_in_front(camera: str) -> None:
    world = Gymnasium(id=camera)
    assert world.observation_space == gym.spaces.Box(0, 255, (3, 5, 6), np.uint8)
    one, environments = world.single(), world.vector(2)
    assert environments.single_observation_space == world.observation_space
    expected = Camera()
    frames = [expected.reset()[0], *(expected.step(0)[0] for _ in range(3))]
    for found in (one.reset()[0], environments.reset()[0][1]):
        np.testing.assert_array_equal(found, np.moveaxis(frames[0], -1, 0))
    for frame in frames[1:]:  # to the last one of the episode
        np.testing.assert_array_equal(environments.step(np.zeros(2, int))[0][0], np.moveaxis(frame, -1, 0))
    assert world.observation_space.contains(environments.step(np.zeros(2, int))[0][0])


def test_other_boxes_stay_as_they_are(camera: str) -> None:
    assert Gymnasium(id=camera, kwargs={"dtype": np.float32}).observation_space.shape == (5, 6, 3)


def test_dictionaries_are_flattened_in_a_vector_of_their_own() -> None:
    assert not Gymnasium(id="CartPole-v1").wrapped
    assert Gymnasium(id="Blackjack-v1").wrapped


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


class Combined(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1, 1, (2,)), gym.spaces.MultiDiscrete([2, 3])


def test_actions_that_no_rule_chooses_are_answered_once() -> None:
    gym.register("Combined-v0", Combined)
    try:
        with pytest.raises(ConfigError, match="only Discrete and Box are supported: register it with a wrapper"):
            Gymnasium(id="Combined-v0")
    finally:
        del gym.registry["Combined-v0"]


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.mujoco")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigError, match=r"env\.id=InvertedPendulum-v5: needs a package .*gymnasium\[mujoco\]"):
        Gymnasium(id="InvertedPendulum-v5")
