"""MinAtar's games beside the library's own environments, and through a run."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from tests.training import resumes_exactly

from downpour.config import ConfigError
from downpour.environments import MinAtar
from downpour.environments.minatar import GAMES
from downpour.environments.state import freeze_environments, thaw_environments

pytest.importorskip("minatar")
SEED, STEPS = 7, 2_600  # longer than a game of Freeway


@pytest.mark.parametrize("actions", ["all", "minimal"])
@pytest.mark.parametrize("game", GAMES)
def test_a_vector_plays_what_the_library_plays(game: str, actions: Any) -> None:
    from minatar.gym import BaseEnv

    rng = np.random.default_rng(0)
    world = MinAtar(game=game, actions=actions)
    one, two = world.vector(2), BaseEnv(game, use_minimal_action_set=actions == "minimal")
    assert world.action_space == two.action_space
    assert world.observation_space.shape == tuple(np.array(two.observation_space.shape)[[2, 0, 1]])
    observation, _ = one.reset(seed=SEED - 1)  # the second is seeded with SEED
    expected, _ = two.reset(seed=SEED)
    over = np.zeros(2, bool)
    ends = 0
    for _ in range(STEPS):
        assert observation.dtype == np.bool_
        assert np.array_equal(observation[1], np.moveaxis(expected, -1, 0))
        action = rng.integers(two.action_space.n, size=2)
        observation, reward, terminated, truncated, _ = one.step(action)
        if over[1]:  # the step after an end is the reset
            expected, right = two.reset()[0], (0, False)
        else:
            expected, gained, ended, _, _ = two.step(action[1])
            right = (gained, ended)
        assert (reward[1], terminated[1]) == right
        assert not truncated.any()
        over = terminated
        ends += over[1]
    assert ends > 0


def test_an_episode_can_be_cut() -> None:
    vector = MinAtar(game="freeway", max_episode_steps=5).vector(1)
    vector.reset(seed=0)
    cuts = [bool(vector.step(np.zeros(1, int))[3][0]) for _ in range(12)]
    assert cuts == [False] * 4 + [True] + [False] * 5 + [True] + [False]


@pytest.mark.parametrize("game", GAMES)
def test_a_game_goes_on_where_it_was_saved(game: str) -> None:
    world = MinAtar(game=game)
    one, two = world.vector(2), world.vector(2)
    one.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(150):
        one.step(rng.integers(6, size=2))
    frozen = freeze_environments(one)
    assert frozen is not None
    thaw_environments(two, frozen)
    for _ in range(150):
        action = rng.integers(6, size=2)
        for left, right in zip(one.step(action)[:4], two.step(action)[:4], strict=True):
            assert np.array_equal(left, right)


def test_a_film_shows_the_cells() -> None:
    single = MinAtar(game="breakout").single("rgb_array")
    observation, _ = single.reset(seed=0)
    picture: Any = single.render()
    assert picture.shape == (160, 160, 3)
    assert np.array_equal(picture[::16, ::16].any(-1), observation.any(0))
    check_env(single, skip_render_check=True)


def test_a_run_resumes_exactly(tmp_path: Path) -> None:
    small = (
        "total_env_steps=600",
        "data.learning_starts=100",
        "data.capacity=400",
        "algo.target_every=10",
        "eval_episodes=1",
    )
    resumes_exactly(tmp_path, "experiment=minatar_breakout", *small, "callbacks.evaluation.max_episode_steps=50")


def test_an_unknown_game_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"env\.game=Brakeout: there is no such game; nearest: breakout"):
        MinAtar(game="Brakeout")


def test_a_missing_package_is_answered_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minatar.environment", None)
    with pytest.raises(ConfigError, match=r"needs MinAtar, which is not installed; make setup EXTRAS=minatar "):
        MinAtar(game="breakout")
