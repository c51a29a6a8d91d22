"""Small environments of Sutton and Barto (2018) and others, each defined by a transition table."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike

from downpour.environments.table_vector import Available

Table = dict[int, dict[int, list[tuple[float, int, float, bool]]]]


class TableEnv(gym.Env):
    """An environment defined by its transition table; `TableVector` steps many at once.

    Attributes:
        P: the transition table, as Gymnasium's toy environments have it.
        initial_state_distrib: of the first state.
        reward_std: standard deviation of the rewards around those of the table [states, actions].
        shown: the observation that stands for each state [states].
    """

    def __init__(self, table: Table, start: ArrayLike, render_mode: str | None):
        """
        Args:
            start: the distribution of the first state [states].
        """
        self.render_mode, self.P = render_mode, table
        self.initial_state_distrib = np.asarray(start, np.float64)
        self.reward_std = np.zeros((len(table), len(table[0])))
        self.shown = np.arange(len(table))
        self.observation_space, self.action_space = spaces.Discrete(len(table)), spaces.Discrete(len(table[0]))
        self._state = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self._state = self._draw(self.initial_state_distrib)
        return int(self.shown[self._state]), {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        noise = self.reward_std[self._state, action] * self.np_random.standard_normal()
        outcomes = self.P[self._state][int(action)]
        _, self._state, reward, terminated = outcomes[self._draw([outcome[0] for outcome in outcomes])]
        return int(self.shown[self._state]), reward + noise, terminated, False, {}

    def _draw(self, probabilities: ArrayLike) -> int:
        """Sample an index; a certain outcome uses no random number."""
        p = np.asarray(probabilities)
        return int(p.argmax() if p.max() == 1 else self.np_random.choice(len(p), p=p))


def _table(moves: ArrayLike, reward: ArrayLike) -> Table:
    """The table of deterministic moves.

    Args:
        moves: the next state of each action, -1 for the end, [states, actions].
        reward: the mean reward, [states, actions].
    """
    return {
        x: {a: [(1.0, max(y, 0), float(r), y < 0)] for a, (y, r) in enumerate(zip(row, gains, strict=True))}
        for x, (row, gains) in enumerate(zip(np.asarray(moves).tolist(), np.asarray(reward).tolist(), strict=True))
    }


class RandomWalk(TableEnv):
    """Example 6.2: states in a row; action 0 goes left, 1 right. Leaving on the right is worth 1, on the left 0.

    A uniform policy makes it the random walk: with `states` = 5 the values are 1/6, ..., 5/6.
    """

    def __init__(self, states: int = 5, render_mode: str | None = None):
        """
        Args:
            states: in the row; the start is the middle one.
            render_mode: unused; Gymnasium passes it to every environment.
        """
        moves = np.stack([np.arange(states) - 1, np.arange(states) + 1], 1)
        moves[-1, 1] = -1
        reward = np.zeros((states, 2))
        reward[-1, 1] = 1
        super().__init__(_table(moves, reward), np.eye(states)[states // 2], render_mode)


class MaximizationBias(TableEnv):
    """Example 6.7: from A (state 0), action 0 goes right, out, for nothing; 1 goes left to B (state 1), for nothing.

    All actions of B lead out, with a normal reward of mean -0.1 and variance 1. So left is worse, and the largest of
    the estimates in B is positive for long. A has two actions: its others are not `available`.
    """

    def __init__(self, actions: int = 10, render_mode: str | None = None):
        """
        Args:
            actions: of B.
            render_mode: unused; Gymnasium passes it to every environment.
        """
        moves = np.full((2, actions), -1)
        moves[0, 1] = 1
        reward = np.zeros((2, actions))
        reward[1] = -0.1
        super().__init__(_table(moves, reward), [1, 0], render_mode)
        self.reward_std[1] = 1.0
        self.action_space = Available(np.stack([np.arange(actions) < 2, np.ones(actions, bool)]))


class ShortCorridor(TableEnv):
    """Example 13.1: three states in a row that look alike; 0 goes left, 1 right, but in the middle the other way round.

    Each step costs 1; the way out is at the right end. Going right with probability p is worth (2p - 4) / (p (1 - p))
    at the start, at best -11.6 (p = 0.59): no deterministic policy ever gets out.
    """

    def __init__(self, render_mode: str | None = None):
        """
        Args:
            render_mode: unused; Gymnasium passes it to every environment.
        """
        super().__init__(_table([[0, 1], [2, 0], [1, -1]], -np.ones((3, 2))), [1, 0, 0], render_mode)
        self.observation_space, self.shown = spaces.Discrete(1), np.zeros(3, np.int64)


class TwoStates(TableEnv):
    """The example of Tsitsiklis and Van Roy (1996): 0 leads to 1, 1 to itself, for nothing; there is one action.

    Registered with a limit of one step, so that transitions from both states are equally frequent, not as frequent as
    the policy makes them. With the features 1 and 2 (`model=features`) the semi-gradient step (57) then leads away from
    the solution, 0, wherever gamma > 5/6.
    """

    def __init__(self, render_mode: str | None = None):
        """
        Args:
            render_mode: unused; Gymnasium passes it to every environment.
        """
        super().__init__(_table([[1], [1]], np.zeros((2, 1))), [0.5, 0.5], render_mode)


class Given(TableEnv):
    """A Markov decision process from a file; see `downpour.environments.MDPFile`."""

    def __init__(self, transition: Any, reward: Any, start: Any, render_mode: str | None = None):
        """
        Args:
            transition: p(x' | x, a), [states, actions, states]; what is missing to a sum of 1 ends the episode.
            reward: r(x, a), [states, actions].
            start: the distribution of the first state [states].
            render_mode: unused; Gymnasium passes it to every environment.
        """
        table: Table = {}
        for x, rows in enumerate(transition):
            table[x] = {}
            for a, p in enumerate(rows):
                gain, rest = float(reward[x, a]), max(0.0, 1 - float(p.sum()))
                outcomes = [(float(p[y]), int(y), gain, False) for y in np.flatnonzero(p)]
                table[x][a] = [*outcomes, (rest, x, gain, True)] if rest > 1e-9 or not outcomes else outcomes
        super().__init__(table, start, render_mode)
