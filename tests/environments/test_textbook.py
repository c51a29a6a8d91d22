"""Sutton and Barto's small worlds against the numbers of the book."""

from typing import Any

import numpy as np
import pytest

from downpour import dynamic_programming as dp
from downpour.environments import Gymnasium
from downpour.environments.textbook import MaximizationBias, RandomWalk, ShortCorridor


def test_the_short_corridor_is_worth_what_the_book_says() -> None:
    """v(p) = (2p - 4) / (p (1 - p)), p the probability of right; at best -11.6 at p = 0.59."""
    mdp = dp.MDP.from_table(ShortCorridor().P)
    p = np.linspace(0.02, 0.98, 97)
    exact = np.array([dp.policy_evaluation(mdp, np.tile([1 - each, each], (3, 1)), 1.0)[0] for each in p])
    np.testing.assert_allclose(exact, (2 * p - 4) / (p * (1 - p)), rtol=1e-9)
    assert exact.max() == pytest.approx(-11.66, abs=0.01)
    assert p[exact.argmax()] == pytest.approx(0.59)


def test_a_thousand_walks_down_the_corridor() -> None:
    """Their mean return at p = 0.59 within four standard errors."""
    worlds = Gymnasium(id="downpour/ShortCorridor-v0", vectorization="table").vector(1000)
    observation, _ = worlds.reset(seed=0)
    assert not observation.any()
    rng, returns, going = np.random.default_rng(1), np.zeros(1000), np.ones(1000, bool)
    while going.any():
        _, reward, terminated, truncated, _ = worlds.step((rng.random(1000) < 0.59).astype(np.int64))
        assert not truncated.any()
        returns += reward * going
        going &= ~terminated
    assert abs(returns.mean() + 11.66) < 4 * returns.std() / 1000**0.5


@pytest.mark.parametrize("kind", [RandomWalk, MaximizationBias, ShortCorridor])
def test_alone_it_moves_by_its_table_too(kind: Any) -> None:
    world = kind()
    observation, _ = world.reset(seed=0)
    rng, rewards = np.random.default_rng(0), []
    state = int(world.initial_state_distrib.argmax())
    for _ in range(300):
        action = int(rng.integers(2))
        _, following, mean, ends = world.P[state][action][0]
        observation, reward, terminated, truncated, _ = world.step(action)
        assert (observation, terminated, truncated) == (world.shown[following], ends, False)
        rewards.append((reward - mean, world.reward_std[state, action]))
        state = int(world.initial_state_distrib.argmax()) if ends else following
        if ends:
            assert world.reset()[0] == world.shown[state]
    noise, deviation = np.array(rewards).T
    assert (noise[deviation == 0] == 0).all()
    assert kind is not MaximizationBias or 0.7 < noise[deviation > 0].std() < 1.3
