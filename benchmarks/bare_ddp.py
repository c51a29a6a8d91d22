"""A bare loop: the same network, batch and optimizer with DistributedDataParallel and no framework.

python -m torch.distributed.run --nproc-per-node=2 benchmarks/bare_ddp.py MODEL

Prints seconds per gradient step. Each rank draws batches by index from a data set in memory, as this framework does.
"""

import sys
import time
from typing import NamedTuple

import torch
import torch.distributed as dist
from digits import WIDTHS, network, training_rows
from torch.nn.parallel import DistributedDataParallel

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
    "mlp, 0.02 M weights, batch 64": Task("mlp", WIDTHS["mlp"], 64, 2_000),
    "mlp, 1.3 M weights, batch 64": Task("mlp", {"hidden": [1100, 1100]}, 64, 150),
    "convnet, 0.05 M weights, batch 64": Task("convnet", WIDTHS["convnet"], 64, 300),
    "convnet, 0.05 M weights, batch 512": Task("convnet", WIDTHS["convnet"], 512, 40),
}


def step_time(task: Task) -> float:
    """Seconds per gradient step, after a warm-up of a fifth as many."""
    torch.manual_seed(0)
    x, y = training_rows()
    net = DistributedDataParallel(network(task.model, task.widths), gradient_as_bucket_view=True)
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
