"""Tensors laid out in one buffer that is sent and received as it is, and their division between servers."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Shape(NamedTuple):
    """Size and type of a tensor, as plain data."""

    size: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Its size in memory."""
        return torch.Size(self.size).numel() * DTYPES[self.dtype].itemsize


def shape_of(tensor: Tensor) -> Shape:
    """Of a tensor."""
    return Shape(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


class Block:
    """A buffer and the tensors in it.

    Attributes:
        buffer: all of it; `mask` is its end, a byte for each tensor: whether it counts.
        tensors: views of it, in the order they were asked for.
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
    """Wide types first, so that every tensor is aligned."""
    return sorted(range(len(shapes)), key=lambda index: -DTYPES[shapes[index].dtype].itemsize)


def divide(shapes: Sequence[Shape], servers: int) -> list[list[int]]:
    """Which tensors each server keeps: the largest first, each to whoever has least. A tensor stays whole."""
    parts: list[list[int]] = [[] for _ in range(servers)]
    load = [0] * servers
    for index in sorted(range(len(shapes)), key=lambda index: -shapes[index].bytes):
        least = load.index(min(load))
        parts[least].append(index)
        load[least] += shapes[index].bytes
    return [sorted(part) for part in parts]
