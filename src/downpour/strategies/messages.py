"""The kinds of frames, and the encoding of plain data as their content; decoding runs no code."""

import io
from enum import IntEnum
from typing import Any

import torch


class Kind(IntEnum):
    """Kind of a frame; comments give its numbers and content."""

    HELLO = 1  # worker number; the first frame on every connection
    DONE = 2
    CREATE = 3  # shapes of every set
    CAPTURE = 4
    RESTORE = 5
    STATISTICS = 6
    PUSH = 7  # set, version, whether parameters are wanted
    FETCH = 8
    REPORT = 9  # steps, gradient steps
    POST = 10  # box, number
    COLLECT = 11  # box, number, whether to wait for all
    PUBLISH = 12
    JOIN = 13
    STOP = 14  # longest wait for the others to leave
    LEAVE = 15
    EVALUATE = 16  # Sandblaster's: version, gradient step, portion or number of portions
    TASK = 17
    RESULT = 18
    FINISH = 19
    AWAIT = 20  # set, version: whether there is a newer one; as an answer: not yet, ask again
    SHORT = 21  # as an answer: too few workers are left for an update


def pack(value: Any) -> memoryview:
    """Serialize containers, numbers, strings and tensors."""
    content = io.BytesIO()
    torch.save(value, content)
    return content.getbuffer()


def unpack(content: memoryview) -> Any:
    """The inverse of `pack`."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
