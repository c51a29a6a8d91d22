"""Tensors laid out in one contiguous buffer, which is sent and received as it is; their partition between servers."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Shape(NamedTuple):
    """Shape and dtype of a tensor, as plain data."""

    size: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Size of the tensor in memory."""
        return torch.Size(self.size).numel() * DTYPES[self.dtype].itemsize


def shape_of(tensor: Tensor) -> Shape:
    """Shape and dtype of `tensor`."""
    return Shape(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


class Block:
    """Tensors in one buffer.

    Attributes:
        size: bytes of all tensors.
        buffer: the tensors, followed by the mask.
        mask: a byte for each tensor: 0 for a parameter that has no gradient.
        tensors: views of the buffer, in the order of `shapes`.
    """

    def __init__(self, shapes: Sequence[Shape]):
        size = sum(shape.bytes for shape in shapes)
        self.size = size
        self.buffer = memoryview(bytearray(size + len(shapes)))
        self.mask = self.buffer[size:]
        self.mask[:] = b"\1" * len(shapes)
        found: dict[int, Tensor] = {}
        begin = 0
        for index in wire_order(shapes):
            shape = shapes[index]
            dtype = DTYPES[shape.dtype]
            count = shape.bytes // dtype.itemsize
            flat = torch.frombuffer(self.buffer, dtype=dtype, count=count, offset=begin) if count else torch.empty(0)
            found[index] = flat.to(dtype).view(shape.size)
            begin += shape.bytes
        self.tensors = [found[index] for index in range(len(shapes))]


def wire_order(shapes: Sequence[Shape]) -> list[int]:
    """Indices of the tensors in the order of the buffer: wide dtypes first, so that every tensor is aligned."""
    return sorted(range(len(shapes)), key=lambda index: -DTYPES[shapes[index].dtype].itemsize)


def divide(shapes: Sequence[Shape], servers: int) -> list[list[int]]:
    """Indices of the tensors on each server, greedily balanced: the largest first, each to the smallest server."""
    parts: list[list[int]] = [[] for _ in range(servers)]
    sizes = [0] * servers
    for index in sorted(range(len(shapes)), key=lambda index: -shapes[index].bytes):
        smallest = sizes.index(min(sizes))
        parts[smallest].append(index)
        sizes[smallest] += shapes[index].bytes
    return [sorted(part) for part in parts]
