"""Runs of several processes that are started here, without a launcher: many configurations in one set of processes."""

import os
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.commands import checkpoint, forkserver
from tests.supervised import configuration
from torch import Tensor

from downpour import directory as directories


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def train_together(runs: Mapping[Path, Sequence[str]], ranks: int = 2, stop_at: int | None = None) -> None:
    """Train each of `runs` (its directory: its overrides) on `ranks` processes, one run after another.

    A directory that holds a run goes on with it. `stop_at` has all stop after the round that reaches this step.
    """
    jobs = []
    for directory, overrides in runs.items():
        resumed = [f"resume={directory}"] if (directory / "config.yaml").exists() else []
        config = configuration(directory, *overrides, f"trainer.devices={ranks}", *resumed)
        directories.write_config(directory, config, {})
        jobs.append((config, str(directory), free_port()))
    context = forkserver()
    processes = [context.Process(target=_rank, args=(jobs, number, ranks, stop_at)) for number in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(800)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * ranks, codes


def _rank(jobs: list[tuple[dict[str, Any], str, int]], rank: int, ranks: int, stop_at: int | None) -> None:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "GROUP_RANK": 0}
    os.environ.update({name: str(value) for name, value in numbers.items()})
    os.environ.update(TORCHELASTIC_RUN_ID="test", TORCHELASTIC_USE_AGENT_STORE="False", MASTER_ADDR="127.0.0.1")
    import torch.distributed as dist

    from downpour import worker
    from downpour.callbacks.checkpoint import Checkpoint
    from downpour.failures import Stopped

    if stop_at is not None:
        ask = Checkpoint.on_train_batch_end

        def asked(self: Checkpoint, trainer: Any, *rest: Any) -> None:
            if trainer.datamodule.step >= stop_at:
                self._signal = signal.SIGTERM
            ask(self, trainer, *rest)

        Checkpoint.on_train_batch_end = asked  # type: ignore[method-assign]
    for config, directory, port in jobs:
        os.environ["MASTER_PORT"] = str(port)
        try:
            worker.take_part(config, Path(directory) if rank == 0 else Path("/nowhere"))
        except Stopped:
            dist.destroy_process_group()


def weights(run: Path) -> dict[str, Tensor]:
    """Those of a run's last checkpoint."""
    return checkpoint(run)["state_dict"]


def furthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference between two sets of weights."""
    assert one.keys() == other.keys()
    return max(float((value.cpu() - other[name].cpu()).abs().max()) for name, value in one.items())
