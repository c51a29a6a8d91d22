"""Runs on several nodes: detects a node that has vanished, and ends them together."""

import contextlib
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from downpour.config import ConfigError
from downpour.trainer import Hardware

LEAVING_SECONDS = 30  # time that node 0 waits for the others to leave


class Watch:
    """A heartbeat: each launcher tells node 0's store that it is alive, whatever its ranks are doing.

    A host that vanishes closes no connection, so ranks that wait for it would wait on. A short limit on what ranks wait
    for would notice it, and also end a run whose rank 0 takes its time to save, to film or to end a long episode; the
    launchers have nothing to do but to answer.

    Attributes:
        silent: the node that was not heard of for `timeout_seconds`, if one was.
    """

    def __init__(self, hardware: Hardware, scratch: Path):
        self.hardware, self.scratch = hardware, scratch
        self.silent: int | None = None
        self._heard: dict[int, float] = {}  # when; from its first sign of life on
        self._over = threading.Event()
        self._pause = hardware.timeout_seconds / 10

    def begin(self) -> None:
        """Send and check heartbeats in two threads: a request to a host that has vanished blocks."""
        for task in (self._exchange, self._look):
            threading.Thread(target=task, daemon=True).start()

    def end(self) -> None:
        """Stop watching."""
        self._over.set()

    def _exchange(self) -> None:
        from torch.distributed import DistError

        me, said = self.hardware.node_rank, dict[int, bytes]()
        others = [0] if me else range(1, self.hardware.nodes)
        with contextlib.suppress(DistError):  # node 0 has gone: the missing heartbeat is enough
            store = _store(self.hardware, self.hardware.timeout_seconds, is_master=False)
            while not self._over.wait(self._pause):
                store.add(f"alive/{me}", 1)
                for node in others:
                    if store.check([f"alive/{node}"]) and said.get(node) != (count := store.get(f"alive/{node}")):
                        said[node], self._heard[node] = count, time.monotonic()

    def _look(self) -> None:
        while not self._over.wait(self._pause):
            for node, heard in list(self._heard.items()):
                if time.monotonic() - heard > self.hardware.timeout_seconds:
                    self.silent = node
                    end_ranks(self.scratch)
                    return


@contextlib.contextmanager
def together(hardware: Hardware, scratch: Path) -> Iterator[Watch]:
    """Keep the nodes of a run in touch, and have node 0, which serves their store, leave last.

    Torchrun's node 0 leaves as soon as it knows that the others have ended; one that still reads this from the store
    finds the store gone, and prints a stack trace.

    Raises:
        ConfigError: node 0 cannot listen at the port.
        TimeoutError: node 0 cannot be reached.
    """
    from torch.distributed import DistError

    watch = Watch(hardware, scratch)
    if hardware.nodes == 1:
        yield watch
        return
    own = _serve(hardware) if hardware.node_rank == 0 else None  # shares torchrun's server and outlives it
    if own is None:
        _find(hardware)
    watch.begin()
    try:
        yield watch
    finally:
        watch.end()
    with contextlib.suppress(DistError):  # a node that fails says so by itself
        if own is not None:
            own.wait([f"left/{node}" for node in range(1, hardware.nodes)])
        else:
            _store(hardware, LEAVING_SECONDS, is_master=False).set(f"left/{hardware.node_rank}", "")


def _serve(hardware: Hardware) -> Any:
    from torch.distributed import DistError

    try:
        return _store(hardware, LEAVING_SECONDS, is_master=True, multi_tenant=True)
    except DistError as error:
        reason = re.search(r"message: ([^,)\n]+)", str(error))
        why = reason[1] if reason else str(error).splitlines()[0]
        advice = f"node 0 cannot listen on it ({why}); choose another port, the same on all nodes"
        raise ConfigError("trainer.port", hardware.port, advice) from None


def _find(hardware: Hardware) -> None:
    """Wait until node 0 listens; Torch would do so too, and print a stack of its own if it does not."""
    end = time.monotonic() + hardware.timeout_seconds
    while (left := end - time.monotonic()) > 0:
        with contextlib.suppress(OSError), socket.create_connection((hardware.address, hardware.port), left):
            return
        time.sleep(0.1)
    raise TimeoutError


def _store(hardware: Hardware, seconds: float, **how: Any) -> Any:
    from torch.distributed import TCPStore

    assert hardware.port is not None
    timeout = timedelta(seconds=seconds)
    return TCPStore(hardware.address, hardware.port, timeout=timeout, wait_for_workers=False, **how)


def note_rank(scratch: Path, rank: int) -> None:
    """Write this rank's process id for the launcher."""
    (scratch / f"{rank}.pid").write_text(str(os.getpid()))


def have_started(scratch: Path) -> bool:
    """Whether any rank of this node has started."""
    return any(scratch.glob("*.pid"))


def end_ranks(scratch: Path) -> None:
    """Kill this node's ranks: one that waits for a host that has vanished hears no other signal."""
    for path in scratch.glob("*.pid"):
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.kill(int(path.read_text()), signal.SIGKILL)
