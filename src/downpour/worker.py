"""One rank of a run of several processes. It reads the resolved configuration; it never sees Hydra."""

import ctypes
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import yaml

from downpour import cli
from downpour.run import process


def main(config_file: str, directory: str) -> int:
    """Join the other ranks, agree on rank 0's configuration and directory, train."""
    from downpour import directory as directories
    from downpour import experiment

    _die_with_parent()
    rank, world_size = process()
    config = yaml.safe_load(Path(config_file).read_text())
    use_gpu = config["trainer"]["accelerator"] == "gpu"
    if use_gpu:
        torch.cuda.set_device(rank % config["trainer"]["devices"])
    dist.init_process_group("cpu:gloo,cuda:nccl" if use_gpu else "gloo")
    count = torch.ones(1)
    dist.all_reduce(count)
    if int(count) != world_size:
        raise RuntimeError(f"{int(count)} processes answered, {world_size} were started")
    agreed = [config, directory]
    dist.broadcast_object_list(agreed, src=0)
    config, directory = agreed
    directories.log_to(Path(directory) if rank == 0 else None)
    failed = cli.guarded(lambda: experiment.fit(config, Path(directory)), config, Path(directory), quiet=rank != 0)
    if failed == 0:
        dist.destroy_process_group()  # Lightning leaves a gloo group to crash at exit
    return failed


def _die_with_parent() -> None:
    """Without its launcher a rank must not go on writing (Linux only; elsewhere the lock on the directory helps)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
