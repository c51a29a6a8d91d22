"""Pushes per second to a parameter server, compared with a bare loop of the same messages.

The bare loop receives a gradient from a socket directly into its buffer, calls `optimizer.step()`, and sends the
parameters back: no authentication, no counters, one optimizer, no waiting for other workers.

  python benchmarks/parameter_server.py
"""

import multiprocessing
import os
import secrets
import socket
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from downpour.strategies.board import Board
from downpour.strategies.link import Link
from downpour.strategies.parameter_server import ParameterServer, ParameterSet
from downpour.strategies.transport import listen, serve

SIZES = {
    "1 k floats": [(16, 32), (32,), (32, 14), (8,)],
    "1 M floats (4 MB)": [(1000, 500), (500,), (500, 1000), (500,)],
}
CONTEXT = multiprocessing.get_context("fork")


def optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-6, fused=True)


def tensors(sizes: list[tuple[int, ...]]) -> list[torch.Tensor]:
    return [torch.full(size, 0.5) for size in sizes]


def framework_server(listener: socket.socket, token: bytes, workers: int) -> None:
    torch.set_num_threads(1)
    server = ParameterServer(Board(workers, 60), partial(ParameterSet, make_optimizer=optimizer, bound=None))
    serve(listener, token, server.serve)


def framework_worker(address: Any, token: bytes, rank: int, sizes: Any, ready: Any, seconds: float, out: Any) -> None:
    torch.set_num_threads(1)
    link = Link([address], token, rank, 60)
    parameters, gradients = tensors(sizes), tensors(sizes)
    link.divide([parameters])
    if rank == 0:
        link.create([parameters])
        link.push(0, gradients, parameters)
    ready.wait()
    out.put(pushes(lambda: link.push(0, gradients, parameters), seconds))


def flat(sizes: list[tuple[int, ...]]) -> tuple[memoryview, list[torch.Tensor]]:
    """(buffer, tensors of these sizes that are views of it)."""
    counts = [torch.Size(size).numel() for size in sizes]
    buffer = memoryview(bytearray(4 * sum(counts)))
    parts = torch.frombuffer(buffer, dtype=torch.float32).split(counts)
    return buffer, [part.view(size) for part, size in zip(parts, sizes, strict=True)]


def fill(connection: socket.socket, buffer: memoryview) -> bool:
    """Receive until the buffer is full; False if the connection was closed."""
    got = 0
    while got < buffer.nbytes:
        count = connection.recv_into(buffer[got:], 0, socket.MSG_WAITALL)
        if count == 0:
            return False
        got += count
    return True


def bare_server(listener: socket.socket, sizes: Any, workers: int) -> None:
    """One thread per worker and a lock around the update, as in the framework's server."""
    import threading

    torch.set_num_threads(1)
    values, views = flat(sizes)
    parameters = [nn.Parameter(view) for view in views]
    step, lock = optimizer(parameters).step, threading.Lock()

    def answer(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        gradient, parts = flat(sizes)
        while fill(connection, gradient):
            with lock:
                for parameter, part in zip(parameters, parts, strict=True):
                    parameter.grad = part
                step()
                reply = bytes(values)  # another thread may update while it is sent
            connection.sendall(reply)

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def bare_worker(address: Any, sizes: Any, ready: Any, seconds: float, out: Any) -> None:
    torch.set_num_threads(1)
    connection = socket.create_connection(address)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    gradient, _ = flat(sizes)
    fetched, views = flat(sizes)
    parameters = tensors(sizes)

    def push() -> None:
        connection.sendall(gradient)
        fill(connection, fetched)
        torch._foreach_copy_(parameters, views)

    push()
    ready.wait()
    out.put(pushes(push, seconds))


def pushes(push: Callable[[], Any], seconds: float) -> float:
    """Calls per second, measured for `seconds`."""
    with torch.no_grad():
        begin, count = time.perf_counter(), 0
        while (now := time.perf_counter()) < begin + seconds:
            push()
            count += 1
    return count / (now - begin)


def measure(kind: str, sizes: Any, workers: int, seconds: float) -> float:
    """Pushes per second of all workers together."""
    listener, token = listen("127.0.0.1", None), secrets.token_bytes(32)
    address = listener.getsockname()
    ready, out = CONTEXT.Barrier(workers), CONTEXT.Queue()
    if kind == "framework":
        server = CONTEXT.Process(target=framework_server, args=(listener, token, workers), daemon=True)
        arguments: list[Any] = [(address, token, rank, sizes, ready, seconds, out) for rank in range(workers)]
    else:
        server = CONTEXT.Process(target=bare_server, args=(listener, sizes, workers), daemon=True)
        arguments = [(address, sizes, ready, seconds, out)] * workers
    server.start()
    target: Any = framework_worker if kind == "framework" else bare_worker
    clients = [CONTEXT.Process(target=target, args=each, daemon=True) for each in arguments]
    for client in clients:
        client.start()
    total = sum(out.get() for _ in clients)
    for process in (*clients, server):
        process.kill()
        process.join()
    return total


def main(turns: int, seconds: float = 2.0) -> str:
    """Measure both in turn, `seconds` each; return the table."""
    lines = [f"Pushes a second, each answered with the parameters; {os.cpu_count()} cores; medians of {turns}.", ""]
    lines += ["| message | workers | bare loop | parameter server | ratio |", "|---|---|---|---|---|"]
    for name, sizes in SIZES.items():
        for workers in (1, 2):
            pairs = [[measure(kind, sizes, workers, seconds) for kind in ("bare", "framework")] for _ in range(turns)]
            bare, ours = (statistics.median(each) for each in zip(*pairs, strict=True))
            ratio = statistics.median(ours / bare for bare, ours in pairs)
            lines.append(f"| {name} | {workers} | {bare:.0f} | {ours:.0f} | {ratio:.2f} |")
            print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


if __name__ == "__main__":
    print(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
