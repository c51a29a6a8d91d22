"""A bare loop: the same rounds of DQN without a framework, with NumPy arrays for replay and plain Torch.

python benchmarks/bare_loop.py 40000
"""

import copy
import sys
import time

import gymnasium as gym
import numpy as np
import torch
from torch import nn

ENVS, ROUND_STEPS, UPDATES, BATCH, CAPACITY, WARMUP = 8, 8, 8, 128, 10_000, 1_000
GAMMA, LR, TARGET_EVERY, CLIP, EPSILON_STEPS = 0.99, 2.5e-4, 500, 10.0, 10_000


def train(total_steps: int) -> float:
    """Train DQN on CartPole-v1 for `total_steps` environment steps. Returns steps per second after the warm-up."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    envs = gym.make_vec("CartPole-v1", ENVS, vectorization_mode="vector_entry_point")
    q = nn.Sequential(nn.Linear(4, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 2))
    target = copy.deepcopy(q).requires_grad_(False)
    optimizer = torch.optim.Adam(q.parameters(), lr=LR, fused=True)
    observations, next_observations = np.zeros((CAPACITY, 4), np.float32), np.zeros((CAPACITY, 4), np.float32)
    actions, rewards, ended = np.zeros(CAPACITY, np.int64), np.zeros(CAPACITY, np.float32), np.zeros(CAPACITY, bool)
    size = cursor = steps = updates = begin_steps = 0
    observation, _ = envs.reset(seed=0)
    done = np.zeros(ENVS, bool)
    begin = time.perf_counter()
    while steps < total_steps:
        for _ in range(ROUND_STEPS):
            with torch.no_grad():
                action = q(torch.from_numpy(observation)).argmax(-1).numpy()
            epsilon = max(0.05, 1 - 0.95 * steps / EPSILON_STEPS)
            action = np.where(rng.random(ENVS) < epsilon, rng.integers(2, size=ENVS), action)
            new, reward, terminated, truncated, _ = envs.step(action)
            kept = np.flatnonzero(~done)
            rows = (cursor + np.arange(len(kept))) % CAPACITY
            observations[rows], next_observations[rows] = observation[kept], new[kept]
            actions[rows], rewards[rows], ended[rows] = action[kept], reward[kept], terminated[kept]
            cursor, size = (cursor + len(kept)) % CAPACITY, min(size + len(kept), CAPACITY)
            observation, done = new, terminated | truncated
            steps += ENVS
        if steps <= WARMUP:
            begin, begin_steps = time.perf_counter(), steps
            continue
        drawn = torch.from_numpy(rng.integers(size, size=UPDATES * BATCH))
        arrays = (observations, actions, rewards, next_observations, ended)
        batches = [torch.from_numpy(array)[drawn].split(BATCH) for array in arrays]
        for x, a, r, y, terminal in zip(*batches, strict=True):
            with torch.no_grad():
                td_target = r + GAMMA * ~terminal * target(y).amax(-1)
            loss = nn.functional.smooth_l1_loss(q(x).gather(-1, a.unsqueeze(-1)).squeeze(-1), td_target)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(q.parameters(), CLIP)
            optimizer.step()
            updates += 1
            if updates % TARGET_EVERY == 0:
                target.load_state_dict(q.state_dict())
    return (steps - begin_steps) / (time.perf_counter() - begin)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as the framework does
    print(train(int(sys.argv[1])))
