"""Dynamic programming: three ways to one answer, and answers found by hand or by brute force."""

import itertools

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from downpour import dynamic_programming as dp


def random_mdp(seed: int, states: int = 6, actions: int = 3) -> dp.MDP:
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.ones(states) / 2, size=(states, actions)) * rng.uniform(0.8, 1, (states, actions, 1))
    return dp.MDP(transition, rng.standard_normal((states, actions)))


@pytest.mark.parametrize("id", ["FrozenLake-v1", "CliffWalking-v1", "Taxi-v4"])
def test_value_iteration_policy_iteration_and_a_linear_solve_agree(id: str) -> None:
    mdp = dp.MDP.from_table(gym.make(id).unwrapped.P)  # type: ignore[attr-defined]
    by_value, by_policy = dp.value_iteration(mdp, 0.95, 1e-13), dp.policy_iteration(mdp, 0.95)
    solved = dp.policy_evaluation(mdp, by_value.policy, 0.95)
    np.testing.assert_allclose(by_value.v, by_policy.v, rtol=0, atol=1e-10)
    np.testing.assert_allclose(by_value.v, solved, rtol=0, atol=1e-10)
    np.testing.assert_allclose(by_value.q, by_policy.q, rtol=0, atol=1e-10)
    assert dp.bellman_residual(mdp, by_policy.q, 0.95) < 1e-10


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_the_three_agree_on_random_processes(seed: int) -> None:
    mdp = random_mdp(seed)
    by_value, by_policy = dp.value_iteration(mdp, 0.9, 1e-13), dp.policy_iteration(mdp, 0.9)
    np.testing.assert_allclose(by_value.v, by_policy.v, rtol=0, atol=1e-10)
    np.testing.assert_allclose(by_value.v, dp.policy_evaluation(mdp, by_value.policy, 0.9), rtol=0, atol=1e-10)


def test_no_policy_is_better() -> None:
    """(35): against every deterministic policy of a small process."""
    mdp = random_mdp(3, states=4, actions=2)
    best = dp.value_iteration(mdp, 0.9).v
    each = [dp.policy_evaluation(mdp, np.array(p), 0.9) for p in itertools.product(range(2), repeat=4)]
    np.testing.assert_allclose(best, np.max(each, axis=0), atol=1e-9)


def test_a_process_solved_by_hand() -> None:
    """Stay for 1 a step, or leave for 3: with gamma = 1/2 staying is worth 2, so leaving is right."""
    mdp = dp.MDP(np.array([[[1.0], [0.0]]]), np.array([[1.0, 3.0]]))
    assert dp.action_values(mdp, np.array([4.0]), 0.5)[0] == pytest.approx([1 + 0.5 * 4, 3])
    assert dp.value_iteration(mdp, 0.5).q[0] == pytest.approx([1 + 0.5 * 3, 3])
    assert dp.value_iteration(mdp, 0.8).v[0] == pytest.approx(5)  # now staying is: 1 / (1 - 0.8)
    v, policy = dp.finite_horizon(mdp, 4)
    assert v[:, 0].tolist() == [0, 3, 4, 5, 6] and policy[:, 0].tolist() == [1, 0, 0, 0]
    assert dp.policy_evaluation(mdp, np.array([[0.5, 0.5]]), 0.5)[0] == pytest.approx(2 / 0.75)


def test_finite_horizon_against_every_plan() -> None:
    """(5), with T = 3, on a deterministic process: the best of all sequences of actions."""
    rng = np.random.default_rng(0)
    following, reward = rng.integers(4, size=(4, 2)), rng.standard_normal((4, 2))
    mdp = dp.MDP(np.eye(4)[following], reward)

    def total(x: int, plan: tuple[int, ...]) -> float:
        gain = 0.0
        for t, a in enumerate(plan):
            gain, x = gain + 0.7**t * reward[x, a], following[x, a]
        return gain

    best = [max(total(x, plan) for plan in itertools.product(range(2), repeat=3)) for x in range(4)]
    np.testing.assert_allclose(dp.finite_horizon(mdp, 3, 0.7)[0][3], best)


def test_the_squared_residual_is_the_violation_squared() -> None:
    """(48) where it is 1 + 0.5 * 2 - 4 and 3 - 2; (49) is 0 at the solution and nowhere near it."""
    mdp = dp.MDP(np.array([[[1.0], [0.0]]]), np.array([[1.0, 3.0]]))
    assert dp.squared_residual(mdp, np.array([[4.0, 2.0]]), 0.5)[0] == pytest.approx([(1 + 0.5 * 4 - 4) ** 2, 1.0])
    mdp = random_mdp(0)
    q = dp.value_iteration(mdp, 0.9).q
    assert dp.squared_residual(mdp, q, 0.9).sum() < 1e-20 < dp.squared_residual(mdp, q + 0.1, 0.9).sum()


def test_a_chain_is_never_ending_where_no_way_leads_out() -> None:
    """0 and 1 lead to each other, 2 to 0 or out, 3 to itself or out."""
    chain = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0.5, 0, 0, 0], [0, 0, 0, 0.9]])
    assert dp.never_ending(chain).tolist() == [True, True, False, False]


def test_a_reward_for_ever_is_an_error() -> None:
    mdp = dp.MDP(np.ones((1, 1, 1)), np.ones((1, 1)))
    with pytest.raises(ArithmeticError, match="has not converged after 50 sweeps"):
        dp.value_iteration(mdp, 1.0, max_sweeps=50)
    with pytest.raises(np.linalg.LinAlgError):
        dp.policy_evaluation(mdp, np.array([0]), 1.0)
