"""Stable-Baselines3's DQN with the hyperparameters of `bare_loop.py` and as many updates per step.

python benchmarks/peer_sb3.py 40000 --envs 1
"""

import argparse
import time

import bare_loop as bare
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env


class Clock(BaseCallback):
    """Measures the speed after the warm-up."""

    def __init__(self, warmup: int):
        """
        Args:
            warmup: environment steps that are left out.
        """
        super().__init__()
        self.warmup, self.begin, self.begin_steps = warmup, 0.0, 0

    def _on_step(self) -> bool:
        if self.num_timesteps <= self.warmup:
            self.begin, self.begin_steps = time.perf_counter(), self.num_timesteps
        return True

    def rate(self) -> float:
        """Environment steps per second since the warm-up; at the end of training."""
        return (self.model.num_timesteps - self.begin_steps) / (time.perf_counter() - self.begin)


def train(total_steps: int, envs: int) -> float:
    """Train for `total_steps` environment steps. Returns steps per second after the warm-up."""
    model = DQN(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=envs, seed=0),
        learning_rate=bare.LR,
        buffer_size=bare.CAPACITY,
        learning_starts=bare.WARMUP,
        batch_size=bare.BATCH,
        gamma=bare.GAMMA,
        train_freq=bare.ROUND_STEPS,
        gradient_steps=envs * bare.ROUND_STEPS * bare.UPDATES // (bare.ENVS * bare.ROUND_STEPS),
        target_update_interval=bare.TARGET_EVERY * bare.ENVS * bare.ROUND_STEPS // bare.UPDATES,
        exploration_fraction=bare.EPSILON_STEPS / total_steps,
        exploration_final_eps=0.05,
        max_grad_norm=bare.CLIP,
        policy_kwargs={"net_arch": [120, 84], "optimizer_kwargs": {"fused": True}},
        device="cpu",
        seed=0,
    )
    clock = Clock(bare.WARMUP)
    model.learn(total_steps, callback=clock)
    return clock.rate()


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("steps", type=int)
    parser.add_argument("--envs", type=int, default=1)
    arguments = parser.parse_args()
    print(train(arguments.steps, arguments.envs))
