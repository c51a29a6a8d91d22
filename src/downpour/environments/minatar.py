"""MinAtar (Young and Tian 2019): five games on 10 x 10 cells, with the library's own rules and none of its wrappers."""

from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from downpour.config import PositiveInt, Probability
from downpour.environments.base import Environment, needs_extra, pick_game
from downpour.environments.single import Single

GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
CELL = 16  # pixels of a film


class MinAtar(Environment):
    """One of the games. Observations are bits [channels, 10, 10]; a frame is an environment step."""

    def __init__(
        self,
        *,
        game: str,
        actions: Literal["all", "minimal"] = "all",
        sticky: Probability = 0.1,
        ramping: bool = True,
        max_episode_steps: PositiveInt | None = None,
    ):
        """
        Args:
            game: its name.
            actions: all six, as in the ids that end in -v0, or those that do something in this game (-v1).
            sticky: probability that an environment repeats its last action instead.
            ramping: the game becomes harder as it goes on.
            max_episode_steps: cut (truncate) episodes here.

        Raises:
            ConfigError: there is no such game, or the package is not installed.
        """
        self.game, self.sticky, self.ramping = pick_game(game, GAMES), sticky, ramping
        self.max_episode_steps = max_episode_steps
        name = game.title().replace("_", "")
        self.id = f"MinAtar/{name}-v{0 if actions == 'all' else 1}"
        one = self.play()
        height, width, channels = one.state_shape()
        self.observation_space = spaces.Box(0, 1, (channels, height, width), np.bool_)
        self.chosen = np.arange(one.num_actions()) if actions == "all" else np.array(one.minimal_action_set())
        self.action_space = spaces.Discrete(len(self.chosen))

    def play(self) -> Any:
        """One game of the library."""
        try:
            from minatar.environment import Environment as Game
        except ModuleNotFoundError:
            raise needs_extra("MinAtar", "minatar") from None
        return Game(self.game, self.sticky, self.ramping)

    def single(self, render_mode: str | None = None) -> gym.Env:
        return Single(self.vector(1), draw, render_mode)

    def vector(self, num_envs: int) -> "Games":
        return Games([self.play() for _ in range(num_envs)], self)


class Games(VectorEnv):
    """Several games stepped together. Its attributes are its state: it can be pickled whenever no step is under way."""

    def __init__(self, games: list[Any], source: MinAtar):
        self.games, self.chosen, self.limit = games, source.chosen, source.max_episode_steps
        self.num_envs = len(games)
        self.single_observation_space, self.single_action_space = source.observation_space, source.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.over = np.zeros(self.num_envs, bool)
        self.length = np.zeros(self.num_envs, np.int64)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin all games anew; game i is seeded with `seed + i`."""
        for i, game in enumerate(self.games):
            if seed is not None:
                game.seed(seed + i)
                game.last_action = 0
            game.reset()
        self.over[:] = False
        self.length[:] = 0
        return self._observe(), {}

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One action in every game; a game that was over begins anew instead."""
        reward = np.zeros(self.num_envs, np.float32)
        terminated = np.zeros(self.num_envs, bool)
        self.length = np.where(self.over, 0, self.length + 1)
        for i, (game, action) in enumerate(zip(self.games, self.chosen[actions].tolist(), strict=True)):
            if self.over[i]:
                game.reset()
            else:
                reward[i], terminated[i] = game.act(action)
        truncated = ~terminated & (self.length >= self.limit) if self.limit else np.zeros(self.num_envs, bool)
        self.over = terminated | truncated
        return self._observe(), reward, terminated, truncated, {}

    def _observe(self) -> np.ndarray:
        return np.stack([game.env.state().transpose(2, 0, 1) for game in self.games])


def draw(cells: np.ndarray) -> np.ndarray:
    """A picture [160, 160, 3] of bits [channels, 10, 10]; of things in one cell the last channel is seen."""
    numbers = np.arange(1, len(cells) + 1)[:, None, None]
    hue = (cells * numbers).max(0) * (2 * np.pi / (len(cells) + 1))
    seen = cells.max(0)[..., None]
    colour = 128 + 127 * np.cos(hue[..., None] - np.array([0, 2, 4]) * np.pi / 3)
    return np.kron((colour * seen).astype(np.uint8), np.ones((CELL, CELL, 1), np.uint8))
