"""The limit: the same network, batch and optimizer under Torch's DistributedDataParallel, with no framework at all.

python -m torch.distributed.run --nproc-per-node=2 benchmarks/bare_ddp.py MODEL STEPS

Prints gradient steps a second. Each rank draws batches by index from a data set in memory, as this framework does.
"""

import sys
import time

import gymnasium as gym
import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from downpour.data.sources import Digits
from downpour.networks import MLP, ConvNet

BATCH, LR = 64, 5e-4
# What is measured: model= and its options, and gradient steps.
MODELS: dict[str, tuple[str, dict[str, list[int]], int]] = {
    "mlp, 0.02 M weights": ("mlp", {"hidden": [120, 84]}, 4_000),
    "mlp, 1.3 M weights": ("mlp", {"hidden": [1100, 1100]}, 400),
    "convnet, 0.15 M weights": ("convnet", {"channels": [32, 64], "hidden": [128]}, 600),
    "convnet, 1.2 M weights": ("convnet", {"channels": [128, 256], "hidden": [256]}, 100),
}


def network(name: str) -> torch.nn.Module:
    """As conf/model has it, with these widths."""
    model, widths, _ = MODELS[name]
    space = gym.spaces.Box(-np.inf, np.inf, (1, 8, 8), np.float32)
    options: dict = widths if model == "mlp" else {**widths, "initialization": "he"}
    return (MLP if model == "mlp" else ConvNet)(space, 10, **options)


def main(name: str, steps: int) -> float:
    """Gradient steps a second, after a fifth of them."""
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    samples = Digits().load()
    x, y = torch.from_numpy(samples.inputs[:1258]), torch.from_numpy(samples.targets[:1258])
    net = DistributedDataParallel(network(name), gradient_as_bucket_view=True)
    optimizer = torch.optim.Adam(net.parameters(), lr=LR, fused=True)
    generator = torch.Generator().manual_seed(dist.get_rank())
    done, begin = 0, 0.0
    while done < steps + steps // 5:
        order = torch.randperm(len(x), generator=generator)
        for index in order.split(BATCH)[:-1]:
            if done == steps // 5:
                begin = time.perf_counter()
            loss = torch.nn.functional.cross_entropy(net(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
    speed = (done - steps // 5) / (time.perf_counter() - begin)
    if dist.get_rank() == 0:
        print(speed)
    dist.destroy_process_group()
    return speed


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], int(sys.argv[2]))
