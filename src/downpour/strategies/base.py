"""What this project asks of a strategy beside Lightning's part."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Parallelism:
    """Mixed into one of Lightning's strategies, in front of it.

    Attributes:
        name: what `strategy=` calls it.
        servers: processes beside the ranks.
        ranks_per_replica: ranks that hold one copy of the weights between them; they are given the same experience.
        seconds: time spent so far within learning, by what; where it is known.
        traffic: bytes this rank has sent so far. An all-reduce of n bytes over N ranks counts 2 n (N - 1) / N, an
            all-gather to n or a reduce-scatter from n bytes n (N - 1) / N: the least there is.
    """

    name: ClassVar[str]
    servers: int = 0
    ranks_per_replica: int = 1

    def __init__(self, **of_lightning: Any):
        super().__init__(**of_lightning)
        self.seconds: dict[str, float] = {}
        self.traffic = 0.0

    @classmethod
    def batches_each(cls, settings: Mapping[str, Any]) -> int:
        """Batches that each step of the optimizer is made of, given all arguments of the constructor."""
        return 1

    def in_step(self, ranks: int) -> int:
        """Copies of the weights, each with its own batch, that make a gradient step together; of so many ranks."""
        return ranks // self.ranks_per_replica

    def check(self, algorithm: Any, data: Any, config: Mapping[str, Any]) -> None:
        """Before anything is started.

        Args:
            algorithm, data: the classes of the learning rule and of the data module.
            config: the checked configuration.

        Raises:
            ConfigError: they do not go together.
        """

    def prepare(self, algorithm: Any) -> None:
        """Before the trainer gets it.

        Raises:
            ConfigError: this model cannot be trained so.
        """

    def clip_gradients(self, parameters: Iterable[nn.Parameter], largest: float) -> Tensor:
        """Scale the gradients down to a norm of at most `largest`; returns the norm before."""
        return nn.utils.clip_grad_norm_(parameters, largest)

    def metrics(self, gradient_steps: int) -> dict[str, float]:
        """What to record; nothing that depends on the clock."""
        return {"strategy/bytes_per_step": self.traffic / gradient_steps} if gradient_steps else {}

    def capture(self) -> dict[str, Any]:
        """This rank's part of a checkpoint, as plain data; all ranks call it."""
        return {"traffic": self.traffic}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `capture` returned on this rank."""
        self.traffic = state["traffic"]


def parallelism(strategy: Any) -> Parallelism:
    """What is asked of a strategy; of one of Lightning's own, which has no answers, the defaults."""
    return strategy if isinstance(strategy, Parallelism) else Parallelism()


def share_buffers(module: nn.Module) -> None:
    """Give all ranks the buffers of rank 0: the running statistics of batch normalization are a rank's own."""
    for buffer in module.buffers():
        dist.broadcast(buffer, src=0)


def all_reduced(size: float) -> float:
    """Bytes that a rank sends so that all have the sum of `size` bytes."""
    ranks = dist.get_world_size()
    return 2 * size * (ranks - 1) / ranks


def wire_bytes(module: nn.Module, dtype: torch.dtype | None = None) -> int:
    """Size of all gradients, as they are or as `dtype`."""
    learned = [p for p in module.parameters() if p.requires_grad]
    return sum(p.numel() * (dtype.itemsize if dtype else p.element_size()) for p in learned)
