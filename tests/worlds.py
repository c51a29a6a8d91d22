"""What many tests start from: worlds that do what they are told, policies that guess, learners without a trainer."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tensordict import TensorDict
from torch import nn

from downpour.exploration import Linear
from downpour.networks import Table
from downpour.run import Run

CONF = Path(__file__).parents[1] / "conf"


class Scripted(gym.Env):
    """Episode k takes `lengths[k]` steps and ends with a termination if `terminates[k]`, else with a truncation.

    The observation is (which environment, episode, step in it); the reward is `step + action / 10`. After the last
    episode of the script the first comes again. Its class is not one that a checkpoint may name, so this is also a
    world that cannot be frozen.
    """

    def __init__(self, lengths: Sequence[int], terminates: Sequence[bool] | None = None, name: int = 0):
        self.observation_space = gym.spaces.Box(0, 1e6, (3,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.lengths, self.terminates, self.name = lengths, terminates or [True] * len(lengths), name
        self.episode, self.t = -1, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        script = self.episode % len(self.lengths)
        ends, terminates = self.t >= self.lengths[script], self.terminates[script]
        return self._observe(), self.t + float(action) / 10, ends and terminates, ends and not terminates, {}

    def _observe(self) -> np.ndarray:
        return np.array([self.name, self.episode, self.t], np.float32)


def scripted(*lengths: Sequence[int], terminates: Sequence[bool] | None = None) -> SyncVectorEnv:
    """A vector of scripted environments, one for each list of lengths."""
    makers = [lambda i=i, ls=ls: Scripted(ls, terminates, i) for i, ls in enumerate(lengths)]
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP)


def a_run(directory: Path, **facts: Any) -> Run:
    """The facts of a small run; `facts` replace some."""
    known = {"seed": 0, "total_steps": 1000, "eval_every": 100, "eval_episodes": 2}
    return Run(directory=directory, **{**known, **facts})


class Guess:
    """A policy that draws uniformly."""

    device = torch.device("cpu")
    training = True
    gpu_clock = None

    def __init__(self, actions: int = 2):
        self.actions = actions

    def act(self, observation: torch.Tensor, rng: np.random.Generator, *, env_steps: int, explore: bool) -> np.ndarray:
        return rng.integers(self.actions, size=len(observation))


def attach(data: Any, policy: Any) -> Any:
    """The data module as it is once a trainer drives `policy` with it."""
    data.trainer = SimpleNamespace(lightning_module=policy)
    return data


def composed(*overrides: str) -> dict[str, Any]:
    """The configuration of `python src/train.py <overrides>`, resolved."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("train", overrides=list(overrides)), resolve=True)
    return config


def learner(
    kind: Callable[..., Any],
    observations: gym.Space,
    actions: int,
    *,
    network: Callable[..., nn.Module] = Table,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
    lr: float = 0.1,
    **settings: Any,
) -> Any:
    """A learning rule that needs no trainer: `training_step` and `update` work as they are."""
    algorithm = kind(
        observation_space=observations,
        action_space=gym.spaces.Discrete(actions),
        network=network,
        optimizer=lambda parameters: optimizer(parameters, lr=lr),
        **{"gamma": 0.9, "epsilon": Linear(start=0.1, end=0.1, steps=0), **settings},
    )
    made = algorithm.configure_optimizers()
    algorithm.optimizers = lambda: made
    algorithm.manual_backward = lambda loss: loss.backward()
    return algorithm


def a_batch(observation: torch.Tensor, following: torch.Tensor, **fields: Any) -> TensorDict:
    """Transitions [batch]; what `fields` leaves out is 0, or 0.9 for the discount."""
    size = len(observation)
    known = {
        "action": torch.zeros(size, dtype=torch.long),
        "reward": torch.zeros(size),
        "discount": torch.full((size,), 0.9),
        "terminated": torch.zeros(size, dtype=torch.bool),
    }
    return TensorDict({"observation": observation, "next_observation": following, **known, **fields}, batch_size=[size])
