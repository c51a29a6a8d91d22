"""Copies rounds to a GPU from page-locked memory, on a separate stream."""

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor


class Staging:
    """Copies a round while the GPU computes on the one before.

    Two sets of page-locked buffers alternate: the next round is written to one while the other is being copied.
    """

    def __init__(self, device: torch.device):
        self.device, self._stream = device, torch.cuda.Stream(device)
        self._buffers: list[list[Tensor]] = [[], []]
        self._copied: list[Any] = [torch.cuda.Event(), torch.cuda.Event()]
        self._turn = 0

    def send(self, round: TensorDict) -> TensorDict:
        """Begin to copy; the result may be read after `wait`."""
        self._turn = 1 - self._turn
        buffers, copied = self._buffers[self._turn], self._copied[self._turn]
        copied.synchronize()  # the round before the last has left its buffers
        there: list[Tensor] = []
        blocks = memory_of(round)
        with torch.cuda.stream(self._stream):
            for number, block in enumerate(blocks):
                if number == len(buffers):
                    buffers.append(torch.empty(0, dtype=torch.uint8))
                if len(buffers[number]) < len(block):
                    buffers[number] = torch.empty(len(block), dtype=torch.uint8, pin_memory=True)
                host = buffers[number][: len(block)].copy_(block)
                there.append(host.to(self.device, non_blocking=True))
            copied.record()
        for block in there:
            block.record_stream(torch.cuda.current_stream(self.device))
        return rebuilt(round, there)

    def wait(self) -> None:
        """Make the GPU's current stream wait for the newest round."""
        torch.cuda.current_stream(self.device).wait_event(self._copied[self._turn])


def memory_of(round: TensorDict) -> list[Tensor]:
    """The memory of a round's fields as bytes, shared memory once.

    Both observations of a transition are views of one stack of frames, which is copied once.
    """
    return [torch.empty(0, dtype=torch.uint8).set_(storage) for storage in _storages(round).values()]


def rebuilt(round: TensorDict, memory: list[Tensor]) -> TensorDict:
    """The round whose memory has been copied to `memory`, in the order of `memory_of`."""
    place = dict(zip(_storages(round), memory, strict=True))
    fields = {
        name: place[value.untyped_storage().data_ptr()]
        .view(value.dtype)
        .as_strided(value.shape, value.stride(), value.storage_offset())
        for name, value in round.items()
    }
    return TensorDict(fields, batch_size=round.batch_size)


def _storages(round: TensorDict) -> Mapping[int, Any]:
    return {value.untyped_storage().data_ptr(): value.untyped_storage() for value in round.values()}
