"""Videos of a policy: one mp4 per episode, with the return in its name."""

import logging
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from downpour.algorithms.base import Algorithm
from downpour.callbacks.evaluation import play
from downpour.config import ConfigError

log = logging.getLogger(__name__)

for kind in ("VIDEO", "AUDIO"):  # pictures are drawn in memory; without a screen SDL would complain
    os.environ.setdefault(f"SDL_{kind}DRIVER", "dummy")

USUAL_RATE = 30  # frames per second, if the environment does not define it


def film(
    policy: Algorithm, camera: "Camera", name: str, episodes: int, seed: np.random.SeedSequence, max_steps: int
) -> list[Path]:
    """Play whole episodes with exploration off and record them.

    Args:
        name: start of the files' names; the return follows.
        max_steps: an episode is cut here if its environment does not end it; no further one is played then.

    Returns:
        The files, in the order they were played.
    """
    camera.begin(name, episodes)
    try:
        play(policy, camera, episodes, seed, max_steps)
    finally:
        camera.cut()
    return camera.films


class Camera:
    """A vector of one environment that records itself, frame by frame (an Atari episode would fill gigabytes).

    Attributes:
        films: files of the last recording.
    """

    num_envs = 1

    def __init__(self, environment: Any, directory: Path | None, key: str = "video"):
        """
        Args:
            environment: creates single environments (`single(render_mode)`).
            directory: where the files go; None plays the same episodes and writes nothing.
            key: the setting that asked for the video, for messages.

        Raises:
            ConfigError: the environment cannot be rendered, or not on this machine.
        """
        self.directory, self.films = directory, list[Path]()
        self._writer: Any = None
        self._name, self._numbered, self._return, self._over = "", False, 0.0, False
        single = environment.single()
        modes = list(single.metadata.get("render_modes") or [])
        single.close()
        if "rgb_array" not in modes:
            known = f"it supports {', '.join(map(str, modes))}" if modes else "it supports no render mode"
            raise ConfigError(key, True, f"{environment.id} cannot be recorded: {known}, not rgb_array")
        single = environment.single("rgb_array")
        self.rate = int(single.metadata.get("render_fps") or USUAL_RATE)
        try:
            single.reset(seed=0)
            _picture(single.render())
        except Exception as error:  # a missing package or display: environments raise different errors
            text = f"{environment.id} cannot be rendered on this machine ({type(error).__name__}: {error})"
            raise ConfigError(key, True, text) from None
        finally:
            single.close()
        make = partial(environment.single, "rgb_array")
        self.environments = SyncVectorEnv([make], autoreset_mode=AutoresetMode.NEXT_STEP)

    def begin(self, name: str, episodes: int) -> None:
        """Set the name of the next videos."""
        self.films = []
        self._name, self._numbered = name, episodes > 1

    def reset(self, **arguments: Any) -> Any:
        """As the vector's own."""
        result = self.environments.reset(**arguments)
        self._over = True
        self._shoot(0.0, False)
        return result

    def step(self, action: np.ndarray) -> Any:
        """As the vector's own; the step after an episode's end resets (NEXT_STEP autoreset)."""
        result = self.environments.step(action)
        _, reward, terminated, truncated, _ = result
        self._shoot(float(reward[0]), bool(terminated[0] or truncated[0]))
        return result

    def _shoot(self, reward: float, over: bool) -> None:
        if self._over:
            self._return = 0.0
        self._over = over
        self._return += reward
        if self.directory is None:
            return
        frame = _picture(self.environments.render()[0])
        if self._writer is None:
            import imageio.v2 as imageio

            self.directory.mkdir(parents=True, exist_ok=True)
            self._writer = imageio.get_writer(
                self._partial, format="FFMPEG", fps=self.rate, codec="libx264", macro_block_size=1
            )
        self._writer.append_data(frame)
        if over:
            self.cut()

    @property
    def _partial(self) -> Path:
        assert self.directory is not None
        return self.directory / f".{self._name}.partial.mp4"

    def cut(self) -> None:
        """Finish the current video, if any, and name it."""
        if self._writer is None:
            return
        assert self.directory is not None
        self._writer.close()
        self._writer = None
        number = f"-episode{len(self.films)}" if self._numbered else ""
        path = self.directory / f"{self._name}{number}-return{self._return:g}.mp4"
        self._partial.replace(path)
        self.films.append(path)

    def close(self) -> None:
        """Close the environment."""
        self.cut()
        self.environments.close()


def _picture(frame: Any) -> np.ndarray:
    """A frame [height, width, 3] of bytes with even sides, as the codec requires."""
    array = np.asarray(frame)
    if array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"a frame of shape {array.shape} is not an image")
    if array.dtype != np.uint8:
        array = (array * 255 if array.max() <= 1 else array).astype(np.uint8)
    height, width = array.shape[:2]
    return np.pad(array, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
