"""Environments that get in the way: Slow-v0 takes its time, Broken-v0 raises on rank 1, NotANumber-v0 hands out NaN.

Each step adds a byte to the file that $SLOW_STEPS names, if it is set.
"""

import os
import time

import gymnasium as gym
import numpy as np


class Slow(gym.Env):
    """A step takes `seconds`; an episode has ten."""

    observation_space = gym.spaces.Box(0, 10, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    seconds = 0.02

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        time.sleep(self.seconds)
        if path := os.environ.get("SLOW_STEPS"):
            with open(path, "a") as file:
                file.write(".")
        self.t += 1
        return np.full(1, self.t, np.float32), 1.0, self.t == 10, False, {}


class Broken(Slow):
    """Breaks after twenty steps in a process of rank 1."""

    seconds = 0.0
    steps = 0

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        if self.steps > 20 and os.environ.get("RANK") == "1":
            raise ArithmeticError("the world has ended")
        return super().step(action)


class NotANumber(Slow):
    """Hands out rewards that are none."""

    seconds = 0.0

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, _, *rest = super().step(action)
        return observation, float("nan"), *rest  # type: ignore[return-value]


for kind in (Slow, Broken, NotANumber):
    if f"{kind.__name__}-v0" not in gym.registry:
        gym.register(f"{kind.__name__}-v0", entry_point=kind)
