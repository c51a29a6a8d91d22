"""One rank of a run of several processes. It reads the resolved configuration; it never sees Hydra."""

import signal

if __name__ == "__main__":  # until training installs its own handlers, a signal ends a rank without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import contextlib
import multiprocessing.util
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
import yaml

from downpour import directory as directories
from downpour.experiment import fit
from downpour.failures import explain
from downpour.launch import report
from downpour.nodes import note_rank
from downpour.processes import end_with
from downpour.run import process


def main(config_file: str, directory: str, launcher: int) -> None:
    """Run this rank; report a failure to the launcher."""
    config: dict[str, Any] = {}
    try:
        end_with(launcher)  # a rank must not go on writing; where it would, the lock on the directory helps
        note_rank(Path(config_file).parent, process()[0])
        config = yaml.safe_load(Path(config_file).read_text())
        take_part(config, Path(directory))
    except Exception as error:
        if config.get("debug", {}).get("traceback"):
            traceback.print_exc()
        failed = explain(error, Path(directory))
        report(Path(config_file).parent, process()[0], failed)
        leave(failed.code)


def take_part(config: Mapping[str, Any], directory: Path) -> None:
    """Join the other ranks, agree on rank 0's configuration and directory, train."""
    rank, world_size = process()
    use_gpu = config["trainer"]["accelerator"] == "gpu"
    if use_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if use_gpu else "gloo")
    count = torch.ones(1)
    dist.all_reduce(count)
    if int(count) != world_size:
        raise RuntimeError(f"{int(count)} processes answered, {world_size} were started")
    agreed: list[Any] = [dict(config), directory]
    dist.broadcast_object_list(agreed, src=0)
    config, directory = agreed
    if rank == 0:
        with directories.locked(directory, shared=True):
            directories.log_to(directory)
            fit(config, directory)
    else:
        directories.log_to(None)
        fit(config, directory)
    dist.destroy_process_group()  # Lightning leaves the gloo group open, which crashes at exit


def leave(code: int) -> NoReturn:
    """End this process immediately: in a normal exit the threads of a failed process group would abort or hang."""
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(Exception):
        multiprocessing.util._exit_function()  # type: ignore[attr-defined]  # ends what it has started, gives semaphores back
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
