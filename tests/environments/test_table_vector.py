"""Environments drawn from a table: those that Gymnasium steps, in law and, where nothing is random, to the letter."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from downpour.config import ConfigError
from downpour.environments import Gymnasium
from downpour.environments.state import freeze_environments, thaw_environments
from downpour.environments.tables import table_of

DETERMINISTIC: dict[str, dict[str, Any]] = {
    "FrozenLake-v1": {"is_slippery": False, "max_episode_steps": 7},
    "CliffWalking-v1": {"max_episode_steps": 30},
    "downpour/RandomWalk-v0": {"states": 7},
}


@pytest.mark.parametrize("id", DETERMINISTIC)
def test_the_same_as_gymnasium_where_nothing_is_random(id: str) -> None:
    kwargs = DETERMINISTIC[id]
    mine = Gymnasium(id=id, vectorization="table", kwargs=kwargs).vector(3)
    makers = [lambda: gym.make(id, **kwargs)] * 3
    theirs = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP)
    assert mine.single_observation_space == theirs.single_observation_space
    assert mine.action_space == theirs.action_space
    np.testing.assert_array_equal(mine.reset(seed=0)[0], theirs.reset(seed=0)[0])
    rng = np.random.default_rng(0)
    ends = 0
    for _ in range(300):
        action = rng.integers(mine.single_action_space.n, size=3)  # type: ignore[attr-defined]
        for mine_column, their_column in zip(mine.step(action)[:4], theirs.step(action)[:4], strict=True):
            np.testing.assert_array_equal(mine_column, their_column)
        ends += int(mine_column.sum())
    assert ends > 0 or id == "downpour/RandomWalk-v0"  # some were cut


def test_slipping_follows_the_table() -> None:
    """Every frequency within five standard errors."""
    environment = Gymnasium(id="FrozenLake-v1", vectorization="table")
    mdp, worlds = table_of(environment), environment.vector(200)
    state, done = worlds.reset(seed=1)[0], np.zeros(200, bool)
    counts, gains, ends = np.zeros((16, 4, 16)), np.zeros((16, 4)), np.zeros((16, 4))
    rng = np.random.default_rng(2)
    for _ in range(1000):
        action = rng.integers(4, size=200)
        following, reward, terminated, truncated, _ = worlds.step(action)
        np.add.at(counts, (state[~done], action[~done], following[~done]), ~terminated[~done])
        np.add.at(gains, (state[~done], action[~done]), reward[~done])
        np.add.at(ends, (state[~done], action[~done]), terminated[~done])
        assert (following[done] == 0).all() and (reward[done] == 0).all()
        state, done = following, terminated | truncated
    total = counts.sum(-1) + ends
    seen = total > 0
    assert seen.sum() == 11 * 4
    for found, expected in ((counts, mdp.transition), (gains[..., None], mdp.reward[..., None])):
        rate = found[seen] / total[seen][:, None]
        error = np.sqrt(expected[seen] * (1 - expected[seen]) / total[seen][:, None])
        assert (np.abs(rate - expected[seen]) <= 5 * error + 1e-12).all()


def test_the_same_seed_again_and_after_being_frozen() -> None:
    environment = Gymnasium(id="FrozenLake-v1", vectorization="table")
    first, second = environment.vector(4), environment.vector(4)
    first.reset(seed=3)
    for _ in range(20):
        first.step(np.ones(4, np.int64))
    data = freeze_environments(first)
    assert data is not None
    second.reset(seed=0)
    thaw_environments(second, data)
    for _ in range(50):
        for mine, theirs in zip(
            first.step(np.ones(4, np.int64))[:4], second.step(np.ones(4, np.int64))[:4], strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)


def test_trials_have_states_of_their_own() -> None:
    environment = Gymnasium(id="downpour/MaximizationBias-v0", vectorization="table", trials=3)
    assert environment.observation_space.n == 6  # type: ignore[attr-defined]
    assert environment.action_space.available.sum(1).tolist() == [2, 10] * 3  # type: ignore[attr-defined]
    worlds = environment.vector(6)
    assert worlds.reset(seed=0)[0].tolist() == [0, 2, 4, 0, 2, 4]
    observation, reward, terminated, _, _ = worlds.step(np.array([1, 1, 1, 0, 0, 0]))
    assert observation.tolist()[:3] == [1, 3, 5] and terminated.tolist() == [False] * 3 + [True] * 3
    assert reward.tolist() == [0] * 6


def test_left_is_worth_a_tenth_less_than_nothing() -> None:
    """Mean and variance of the rewards of Example 6.7 within five standard errors."""
    worlds = Gymnasium(id="downpour/MaximizationBias-v0", vectorization="table").vector(40_000)
    worlds.reset(seed=0)
    worlds.step(np.ones(40_000, np.int64))
    reward = worlds.step(np.full(40_000, 7))[1]
    assert abs(reward.mean() + 0.1) < 5 / 200 and abs(reward.var() - 1) < 5 * 2**0.5 / 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"id": "CartPole-v1", "vectorization": "table"}, "has no transition table"),
        ({"id": "FrozenLake-v1", "trials": 2}, "needs env.vectorization=table"),
    ],
)
def test_what_has_no_table(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Gymnasium(**options)


def test_a_world_that_hides_its_state_has_no_exact_solution() -> None:
    with pytest.raises(ConfigError, match="hides its state"):
        table_of(Gymnasium(id="downpour/ShortCorridor-v0", vectorization="table"))


def test_an_exact_solution_is_of_one_trial() -> None:
    with pytest.raises(ConfigError, match=r"^env\.trials=3: an exact solution is that of one environment"):
        table_of(Gymnasium(id="FrozenLake-v1", vectorization="table", trials=3))
