"""Models too large for one device: weights sharded over a mesh of ranks, [data parallel, tensor parallel]."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module
from torch.optim import Optimizer

from downpour import networks as network_classes
from downpour import shards
from downpour.config import ConfigError, NonNegativeInt, PositiveInt
from downpour.strategies.base import Parallelism, share_buffers
from downpour.strategies.dtensors import (
    by_mesh,
    gathered,
    load_optimizer_state,
    optimizer_state,
    part,
    placed,
    split_by_mesh,
    whole,
)
from downpour.strategies.traffic import Traffic
from downpour.trainer import Hardware

STYLES: dict[str, ParallelStyle] = {
    "outputs": ColwiseParallel(),
    "outputs_gathered": ColwiseParallel(output_layouts=Replicate()),
    "inputs": RowwiseParallel(),
    "inputs_of_whole": RowwiseParallel(input_layouts=Replicate()),
}


@runtime_checkable
class Divisible(Protocol):
    """A network that says how its layers are divided between ranks (tensor parallelism)."""

    def parallel_plan(self) -> Mapping[str, str]:
        """Layer name -> one of `STYLES`."""


class Sharded(Parallelism, ModelParallelStrategy):
    """FSDP2 over one dimension of the mesh, tensor parallelism over the other; computes what one process does.

    The networks of an algorithm (its submodules that are called) are sharded; other parameters are replicated. All
    ranks must call a network equally often. Any number of ranks can load a checkpoint, one file or a folder of parts.
    """

    name: ClassVar[str] = "fsdp2"

    def __init__(
        self,
        hardware: Hardware,
        *,
        tensor_parallel: PositiveInt | None = 1,
        gather_above: NonNegativeInt = 1_000_000,
        checkpoint: Literal["whole", "sharded"] = "whole",
    ):
        """
        Args:
            hardware: of the run.
            tensor_parallel: ranks that each layer is divided between; null: all. The remaining dimension of the mesh
                is data parallel, with sharded weights (FSDP2).
            gather_above: layers with more parameters than this are gathered on their own, when they are computed.
            checkpoint: `whole`: one file, gathered by all ranks and written by the first; `sharded`: a folder to which
                each rank writes its part, and from which it reads only its part.

        Raises:
            ConfigError: tensor_parallel does not divide the number of ranks.
        """
        ranks = hardware.world_size
        size = tensor_parallel or ranks
        if ranks % size:
            advice = f"does not divide the {ranks} rank(s); set trainer.devices={size * max(1, ranks // size)}"
            raise ConfigError("strategy.tensor_parallel", size, advice)
        super().__init__(
            data_parallel_size=ranks // size,
            tensor_parallel_size=size,
            save_distributed_checkpoint=False,
        )
        self.ranks_per_replica, self.replicas, self.gather_above = size, ranks // size, gather_above
        self._sharded = checkpoint == "sharded"
        self._whole_groups: list[list[dict[str, Any]]] = []
        self._per_step: float | None = None

    def check(self, algorithm: Any, data: Any, config: Mapping[str, Any]) -> None:
        if self.replicas > 1 and not data.even:
            advice = "ranks act until their own episodes end, and here must act equally often: use strategy=ddp"
            raise ConfigError("strategy", self.name, advice)

    def prepare(self, algorithm: Any) -> None:
        if self.ranks_per_replica > 1:
            for name, network in networks(algorithm):
                check_plan(name, network, self.ranks_per_replica)

    def setup(self, trainer: Any) -> None:
        module: Any = self.lightning_module
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        self.model = self.precision_plugin.convert_module(module)
        self.model_to_device()
        self._shard(module)
        self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def _shard(self, module: nn.Module) -> None:
        mesh, above = self.device_mesh, self.gather_above
        for _, network in networks(module):
            if any(isinstance(p, DTensor) for p in network.parameters()):  # sharded by an earlier fit
                continue
            if self.ranks_per_replica > 1:
                plan: dict[str, Any] = {name: STYLES[how] for name, how in plan_of(network).items()}
                parallelize_module(network, mesh["tensor_parallel"], plan)
            if self.replicas > 1 or self.ranks_per_replica == 1:
                for layer in network.modules():
                    if layer is not network and sum(p.numel() for p in layer.parameters(recurse=False)) > above:
                        fully_shard(layer, mesh=mesh["data_parallel"], reshard_after_forward=True)
                fully_shard(network, mesh=mesh["data_parallel"], reshard_after_forward=True)
        for parameter in module.parameters():
            if parameter.requires_grad and not isinstance(parameter, DTensor):
                parameter.register_post_accumulate_grad_hook(_average_gradient)

    def setup_optimizers(self, trainer: Any) -> None:
        super().setup_optimizers(trainer)
        if any(isinstance(optimizer, torch.optim.LBFGS) for optimizer in self.optimizers):
            raise ConfigError("optimizer", "LBFGS", "needs all weights in one place: use strategy=ddp")
        self._whole_groups = [split_by_mesh(optimizer) for optimizer in self.optimizers]

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        module: Any = self.lightning_module
        before = module.gradient_steps
        if self._per_step is None:  # all steps send the same number of bytes
            with Traffic() as sent:
                output = super().training_step(*args, **kwargs)
            if steps := module.gradient_steps - before:
                self._per_step = sent.bytes / steps
        else:
            output = super().training_step(*args, **kwargs)
        self.traffic += (self._per_step or 0.0) * (module.gradient_steps - before)
        if module.trainer.datamodule.evaluation_due:
            share_buffers(module)
        return output

    def clip_gradients(self, parameters: Iterable[nn.Parameter], largest: float) -> Tensor:
        groups = list(by_mesh(p for p in parameters if p.grad is not None))
        norms = [gathered(nn.utils.get_total_norm([p.grad for p in group if p.grad is not None])) for group in groups]
        total = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
        for group in groups:
            nn.utils.clip_grads_with_norm_(group, largest, total)
        return total

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        convert = part if self._sharded else whole
        return {name: convert(value) for name, value in self.lightning_module.state_dict().items()}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        groups = self._whole_groups[self.optimizers.index(optimizer)]
        return optimizer_state(optimizer, groups, part if self._sharded else whole)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        if self._sharded:
            shards.write(checkpoint, Path(filepath))
        else:
            ParallelStrategy.save_checkpoint(self, checkpoint, filepath)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        if not Path(checkpoint_path).is_dir():
            return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only=weights_only)
        assert self.lightning_module is not None
        weights = self.lightning_module.state_dict()
        parameters = [[p for group in groups for p in group["params"]] for groups in self._whole_groups]

        def like(place: shards.Place, saved: Tensor) -> Tensor:
            keys: Any = place  # state_dict, name; or optimizer_states, which, state, number of the parameter, name
            own = weights[keys[1]] if keys[0] == "state_dict" else parameters[keys[1]][keys[3]]
            sharded = isinstance(own, DTensor) and own.shape == saved.shape
            return torch.empty_like(own, dtype=saved.dtype) if sharded else torch.empty_like(saved, device="cpu")

        return shards.read(Path(checkpoint_path), like)

    @torch.no_grad()
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        for name, value in self.lightning_module.state_dict().items():
            value.copy_(placed(checkpoint["state_dict"][name], value))

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, groups, state in zip(
            self.optimizers, self._whole_groups, checkpoint["optimizer_states"], strict=True
        ):
            load_optimizer_state(optimizer, groups, state)

    def capture(self) -> dict[str, Any]:
        return {**super().capture(), "per_step": self._per_step}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._per_step = state["per_step"]


def networks(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """(name, network) of each submodule of an algorithm that is called and has weights."""
    for name, child in module.named_children():
        if type(child).forward is nn.Module.forward:
            yield from networks(child, f"{prefix}{name}.")
        elif any(True for _ in child.parameters()):
            yield prefix + name, child


def plan_of(network: nn.Module) -> Mapping[str, str]:
    """How the layers of a network are divided: layer name -> one of `STYLES`.

    Raises:
        ConfigError: the network does not tell.
    """
    if not isinstance(network, Divisible):
        known = [n for n in network_classes.__all__ if issubclass(vars(network_classes)[n], Divisible)]
        advice = f"no plan says how its layers are divided: use {', '.join(known)}, or strategy=fsdp2 or ddp"
        raise ConfigError("model", type(network).__name__, advice)
    return network.parallel_plan()


def check_plan(name: str, network: nn.Module, ranks: int) -> None:
    """Check that the layers of a network can be divided between `ranks` ranks.

    Args:
        name: of the network, for messages.

    Raises:
        ConfigError: the ranks do not divide a layer.
    """
    for layer, how in plan_of(network).items():
        linear: Any = network.get_submodule(layer)
        kind = how.partition("_")[0]
        size = linear.out_features if kind == "outputs" else linear.in_features
        if size % ranks:
            advice = f"{ranks} ranks do not divide the {size} {kind} of layer {name}.{layer}"
            raise ConfigError("strategy.tensor_parallel", ranks, f"{advice}; change the model or the number of ranks")


def _average_gradient(parameter: Tensor) -> None:
    assert parameter.grad is not None
    dist.all_reduce(parameter.grad)
    parameter.grad /= dist.get_world_size()
