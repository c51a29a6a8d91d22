"""Stable-Baselines3's DQN on pixels, with the network, hyperparameters and gradient steps of `pixels.py`.

python benchmarks/peer_sb3_pixels.py minatar STEPS WARMUP ENVS THREADS
"""

import sys

import ale_py
import gymnasium as gym
import numpy as np
import torch
from minatar.gym import BaseEnv
from peer_sb3 import Clock
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack
from torch import nn

from downpour.optimizers import RMSprop


class Convolutions(BaseFeaturesExtractor):
    """The convolution of MinAtar's paper, with 16 kernels."""

    def __init__(self, space: gym.Space):
        super().__init__(space, 16 * 8 * 8)
        self.layers = nn.Sequential(nn.Conv2d(space.shape[0], 16, 3), nn.ReLU(), nn.Flatten())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x.float())


class Cells(gym.ObservationWrapper):
    """MinAtar's environment with observations as floats, channels first."""

    def __init__(self):
        super().__init__(BaseEnv("breakout"))
        height, width, channels = self.env.observation_space.shape
        self.observation_space = gym.spaces.Box(0, 1, (channels, height, width), np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation.transpose(2, 0, 1).astype(np.float32)


def train(scale: str, steps: int, warmup: int, envs: int) -> float:
    """Train for `steps` environment steps. Returns steps per second after the warm-up."""
    optimizer = {"alpha": 0.95, "eps": 0.01, "eps_inside": scale == "atari", "centered": True}
    policy = {"optimizer_class": RMSprop, "optimizer_kwargs": optimizer}
    common = {"learning_rate": 2.5e-4, "buffer_size": 50_000, "learning_starts": warmup, "batch_size": 32, "seed": 0}
    if scale == "minatar":
        environment = DummyVecEnv([Cells] * envs)
        policy |= {"features_extractor_class": Convolutions, "net_arch": [128]}
        model = DQN(
            "MlpPolicy",
            environment,
            train_freq=1,
            gradient_steps=envs,
            target_update_interval=1_000,
            policy_kwargs=policy,
            **common,
        )
    else:
        gym.register_envs(ale_py)
        environment = VecFrameStack(make_atari_env("ALE/Breakout-v5", n_envs=envs), 4)
        model = DQN(
            "CnnPolicy",
            environment,
            train_freq=4 if envs == 1 else 1,
            gradient_steps=max(1, envs // 4),
            target_update_interval=40_000,
            policy_kwargs=policy,
            optimize_memory_usage=False,
            **common,
        )
    clock = Clock(warmup)
    model.learn(steps, callback=clock)
    return clock.rate()


if __name__ == "__main__":
    scale, steps, warmup, envs, threads = sys.argv[1], *map(int, sys.argv[2:6])
    torch.set_num_threads(threads)
    print(train(scale, steps, warmup, envs))
