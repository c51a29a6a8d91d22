"""Atari 2600 games as deep Q-learning sees them, through ale-py's own vector of emulators."""

from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from downpour.config import NonNegativeInt, PositiveInt
from downpour.environments.base import Environment, needs_extra, pick_game
from downpour.environments.single import Single

SKIP = 4
COMMON: dict[str, Any] = {
    "frameskip": SKIP,
    "maxpool": True,
    "grayscale": True,
    "use_fire_reset": False,
    "reward_clipping": False,  # what is learned is clipped here, so that the score stays known
    "episodic_life": False,  # that of ale-py begins a new game after each life
    "autoreset_mode": AutoresetMode.NEXT_STEP,
}
PROTOCOLS: dict[str, dict[str, Any]] = {
    "mnih2015": {"noop_max": 30, "repeat_action_probability": 0.0, "full_action_space": False},
    "machado2018": {"noop_max": 0, "repeat_action_probability": 0.25, "full_action_space": True},
}


class Atari(Environment):
    """One of the games. Observations are the newest four screens, [4, 84, 84] bytes: grey, each the greater of two
    frames. An environment step is four frames.

    `mnih2015` (Mnih et al. 2015, Methods): up to 30 frames without action at the start of a game, the actions that do
    something in it; a lost life ends what is learned from. `machado2018` (Machado et al. 2018, section 4): all 18
    actions, each repeated with probability 0.25 instead of the next, lives end nothing. In both, rewards are learned as
    their signs' size, cut to [-1, 1]; the score that is reported is the game's own.
    """

    stack = 4

    def __init__(
        self,
        *,
        game: str,
        protocol: Literal["mnih2015", "machado2018"] = "mnih2015",
        size: PositiveInt = 84,
        max_frames: PositiveInt = 108_000,
        threads: NonNegativeInt = 0,
    ):
        """
        Args:
            game: its name.
            protocol: how it is played.
            size: height and width of the screen that is seen.
            max_frames: a game is cut (truncated) there.
            threads: emulators that run at once; 0 is one for each core.

        Raises:
            ConfigError: there is no such game, or the package is not installed.
        """
        try:
            from ale_py import roms
        except ModuleNotFoundError:
            raise needs_extra("ale-py", "atari") from None
        self.game = pick_game(game, roms.get_all_rom_ids())
        self.id = f"{game} ({protocol})"
        self.arguments = {**COMMON, **PROTOCOLS[protocol], "stack_num": self.stack, "num_threads": threads}
        self.arguments.update(img_height=size, img_width=size, max_num_frames_per_episode=max_frames)
        self.ends_with_life = protocol == "mnih2015"
        probe = self.vector(1)
        self.observation_space, self.action_space = probe.single_observation_space, probe.single_action_space
        probe.close()

    def single(self, render_mode: str | None = None) -> gym.Env:
        return Single(self.vector(1), draw, render_mode)

    def vector(self, num_envs: int) -> "Games":
        from ale_py import ALEInterface, LoggerMode
        from ale_py.vector_env import AtariVectorEnv

        ALEInterface.setLoggerMode(LoggerMode.Error)
        return Games(AtariVectorEnv(self.game, num_envs, **self.arguments), self.ends_with_life)


class Games(VectorEnv):
    """Several games stepped together; they can go on while something else is done between `send` and `recv`.

    What is to be learned from differs from what happened: `learned_reward` and `learned_terminated` of a step's
    information.
    """

    def __init__(self, emulators: Any, ends_with_life: bool):
        self.emulators, self.ends_with_life = emulators, ends_with_life
        self.num_envs = emulators.num_envs
        self.single_observation_space = emulators.single_observation_space
        self.single_action_space: Any = spaces.Discrete(int(emulators.single_action_space.n))
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self._lives = np.zeros(self.num_envs, np.int64)
        self._over = np.zeros(self.num_envs, bool)
        self._sent = False

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin all games anew; game i is seeded with `seed + i`."""
        if self._sent:  # ale-py would hand out this step's screens
            self.recv()
        observation, info = self.emulators.reset(seed=None if seed is None else seed % 2**30)  # it takes 31 bits
        self._lives, self._over = info["lives"], np.zeros(self.num_envs, bool)
        return observation, {}

    def send(self, actions: np.ndarray) -> None:
        """Begin a step."""
        self.emulators.send(np.asarray(actions))
        self._sent = True

    def recv(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """The end of the step that was begun."""
        observation, reward, terminated, truncated, info = self.emulators.recv()
        self._sent = False
        lost = (info["lives"] < self._lives) & ~self._over & self.ends_with_life
        self._lives, self._over = info["lives"], terminated | truncated
        learned = {"learned_reward": np.clip(reward, -1, 1), "learned_terminated": terminated | lost}
        return observation, reward, terminated, truncated, learned

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One action in every game; a game that was over begins anew instead."""
        self.send(actions)
        return self.recv()

    def close_extras(self, **kwargs: Any) -> None:
        """Wait for the step that was begun."""
        if self._sent:
            self.recv()


def draw(observation: np.ndarray) -> np.ndarray:
    """The newest screen, four times as large: [4, size, size] -> [4 size, 4 size, 3]."""
    return np.kron(observation[-1][..., None], np.ones((4, 4, 3), np.uint8))
