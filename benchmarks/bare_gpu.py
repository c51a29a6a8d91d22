"""A bare loop on a GPU, without a framework: the gradient steps of a round are one CUDA graph.

    python benchmarks/bare_gpu.py cartpole|minatar|atari STEPS WARMUP [bf16]     prints environment steps per second
    python benchmarks/bare_gpu.py convnet GRADIENT_STEPS WARMUP                  prints gradient steps per second

Networks, environments and RMSprop are the project's, so that both compute the same.
"""

import contextlib
import copy
import sys
import time
from collections.abc import Callable
from typing import Any

import bare_loop
import gymnasium as gym
import numpy as np
import torch
from digits import network, training_rows
from torch import Tensor, nn

from downpour.environments import Atari, MinAtar
from downpour.networks import MLP, StridedConvNet
from downpour.optimizers import RMSprop

ENVS, CAPACITY, BATCH = 8, 20_000, {"cartpole": bare_loop.BATCH, "minatar": 32, "atari": 32, "convnet": 64}
ROUND_STEPS, UPDATES = {"cartpole": 8, "minatar": 1, "atari": 1}, {"cartpole": 8, "minatar": 8, "atari": 2}
TARGET_EVERY = {"cartpole": 500, "minatar": 1_000, "atari": 10_000}
NATURE, SIXTEEN = [(32, 8, 4), (64, 4, 2), (64, 3, 1)], [(16, 3, 1)]


def make(scale: str) -> tuple[Any, nn.Module, Any]:
    """(vector environment, network, optimizer)."""
    if scale == "cartpole":
        envs: Any = gym.make_vec("CartPole-v1", ENVS, vectorization_mode="vector_entry_point")
        q: nn.Module = MLP(envs.single_observation_space, 2, hidden=[120, 84])
    elif scale == "minatar":
        envs = MinAtar(game="breakout").vector(ENVS)
        q = StridedConvNet(envs.single_observation_space, 6, convolutions=SIXTEEN, hidden=[128])
    else:
        envs = Atari(game="breakout").vector(ENVS)
        actions = int(envs.single_action_space.n)
        q = StridedConvNet(
            envs.single_observation_space, actions, convolutions=NATURE, hidden=[512], channels_last=True
        )
    q = q.cuda()
    if scale == "cartpole":
        return envs, q, torch.optim.Adam(q.parameters(), lr=bare_loop.LR, fused=True)
    return envs, q, RMSprop(q.parameters(), lr=2.5e-4, alpha=0.95, eps=0.01, eps_inside=scale == "atari", centered=True)


def captured(step: Callable[[], None], optimizer: Any) -> Callable[[], None]:
    """`step` as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    for group in optimizer.param_groups:
        group["capturable"] = True
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def play(scale: str, total_steps: int, warmup: int, half: bool) -> float:
    """Train DQN; returns environment steps per second after twice the warm-up."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    envs, q, optimizer = make(scale)
    target = copy.deepcopy(q).requires_grad_(False)
    batch, updates = BATCH[scale], UPDATES[scale]
    rows = updates * batch
    space = envs.single_observation_space
    kind = {np.dtype(np.uint8): torch.uint8, np.dtype(bool): torch.bool}.get(space.dtype, torch.float32)
    shapes = {"x": (kind, space.shape), "y": (kind, space.shape), "a": (torch.int64, ()), "r": (torch.float32, ())}
    shapes["end"] = (torch.bool, ())
    ring = {name: torch.zeros(CAPACITY, *shape, dtype=dtype) for name, (dtype, shape) in shapes.items()}
    pinned = {name: torch.empty(rows, *s, dtype=d, pin_memory=True) for name, (d, s) in shapes.items()}
    on_gpu = {name: value.cuda() for name, value in pinned.items()}

    def precision() -> Any:
        if not half:
            return contextlib.nullcontext()
        return torch.autocast("cuda", torch.bfloat16, cache_enabled=False)

    def learn() -> None:
        for part in range(updates):
            drawn = {name: value[part * batch : (part + 1) * batch] for name, value in on_gpu.items()}
            with precision():
                with torch.no_grad():
                    td_target = drawn["r"] + 0.99 * ~drawn["end"] * target(drawn["y"]).amax(-1)
                value = q(drawn["x"]).gather(-1, drawn["a"].unsqueeze(-1)).squeeze(-1)
                loss = nn.functional.smooth_l1_loss(value.float(), td_target.float())
            optimizer.zero_grad()
            loss.backward()
            if scale == "cartpole":
                nn.utils.clip_grad_norm_(q.parameters(), bare_loop.CLIP, foreach=True)
            optimizer.step()

    @torch.no_grad()
    def act(observation: np.ndarray) -> np.ndarray:
        with precision():
            best = q(torch.from_numpy(observation).cuda()).argmax(-1).cpu().numpy()
        return np.where(rng.random(ENVS) < 0.1, rng.integers(int(envs.single_action_space.n), size=ENVS), best)

    observation, _ = envs.reset(seed=0)
    done, splits_steps = np.zeros(ENVS, bool), scale == "atari"
    action, replay = np.zeros(ENVS, np.int64), None
    steps = cursor = size = updates_made = begin_steps = 0
    begin = 0.0
    if splits_steps:
        envs.send(action := act(observation))
    while steps < total_steps:
        for _ in range(ROUND_STEPS[scale]):
            if not splits_steps:
                action = act(observation)
            new, reward, terminated, truncated, info = envs.recv() if splits_steps else envs.step(action)
            kept = np.flatnonzero(~done)
            positions = torch.from_numpy((cursor + np.arange(len(kept))) % CAPACITY)
            columns = {"x": observation, "y": new, "a": action, "r": info.get("learned_reward", reward)}
            columns["end"] = info.get("learned_terminated", terminated)
            for name, value in columns.items():
                ring[name][positions] = torch.from_numpy(np.asarray(value)[kept]).to(ring[name].dtype)
            cursor, size = (cursor + len(kept)) % CAPACITY, min(size + len(kept), CAPACITY)
            observation, done = np.array(new), terminated | truncated
            steps += ENVS
        if steps > warmup:
            drawn = torch.from_numpy(rng.integers(size, size=rows))
            torch.cuda.current_stream().synchronize()  # the buffers have been read
            for name, host in pinned.items():
                torch.index_select(ring[name], 0, drawn, out=host)
                on_gpu[name].copy_(host, non_blocking=True)
        if splits_steps:
            envs.send(action := act(observation))
        if steps <= warmup:
            continue
        if replay is None:
            replay = captured(learn, optimizer)
        replay()
        updates_made += updates
        if updates_made % TARGET_EVERY[scale] < updates:  # passed in this round
            torch._foreach_copy_(list(target.parameters()), list(q.parameters()))
        if not begin_steps and steps > 2 * warmup:
            torch.cuda.synchronize()
            begin, begin_steps = time.perf_counter(), steps
    torch.cuda.synchronize()
    return (steps - begin_steps) / (time.perf_counter() - begin)


def fit(steps: int, warmup: int) -> float:
    """Fit the convolutional network to the digits; returns gradient steps per second."""
    x, y = (values.cuda() for values in training_rows())
    net = network("convnet").cuda()
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-4, fused=True)
    index: Tensor = torch.zeros(BATCH["convnet"], dtype=torch.int64, device="cuda")

    def learn() -> None:
        loss = nn.functional.cross_entropy(net(x[index]), y[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    replay = captured(learn, optimizer)
    done, begin = 0, 0.0
    while done < steps:
        for rows in torch.randperm(len(x), device="cuda").split(len(index))[:-1]:
            if done == warmup:
                torch.cuda.synchronize()
                begin = time.perf_counter()
            index.copy_(rows)
            replay()
            done += 1
    torch.cuda.synchronize()
    return (done - warmup) / (time.perf_counter() - begin)


if __name__ == "__main__":
    scale, steps, warmup = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(4)
    torch.backends.cudnn.allow_tf32 = False  # as trainer.matmul_precision=highest
    print(fit(steps, warmup) if scale == "convnet" else play(scale, steps, warmup, "bf16" in sys.argv))
