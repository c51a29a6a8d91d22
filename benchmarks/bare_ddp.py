"""A bare loop: the same network, batch and optimizer with DistributedDataParallel and no framework.

python -m torch.distributed.run --nproc-per-node=2 benchmarks/bare_ddp.py MODEL

Prints seconds per gradient step. Each rank draws batches by index from a data set in memory, as this framework does.
"""

import sys
import time
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from downpour.data.sources import Digits
from downpour.networks import MLP, ConvNet

LR = 5e-4


class Task(NamedTuple):
    """A task to measure.

    Attributes:
        model, widths: model= and its options.
        batch: samples per gradient step of each process.
        steps: gradient steps that are timed.
    """

    model: str
    widths: dict[str, list[int]]
    batch: int
    steps: int


TASKS = {
    "mlp, 0.02 M weights, batch 64": Task("mlp", {"hidden": [120, 84]}, 64, 2_000),
    "mlp, 1.3 M weights, batch 64": Task("mlp", {"hidden": [1100, 1100]}, 64, 150),
    "convnet, 0.15 M weights, batch 64": Task("convnet", {"channels": [32, 64], "hidden": [128]}, 64, 300),
    "convnet, 0.15 M weights, batch 512": Task("convnet", {"channels": [32, 64], "hidden": [128]}, 512, 40),
}


def network(task: Task) -> torch.nn.Module:
    """The network of conf/model with the widths of the task."""
    space = gym.spaces.Box(-np.inf, np.inf, (1, 8, 8), np.float32)
    options: dict = task.widths if task.model == "mlp" else {**task.widths, "initialization": "he"}
    return (MLP if task.model == "mlp" else ConvNet)(space, 10, **options)


def step_time(task: Task) -> float:
    """Seconds per gradient step, after a warm-up of a fifth as many."""
    torch.manual_seed(0)
    samples = Digits().load()
    x, y = torch.from_numpy(samples.inputs[:1258]), torch.from_numpy(samples.targets[:1258])
    net = DistributedDataParallel(network(task), gradient_as_bucket_view=True)
    optimizer = torch.optim.Adam(net.parameters(), lr=LR, fused=True)
    generator = torch.Generator().manual_seed(dist.get_rank())
    done, begin, warm = 0, 0.0, task.steps // 5
    while done < task.steps + warm:
        for index in torch.randperm(len(x), generator=generator).split(task.batch)[:-1]:
            if done == warm:
                begin = time.perf_counter()
            loss = torch.nn.functional.cross_entropy(net(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
    return (time.perf_counter() - begin) / (done - warm)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as the framework does
    dist.init_process_group("gloo")
    seconds = step_time(TASKS[sys.argv[1]])
    if dist.get_rank() == 0:
        print(seconds)
    dist.destroy_process_group()
