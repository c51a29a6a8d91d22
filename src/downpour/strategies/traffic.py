"""Counting what collective communication sends."""

from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Kind of collective -> how often each of its bytes goes over the wire, times N / (N - 1).
FACTORS = {"all_reduce": 2, "allreduce": 2, "all_gather": 1, "allgather": 1, "reduce_scatter": 1, "broadcast": 1}


class Traffic(TorchDispatchMode):
    """While it is entered, adds up the bytes that this rank sends (see `Parallelism.traffic`).

    What Torch's C++ sends by itself, as DistributedDataParallel does, is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(each, DTensor) for each in types):
            return NotImplemented  # first let it say what that means for its parts
        output = func(*args, **(kwargs or {}))
        kind = func._schema.name.partition("::")[2].strip("_") if func.namespace in ("c10d", "_c10d_functional") else ""
        if factor := next((f for name, f in FACTORS.items() if kind.startswith(name)), 0):
            ranks = _ranks(func.namespace, args)
            self.bytes += factor * _largest(args, output) * (ranks - 1) / ranks
        elif kind == "send" and args[0][0].is_floating_point():  # the rest says what will come, once
            self.bytes += _largest(args, output)
        return output


def _ranks(namespace: str, args: Any) -> int:
    """How many take part."""
    if namespace == "c10d":
        boxed = next(a for a in args if isinstance(a, torch.ScriptObject) and "ProcessGroup" in str(a._type()))
        return dist.ProcessGroup.unbox(boxed).size()
    return c10d._resolve_process_group(args[-1]).size()


def _largest(args: Any, output: Any) -> int:
    """The larger side of a gather or a scatter is the whole."""
    return max(sum(map(_size, tree_leaves(side))) for side in (*args, output))


def _size(value: Any) -> int:
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0
