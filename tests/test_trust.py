"""A package of the user's: its environments and algorithms are built, resumed and evaluated once it is trusted."""

import sys
from functools import partial
from pathlib import Path

import pytest
from tests.commands import SMALL, Commands, Ended, assert_same
from tests.training import composed

from downpour.config import ConfigError, check, locate

PACKAGE = '''
from typing import Any

import gymnasium as gym
import numpy as np

from downpour.algorithms.double_dqn import DoubleDQN
from downpour.config import PositiveFloat


class Walk(gym.Env):
    """As far as one comes in a number of steps that is drawn."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (2,), np.float32), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left, self.place = int(self.np_random.integers(5, 40)), 0.0
        return self.seen(), {}

    def step(self, action):
        self.left, self.place = self.left - 1, self.place + 0.02 * action
        return self.seen(), float(action), self.left == 0, False, {}

    def seen(self):
        return np.array([self.place, self.left / 40], np.float32)


class Halved(DoubleDQN):
    """Learns from a part of each reward."""

    def __init__(self, *args: Any, part: PositiveFloat = 0.5, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.part = part

    def loss(self, batch):
        return super().loss({**batch, "reward": self.part * batch["reward"]})


gym.register("Walk-v0", Walk)
'''
ENVIRONMENT = (*SMALL, "env.id=a_package_of_mine:Walk-v0", "hydra.run.dir=run")


def importable(folder: str) -> None:
    """Have the package of a folder found."""
    sys.path.insert(0, folder)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "a_package_of_mine.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "a_package_of_mine"


def run(commands: Commands, *arguments: str, trusting: str = "") -> Ended:
    find = partial(importable, str(commands.folder))
    return commands.run(*arguments, environment={"DOWNPOUR_TRUST": trusting}, sabotage=find)


def test_a_run_of_ones_own_package_is_resumed_when_trusted(commands: Commands, package: str) -> None:
    """Exactly: the state of its environments is saved, too."""
    assert run(commands, *ENVIRONMENT, "total_env_steps=512", trusting=package).code == 0
    refused = run(commands, "resume=run", "total_env_steps=1024")
    assert refused.code == 2 and f"DOWNPOUR_TRUST={package}" in refused.err
    assert run(commands, "resume=run", "total_env_steps=1024", trusting=f"another, {package}").code == 0
    assert run(commands, *ENVIRONMENT[:-1], "hydra.run.dir=straight", trusting=package).code == 0
    assert_same(commands.folder / "run", commands.folder / "straight")


def test_a_class_of_ones_own_is_built_when_trusted(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings are checked as those of this project's are, a parent's included."""
    target = f"{package}.Halved"
    monkeypatch.delenv("DOWNPOUR_TRUST", raising=False)
    with pytest.raises(ConfigError, match=f"if it is yours, set DOWNPOUR_TRUST={package}"):
        locate(target, "algo")
    monkeypatch.setenv("DOWNPOUR_TRUST", package)
    assert locate(target, "algo").__name__ == "Halved"
    node = {**composed("algo=double_dqn")["algo"], "_target_": target}
    assert check({**node, "part": 2}, "algo")["part"] == 2.0
    for key, value in (("part", -1), ("gamma", 2)):
        with pytest.raises(ConfigError, match=rf"algo\.{key}={value}"):
            check({**node, key: value}, "algo")
    with pytest.raises(ConfigError):
        locate(f"{package}.np.memmap", "algo")
