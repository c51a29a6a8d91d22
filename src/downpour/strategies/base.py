"""What this project asks of a strategy, beyond Lightning's interface."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from downpour.config import class_of
from downpour.trainer import Hardware


class Parallelism:
    """A mixin for Lightning's strategies. An instance of it alone holds the defaults, for strategies without it.

    Attributes:
        name: what `strategy=` calls it.
        servers: processes besides the ranks.
        ranks_per_replica: ranks that together hold one copy of the weights; they are given the same experience.
        seconds: training time spent so far, by activity, where it is known.
        traffic: bytes this rank has sent so far. An all-reduce of n bytes over N ranks counts 2 n (N - 1) / N, an
            all-gather to n or a reduce-scatter from n bytes n (N - 1) / N: the lower bounds.
    """

    name: ClassVar[str]
    servers: int = 0
    ranks_per_replica: int = 1

    def __init__(self, **lightning_arguments: Any):
        super().__init__(**lightning_arguments)
        self.seconds: dict[str, float] = {}
        self.traffic = 0.0

    @classmethod
    def own_launcher(cls) -> Callable[[Mapping[str, Any], Path, Hardware], None] | None:
        """What starts the processes of a run, given its configuration, directory and hardware; None: torchrun does."""
        return None

    @classmethod
    def batches_each(cls, settings: Mapping[str, Any]) -> int:
        """Batches per optimizer step, given all arguments of the constructor."""
        return 1

    def in_step(self, ranks: int) -> int:
        """Of `ranks` ranks, the number of replicas whose batches make up one gradient step."""
        return ranks // self.ranks_per_replica

    def check(self, algorithm: Any, data: Any, config: Mapping[str, Any]) -> None:
        """Check the configuration, before any process is started.

        Args:
            algorithm, data: the classes of the algorithm and of the data module.
            config: the checked configuration.

        Raises:
            ConfigError: they are not compatible with this strategy.
        """

    def prepare(self, algorithm: Any) -> None:
        """Check the algorithm once it is built, before the trainer gets it.

        Raises:
            ConfigError: its networks cannot be trained with this strategy.
        """

    def gather(self, items: list[Any]) -> list[Any]:
        """The items of all ranks, in rank order; all ranks must call it."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return items
        parts: list[list[Any]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    def gather_states(self, own: dict[str, Any]) -> list[dict[str, Any] | None]:
        """Each rank's part of a checkpoint, in rank order; None for a rank that was lost before it sent one."""
        return self.gather([own])

    def clip_gradients(self, parameters: Iterable[nn.Parameter], largest: float) -> Tensor | None:
        """Scale the gradients down to a norm of at most `largest`; returns the norm before, None if there are none.

        All ranks must call it. Faster than Torch's.
        """
        gradients: list[Any] = [p.grad for p in parameters if p.grad is not None]
        if not gradients:
            return None
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, (largest / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def metrics(self, gradient_steps: int) -> dict[str, float]:
        """Metrics to record; none may depend on the clock."""
        return {"strategy/bytes_per_step": self.traffic / gradient_steps} if gradient_steps else {}

    def capture(self) -> dict[str, Any]:
        """This rank's part of a checkpoint, as plain data; all ranks call it."""
        return {"traffic": self.traffic}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `capture` returned on this rank."""
        self.traffic = state["traffic"]


def parallelism(strategy: Any) -> Parallelism:
    """The strategy itself; for one of Lightning's own (or none), the defaults."""
    return strategy if isinstance(strategy, Parallelism) else Parallelism()


def parallelism_of(config: Mapping[str, Any]) -> type[Parallelism]:
    """The same for the class that a checked configuration names."""
    named = class_of(config, "strategy") if config["strategy"] else None
    return named if isinstance(named, type) and issubclass(named, Parallelism) else Parallelism


def share_buffers(module: nn.Module) -> None:
    """Broadcast the buffers of rank 0: each rank has its own running statistics of batch normalization."""
    for buffer in module.buffers():
        dist.broadcast(buffer, src=0)


def all_reduced(size: float) -> float:
    """Bytes that each rank sends in an all-reduce of `size` bytes."""
    ranks = dist.get_world_size()
    return 2 * size * (ranks - 1) / ranks


def wire_bytes(module: nn.Module, dtype: torch.dtype | None = None) -> int:
    """Bytes of all gradients, in their own type or as `dtype`."""
    learned = [p for p in module.parameters() if p.requires_grad]
    return sum(p.numel() * (dtype.itemsize if dtype else p.element_size()) for p in learned)
