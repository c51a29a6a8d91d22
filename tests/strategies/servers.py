"""Parameter servers in threads of this process, on real sockets."""

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from downpour.strategies.board import Board
from downpour.strategies.gathering import Gathering
from downpour.strategies.link import Link
from downpour.strategies.parameter_server import ParameterServer, ParameterSet
from downpour.strategies.transport import listen, serve

SIZES = ((7, 5), (5,), (3, 5), (3,), (11, 2))


@contextmanager
def running(
    make_optimizer: Callable[[Any], Any], count: int = 1, workers: int = 1, needed: int | None = None, **options: Any
) -> Iterator[Callable[[int], Link]]:
    """Start `count` servers, whose updates take `needed` gradients or each that comes; yields what connects worker
    `rank` to them.
    """
    token = secrets.token_bytes(32)
    addresses, links, listeners = [], [], []
    for _ in range(count):
        listener = listen("127.0.0.1", None)
        addresses.append(listener.getsockname()[:2])
        listeners.append(listener)
        board = Board(workers, 20)
        if needed is None:
            make_set: Any = partial(ParameterSet, make_optimizer=make_optimizer, **{"bound": None, **options})
        else:
            make_set = partial(Gathering, make_optimizer=make_optimizer, board=board, needed=needed)
        server = ParameterServer(board, make_set)
        threading.Thread(target=_serve, args=(listener, token, server.serve), daemon=True).start()

    def connect(rank: int, token: bytes = token) -> Link:
        links.append(Link(addresses, token, rank, 20))
        return links[-1]

    yield connect
    for link in links:
        for channel in link.channels:
            channel.close()
    for listener in listeners:
        listener.close()


def _serve(listener: Any, token: bytes, answer: Any) -> None:
    try:
        serve(listener, token, answer)
    except OSError:  # the test is over
        return


def tensors(seed: int, sizes: Sequence[tuple[int, ...]] = SIZES) -> list[Tensor]:
    """Random tensors."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator) for size in sizes]
