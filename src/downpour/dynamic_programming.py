"""Exact solutions where the transition probability (47) is known: the HJB (Bellman) equation, (34)-(46).

Everything is float64; states and actions count from 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class MDP(NamedTuple):
    """A Markov decision process as two tables.

    Attributes:
        transition: p(x' | x, a) of (47), [states, actions, states]; what is missing to a sum of 1 ends the episode.
        reward: r(x, a) of (38), [states, actions].
    """

    transition: Floats
    reward: Floats

    @classmethod
    def from_table(cls, table: Mapping[int, Mapping[int, Sequence[tuple[Any, ...]]]]) -> "MDP":
        """From Gymnasium's `env.unwrapped.P`: P[x][a] lists (probability, x', reward, terminated)."""
        states, actions = len(table), len(table[0])
        transition, reward = np.zeros((states, actions, states)), np.zeros((states, actions))
        for x, row in table.items():
            for a, outcomes in row.items():
                for probability, following, gain, terminated in outcomes:
                    reward[x, a] += probability * gain
                    transition[x, a, following] += probability * (not terminated)
        return cls(transition, reward)


class Solution(NamedTuple):
    """A solution of (40).

    Attributes:
        q: V(x, a) of (34), [states, actions].
        v: V(x) of (36), [states].
        policy: g(x) of (37), [states].
        sweeps: how many times all states were updated.
    """

    q: Floats
    v: Floats
    policy: Ints
    sweeps: int


def action_values(mdp: MDP, v: Floats, gamma: float) -> Floats:
    """r(x, a) + gamma E[V(X') | x, a], the right side of (39). [states] -> [states, actions]."""
    return mdp.reward + gamma * (mdp.transition @ v)


def bellman_residual(mdp: MDP, q: Floats, gamma: float) -> float:
    """The largest violation of (40) over all (x, a)."""
    return float(np.abs(action_values(mdp, q.max(1), gamma) - q).max())


def squared_residual(mdp: MDP, q: Floats, gamma: float) -> Floats:
    """J(x, a) of (48), [states, actions], with the expectation inside the square; its sum is the loss (49)."""
    return np.square(action_values(mdp, q.max(1), gamma) - q)


def value_iteration(mdp: MDP, gamma: float, tolerance: float = 1e-12, max_sweeps: int = 1_000_000) -> Solution:
    """Apply (39) until no value changes by more than `tolerance`.

    With gamma < 1 the result is then within tolerance * gamma / (1 - gamma) of the solution.

    Raises:
        ArithmeticError: no convergence after `max_sweeps`; with gamma = 1 values may be infinite.
    """
    v = np.zeros(len(mdp.reward))
    for sweep in range(1, max_sweeps + 1):
        q = action_values(mdp, v, gamma)
        new = q.max(1)
        change, v = float(np.abs(new - v).max()), new
        if change <= tolerance:
            q = action_values(mdp, v, gamma)
            return Solution(q, q.max(1), q.argmax(1), sweep)
    raise ArithmeticError(f"value iteration has not converged after {max_sweeps} sweeps (last change {change:.3g})")


def under_policy(mdp: MDP, policy: NDArray[Any]) -> tuple[Floats, Floats]:
    """The Markov chain of a policy: p(x' | x) [states, states] and r(x) [states].

    Args:
        policy: an action for each state [states], or probabilities [states, actions].
    """
    if policy.ndim == 1:
        policy = np.eye(mdp.reward.shape[1])[policy]
    return np.einsum("xa,xay->xy", policy, mdp.transition), (policy * mdp.reward).sum(1)


def never_ending(transition: Floats) -> NDArray[np.bool_]:
    """The states of a Markov chain [states, states] that cannot reach termination, [states]."""
    ends = transition.sum(1) < 1 - 1e-9
    while True:
        wider = ends | (transition[:, ends] > 0).any(1)
        if (wider == ends).all():
            return ~ends
        ends = wider


def policy_evaluation(mdp: MDP, policy: NDArray[Any], gamma: float) -> Floats:
    """The value of a policy [states], by solving (I - gamma P) V = r.

    Raises:
        numpy.linalg.LinAlgError: gamma = 1 and the policy never ends.
    """
    transition, reward = under_policy(mdp, policy)
    if gamma == 1 and (stuck := never_ending(transition)).any():
        raise np.linalg.LinAlgError(f"from state {int(stuck.argmax())} the policy never terminates")
    return np.asarray(np.linalg.solve(np.eye(len(reward)) - gamma * transition, reward), np.float64)


def policy_iteration(mdp: MDP, gamma: float) -> Solution:
    """Evaluate and improve (37) in turn until the policy stays (Howard 1960); exact after finitely many sweeps."""
    policy = np.zeros(len(mdp.reward), np.int64)
    for sweep in range(1, mdp.reward.size**2 + 1):
        v = policy_evaluation(mdp, policy, gamma)
        q = action_values(mdp, v, gamma)
        better = q.max(1) > v + 1e-12 * (1 + np.abs(v))  # ties keep their action, or the iteration could cycle
        if not better.any():
            return Solution(q, v, policy, sweep)
        policy = np.where(better, q.argmax(1), policy)
    raise ArithmeticError("policy iteration cycles between policies")


def finite_horizon(mdp: MDP, horizon: int, gamma: float = 1.0) -> tuple[Floats, Ints]:
    """The best sum of rewards over `horizon` more steps, (5) and (7), by backward induction.

    Returns:
        V [horizon + 1, states], by steps still to go, and the best first action [horizon, states] (row n: n + 1 to go).
    """
    v, policy = np.zeros((horizon + 1, len(mdp.reward))), np.zeros((horizon, len(mdp.reward)), np.int64)
    for n in range(horizon):
        q = action_values(mdp, v[n], gamma)
        v[n + 1], policy[n] = q.max(1), q.argmax(1)
    return v, policy


def visit_frequencies(mdp: MDP, policy: NDArray[Any], start: Floats) -> Floats:
    """The stationary distribution of states under a policy, with episodes restarted at their end, [states].

    Raises:
        numpy.linalg.LinAlgError: the policy never ends.
    """
    transition, _ = under_policy(mdp, policy)
    if (stuck := never_ending(transition)).any():
        raise np.linalg.LinAlgError(f"from state {int(stuck.argmax())} the policy never terminates")
    visits = np.linalg.solve(np.eye(len(start)) - transition.T, start)
    return visits / visits.sum()


def td_fixed_point(mdp: MDP, policy: NDArray[Any], start: Floats, features: Floats, gamma: float) -> Floats:
    """The weights [features] that linear TD(0), (60), converges to when it follows the policy.

    They solve phi^T D (phi - gamma P phi) theta = phi^T D r, D the frequency of visits (Tsitsiklis and Van Roy 1997).
    If there are several solutions, the one of least norm is returned.

    Args:
        features: phi(x) of every state, [states, features].
    """
    transition, reward = under_policy(mdp, policy)
    weighted = features.T * visit_frequencies(mdp, policy, start)
    system = weighted @ (features - gamma * transition @ features)
    return np.asarray(np.linalg.lstsq(system, weighted @ reward, rcond=None)[0], np.float64)
