"""Stable-Baselines3's PPO, DDPG, TD3 or SAC with the hyperparameters of `policies.py`.

python benchmarks/peer_sb3_policies.py ppo 40000
"""

import sys
from typing import Any

import policies as bench
import torch
from peer_sb3 import Clock
from stable_baselines3 import DDPG, PPO, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env

FUSED = {"optimizer_kwargs": {"fused": True}}


def model(name: str) -> Any:
    """The algorithm of that name."""
    if name == "ppo":
        return PPO(
            "MlpPolicy",
            make_vec_env("CartPole-v1", n_envs=bench.PPO_ENVS, seed=0),
            n_steps=bench.PPO_STEPS,
            batch_size=bench.PPO_ENVS * bench.PPO_STEPS // bench.PPO_MINIBATCHES,
            n_epochs=bench.PPO_EPOCHS,
            learning_rate=bench.PPO_LR,
            policy_kwargs={"net_arch": [*bench.PPO_HIDDEN], **FUSED},
            device="cpu",
            seed=0,
        )
    kind: Any = {"ddpg": DDPG, "td3": TD3, "sac": SAC}[name]
    return kind(
        "MlpPolicy",
        make_vec_env("Pendulum-v1", n_envs=bench.ENVS, seed=0),
        learning_rate=bench.LR,
        batch_size=bench.BATCH,
        learning_starts=bench.WARMUP,
        train_freq=bench.ROUND_STEPS,
        gradient_steps=bench.ENVS * bench.ROUND_STEPS,
        policy_kwargs={"net_arch": [*bench.HIDDEN], **FUSED},
        device="cpu",
        seed=0,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    clock = Clock(bench.WARMUP)
    model(sys.argv[1]).learn(int(sys.argv[2]), callback=clock)
    print(clock.rate())
