"""Counts the bytes that collective communication sends."""

from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Kind of collective -> bytes sent per byte of its tensor, times N / (N - 1).
FACTORS = {"all_reduce": 2, "allreduce": 2, "all_gather": 1, "allgather": 1, "reduce_scatter": 1, "broadcast": 1}


class Traffic(TorchDispatchMode):
    """While entered, counts the bytes that this rank sends (see `Parallelism.traffic`).

    What Torch sends from C++ code, as DistributedDataParallel does, is not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(each, DTensor) for each in types):
            return NotImplemented  # let DTensor dispatch the operations on its parts first
        output = func(*args, **(kwargs or {}))
        kind = func._schema.name.partition("::")[2].strip("_") if func.namespace in ("c10d", "_c10d_functional") else ""
        if factor := next((f for name, f in FACTORS.items() if kind.startswith(name)), 0):
            ranks = _ranks(func.namespace, args)
            self.bytes += factor * _largest(args, output) * (ranks - 1) / ranks
        elif kind == "send" and args[0][0].is_floating_point():  # not integers: headers with the shape, sent once
            self.bytes += _largest(args, output)
        return output


def _ranks(namespace: str, args: Any) -> int:
    """Number of ranks that take part."""
    if namespace == "c10d":
        boxed = next(a for a in args if isinstance(a, torch.ScriptObject) and "ProcessGroup" in str(a._type()))
        return dist.ProcessGroup.unbox(boxed).size()
    return c10d._resolve_process_group(args[-1]).size()


def _largest(args: Any, output: Any) -> int:
    """Bytes of the largest argument or output: of a gather or a scatter, that is the whole tensor."""
    return max(sum(map(_size, tree_leaves(side))) for side in (*args, output))


def _size(value: Any) -> int:
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0
