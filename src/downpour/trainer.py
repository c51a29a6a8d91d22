"""The hardware a run asks for, and the Lightning trainer that drives it."""

from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import Precision
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor

from downpour.config import ConfigError, NonNegativeInt, PositiveInt


class LeanPrecision(Precision):
    """32 bits, without three hooks of every callback at every gradient step.

    On a small network those calls cost as much as the update; the gradient is made and applied as ever.
    """

    def pre_backward(self, tensor: Tensor, module: LightningModule) -> Tensor:  # type: ignore[override]
        return tensor

    def post_backward(self, tensor: Tensor, module: LightningModule) -> Tensor:  # type: ignore[override]
        return tensor.detach()

    def _after_closure(self, model: LightningModule, optimizer: Any) -> None:
        pass


class Hardware:
    """What the `trainer` group says: on what, and in how many processes, a run is computed."""

    def __init__(
        self,
        *,
        accelerator: Literal["cpu", "gpu"],
        devices: PositiveInt = 1,
        nodes: PositiveInt = 1,
        node_rank: NonNegativeInt = 0,
        address: str = "127.0.0.1",
        port: PositiveInt | None = None,
        threads: PositiveInt | None = 1,
        precision: Literal["32-true", "16-mixed", "bf16-mixed", "bf16-true"] = "32-true",
        deterministic: bool = False,
    ):
        """
        Args:
            accelerator: what computes.
            devices: processes on each node, a GPU each if there are GPUs.
            nodes: machines.
            node_rank: which of them this is.
            address, port: of node 0; the same on all. No port picks a free one (one node only).
            threads: threads a process computes with on the CPU; null leaves Torch's choice.
            precision: of the arithmetic, in Lightning's words.
            deterministic: refuse GPU kernels whose results vary from run to run.

        Raises:
            ConfigError: the machine has not what is asked for.
        """
        self.accelerator, self.devices, self.nodes, self.node_rank = accelerator, devices, nodes, node_rank
        self.address, self.port, self.threads = address, port, threads
        self.precision, self.deterministic = precision, deterministic
        if accelerator == "gpu" and (found := torch.cuda.device_count()) < devices:
            fits = "trainer=cpu" if found == 0 else "trainer=gpu" if found == 1 else f"trainer.devices={found}"
            several = " (or trainer=ddp_cpu for two processes)" if found == 0 and devices > 1 else ""
            raise ConfigError(
                "trainer.devices", devices, f"needs {devices} GPU(s), this machine has {found}: use {fits}{several}"
            )
        if nodes > 1 and port is None:
            raise ConfigError("trainer.port", None, "several nodes need a port that all agree on")
        if node_rank >= nodes:
            raise ConfigError("trainer.node_rank", node_rank, f"must be below trainer.nodes={nodes}")

    def arithmetic(self, strategy: Any) -> dict[str, Any]:
        """What Lightning's Trainer is told of the precision; strategies that shard bring their own plugin."""
        if self.precision == "32-true" and not isinstance(strategy, FSDPStrategy | ModelParallelStrategy):
            return {"plugins": [LeanPrecision()]}
        return {"precision": self.precision}

    @property
    def world_size(self) -> int:
        """Processes in all."""
        return self.devices * self.nodes
