"""A bare loop on pixels: the rounds of `experiment/scale=minatar` and `=atari` without a framework, in plain Torch.

python benchmarks/bare_pixels.py minatar STEPS WARMUP THREADS [bf16]

The ring stores each screen once, with a column per environment; Atari's emulators run while the network learns.
"""

import copy
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import nn

from downpour.optimizers import RMSprop

ENVS, BATCH, CAPACITY, GAMMA, LR = 8, 32, 50_000, 0.99, 2.5e-4
FLAGS = ("first", "terminated")


class Ring:
    """A ring of the newest screens, rows [steps, ENVS], from which pairs of stacks are sampled."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, stack: int):
        self.steps, self.stack, self.count = CAPACITY // ENVS, stack, 0
        self.screens = torch.zeros((self.steps, ENVS, *shape), dtype=dtype)
        self.actions = torch.zeros(self.steps, ENVS, dtype=torch.long)
        self.rewards = torch.zeros(self.steps, ENVS)
        self.flags = {name: torch.zeros(self.steps, ENVS, dtype=torch.bool) for name in FLAGS}

    def add(self, screen: np.ndarray, action: Any, reward: Any, first: Any, terminated: Any) -> None:
        row = self.count % self.steps
        self.screens[row] = torch.from_numpy(screen)
        self.actions[row], self.rewards[row] = torch.as_tensor(action), torch.as_tensor(reward)
        self.flags["first"][row], self.flags["terminated"][row] = torch.as_tensor(first), torch.as_tensor(terminated)
        self.count += 1

    def sample(self, rng: np.random.Generator, size: int) -> tuple[torch.Tensor, ...]:
        kept = min(self.count, self.steps)
        while True:  # more than needed, as rows of resets are not transitions
            age = torch.from_numpy(rng.integers(0, kept - self.stack, size + size // 4 + 8))
            row = (self.count - 1 - age) % self.steps
            env = torch.from_numpy(rng.integers(0, ENVS, len(row)))
            good = (~self.flags["first"][row, env]).nonzero().squeeze(-1)[:size]
            if len(good) == size:
                break
        row, env = row[good], env[good]
        rows = (row.unsqueeze(-1) - torch.arange(self.stack, -1, -1)) % self.steps
        first = self.flags["first"][rows, env.unsqueeze(-1)].long()
        frames = self.screens[rows, env.unsqueeze(-1)]
        missing = (first.sum(-1, keepdim=True) > first.cumsum(-1)).nonzero()
        frames[missing[:, 0], missing[:, 1]] = 0
        before, after = (frames[:, 0], frames[:, 1]) if self.stack == 1 else (frames[:, :-1], frames[:, 1:])
        return before, self.actions[row, env], self.rewards[row, env], after, self.flags["terminated"][row, env]


class Bytes(nn.Module):
    """Converts pixels to floats in [0, 1]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.float() / 255).contiguous(memory_format=torch.channels_last)


class Cells(nn.Module):
    """Converts bits to floats."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float()


class MinAtar:
    """Eight games of the library; a reset takes the place of the step after the end of an episode."""

    network = staticmethod(
        lambda actions: nn.Sequential(
            *(Cells(), nn.Conv2d(4, 16, 3), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, actions)),
        )
    )
    shape, dtype, stack, updates, target_every, actions = (4, 10, 10), torch.bool, 1, 8, 1_000, 6

    def __init__(self) -> None:
        from minatar.environment import Environment

        self.games = [Environment("breakout", 0.1, True) for _ in range(ENVS)]
        for i, game in enumerate(self.games):
            game.seed(i)
            game.reset()
        self.over = np.zeros(ENVS, bool)

    def observe(self) -> np.ndarray:
        return np.stack([game.env.state().transpose(2, 0, 1) for game in self.games])

    def send(self, action: np.ndarray) -> None:
        self.action = action

    def recv(self) -> tuple[np.ndarray, ...]:
        first, reward, terminated = self.over.copy(), np.zeros(ENVS, np.float32), np.zeros(ENVS, bool)
        for i, game in enumerate(self.games):
            if first[i]:
                game.reset()
            else:
                reward[i], terminated[i] = game.act(int(self.action[i]))
        self.over = terminated
        return self.observe(), reward, first, terminated


class Atari:
    """Eight emulators of ale-py, four frames per step; the loss of a life counts as a terminal state for learning."""

    network = staticmethod(
        lambda actions: nn.Sequential(
            *(Bytes(), nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3)),
            *(nn.ReLU(), nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, actions)),
        ).to(memory_format=torch.channels_last)
    )
    shape, dtype, stack, updates, target_every, actions = (84, 84), torch.uint8, 4, 2, 10_000, 4

    def __init__(self) -> None:
        from ale_py.vector_env import AtariVectorEnv
        from gymnasium.vector import AutoresetMode

        options: dict[str, Any] = {"use_fire_reset": False, "reward_clipping": False, "episodic_life": False}
        self.games = AtariVectorEnv("breakout", ENVS, autoreset_mode=AutoresetMode.NEXT_STEP, **options)
        self.observation, info = self.games.reset(seed=0)
        self.lives, self.over = info["lives"], np.zeros(ENVS, bool)

    def observe(self) -> np.ndarray:
        return self.observation

    def send(self, action: np.ndarray) -> None:
        self.games.send(action)

    def recv(self) -> tuple[np.ndarray, ...]:
        self.observation, reward, terminated, truncated, info = self.games.recv()
        first, lost = self.over, (info["lives"] < self.lives) & ~self.over
        self.lives, self.over = info["lives"], terminated | truncated
        return self.observation, np.clip(reward, -1, 1), first, terminated | lost


def train(games: Any, total_steps: int, warmup: int, mixed: bool) -> float:
    """Train DQN for `total_steps` environment steps. Returns steps per second after the warm-up."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    q = games.network(games.actions)
    target = copy.deepcopy(q).requires_grad_(False)
    inside = isinstance(games, Atari)  # the constant, under the root
    optimizer = RMSprop(q.parameters(), lr=LR, alpha=0.95, eps=0.01, eps_inside=inside, centered=True)
    ring = Ring(games.shape, games.dtype, games.stack)
    newest = (lambda screens: screens) if games.stack == 1 else (lambda screens: screens[:, -1])
    ring.add(newest(games.observe()), 0, 0.0, True, False)
    steps = updates = 0
    begin, begin_steps = time.perf_counter(), 0
    while steps < total_steps:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            greedy = q(torch.from_numpy(games.observe())).argmax(-1).numpy()
        action = np.where(rng.random(ENVS) < 0.1, rng.integers(games.actions, size=ENVS), greedy)
        games.send(action)  # the emulators run while the network learns
        if steps > warmup:
            batches = [column.split(BATCH) for column in ring.sample(rng, games.updates * BATCH)]
            for x, a, r, y, terminal in zip(*batches, strict=True):
                with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                    with torch.no_grad():
                        td_target = r + GAMMA * ~terminal * target(y).amax(-1).float()
                    value = q(x).gather(-1, a.unsqueeze(-1)).squeeze(-1).float()
                loss = nn.functional.smooth_l1_loss(value, td_target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                updates += 1
                if updates % games.target_every == 0:
                    target.load_state_dict(q.state_dict())
        else:
            begin, begin_steps = time.perf_counter(), steps
        screens, reward, first, terminated = games.recv()
        ring.add(newest(screens), action, reward, first, terminated)
        steps += ENVS
    return (steps - begin_steps) / (time.perf_counter() - begin)


if __name__ == "__main__":
    scale, steps, warmup, threads = sys.argv[1], *map(int, sys.argv[2:5])
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # as the framework does
    print(train(Atari() if scale == "atari" else MinAtar(), steps, warmup, "bf16" in sys.argv))
