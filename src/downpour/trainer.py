"""The `trainer` group: hardware, precision, and the Lightning trainer."""

import logging
import os
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import Precision
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from downpour.checkpoints import WholeFile
from downpour.config import ConfigError, NonNegativeInt, PositiveInt
from downpour.precision import Direct, Scaled, of_all
from downpour.run import Run

log = logging.getLogger(__name__)


class Hardware:
    """The hardware of a run: accelerator, processes, threads, precision."""

    def __init__(
        self,
        *,
        accelerator: Literal["cpu", "gpu"],
        devices: PositiveInt = 1,
        nodes: PositiveInt = 1,
        node_rank: NonNegativeInt = 0,
        address: str = "127.0.0.1",
        port: PositiveInt | None = None,
        timeout_seconds: PositiveInt = 60,
        threads: PositiveInt | None = 1,
        precision: Literal["32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"] = "32-true",
        deterministic: bool = False,
        matmul_precision: Literal["highest", "high", "medium"] = "highest",
        cuda_graph: bool = False,
    ):
        """
        Args:
            accelerator: what computes.
            devices: processes on each node, a GPU each if there are GPUs.
            nodes: number of machines.
            node_rank: index of this machine.
            address, port: of node 0; the same on all. No port picks a free one (one node only).
            timeout_seconds: how long nodes wait for each other at the start, and for a heartbeat afterwards.
            threads: CPU threads per process; null leaves Torch's default.
            precision: Lightning's name of a precision.
            deterministic: raise an error for GPU kernels that are not deterministic.
            matmul_precision: Torch's float32 matmul precision, also of convolutions.
            cuda_graph: capture gradient steps in CUDA graphs (see `downpour.graphs`).

        Raises:
            ConfigError: this machine lacks what is asked for.
        """
        self.accelerator, self.devices, self.nodes, self.node_rank = accelerator, devices, nodes, node_rank
        self.address, self.port, self.timeout_seconds, self.threads = address, port, timeout_seconds, threads
        self.precision, self.deterministic = precision, deterministic
        self.matmul_precision, self.cuda_graph = matmul_precision, cuda_graph
        if cuda_graph and accelerator != "gpu":
            advice = f"needs trainer=gpu (trainer.accelerator is {accelerator})"
            raise ConfigError("trainer.cuda_graph", True, advice)
        if accelerator == "gpu" and (found := torch.cuda.device_count()) < devices:
            fits = "trainer=cpu" if found == 0 else "trainer=gpu" if found == 1 else f"trainer.devices={found}"
            several = " (or trainer=ddp_cpu for two processes)" if found == 0 and devices > 1 else ""
            raise ConfigError(
                "trainer.devices", devices, f"needs {devices} GPU(s), this machine has {found}: use {fits}{several}"
            )
        if nodes > 1 and port is None:
            raise ConfigError("trainer.port", None, "must be set for several nodes, to the same port on all of them")
        if node_rank >= nodes:
            raise ConfigError("trainer.node_rank", node_rank, f"must be below trainer.nodes={nodes}")

    @property
    def world_size(self) -> int:
        """Processes in all."""
        return self.devices * self.nodes

    def apply(self) -> None:
        """Apply the settings to Torch in this process."""
        if self.threads:
            torch.set_num_threads(self.threads)
        torch.set_flush_denormal(True)  # optimizer state of gradients that stay 0 decays into denormals: 10 x slower
        torch.set_float32_matmul_precision(self.matmul_precision)
        torch.backends.cudnn.allow_tf32 = self.matmul_precision != "highest"

    def warn_of_crowding(self, servers: int = 0) -> None:
        """Warn if the processes of node 0, including `servers`, must share cores."""
        processes, there = self.devices + servers, cores()
        if self.accelerator == "cpu" and processes > there:
            share = f"each of the {processes} processes gets {there / processes:.2g} of a core"
            log.warning("trainer.devices=%d, but this machine has only %d core(s): %s", self.devices, there, share)

    def check_world(self, world_size: int) -> None:
        """Compare with the processes that an external torchrun has started.

        Raises:
            ConfigError: other numbers of processes.
        """
        here = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
        if (here, world_size) != (self.devices, self.world_size):
            advice = f"torchrun started {here} of {world_size} process(es) here: use trainer=ddp_cpu or another "
            advice += f"with trainer.devices={here} trainer.nodes={world_size // here}, or do not use torchrun"
            raise ConfigError("trainer.devices", self.devices, advice)


def cores() -> int:
    """Number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_trainer(
    hardware: Hardware, run: Run, strategy: Any, callbacks: list[Callback], loggers: list[Logger], detect_anomaly: bool
) -> Trainer:
    """A Lightning trainer without the parts that this project replaces.

    Raises:
        ConfigError: hardware, strategy and precision do not go together.
    """
    plain = strategy == "auto" or isinstance(strategy, DDPStrategy)
    precision: Precision | None = None
    if plain and hardware.precision == "32-true" and Direct.serves(callbacks):
        precision = Direct()
    elif plain and hardware.precision == "16-mixed" and hardware.accelerator == "gpu":
        precision = Scaled("16-mixed", "cuda")
    else:
        precision = of_all(hardware.precision)
    try:
        trainer = Trainer(
            accelerator=hardware.accelerator,
            devices=1 if run.asynchronous else hardware.devices,
            num_nodes=1 if run.asynchronous else hardware.nodes,
            strategy=strategy,
            plugins=[WholeFile(), precision] if precision else [WholeFile()],
            precision=None if precision else hardware.precision,
            deterministic=hardware.deterministic,
            detect_anomaly=detect_anomaly,
            callbacks=callbacks,
            logger=loggers,
            max_epochs=-1,  # the stream ends the run
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=run.directory,
        )
    except (ValueError, MisconfigurationException) as error:
        chosen = f"{hardware.accelerator}, {hardware.precision}"
        raise ConfigError("trainer", chosen, f"is not compatible with the strategy ({error})") from error
    # Signals are the Checkpoint callback's: Lightning's handler broadcasts from inside a signal, which can cross other
    # collectives, and it asks all ranks once more before each batch, which costs a small network 15 to 30 %.
    internals: Any = trainer
    internals._signal_connector.register_signal_handlers = _nothing
    internals.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing
    return trainer


def _nothing() -> None:
    pass
