"""Starts the servers and workers of an asynchronous run, which survives the loss of a worker."""

import contextlib
import errno
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from downpour import directory as directories
from downpour.config import ConfigError, build
from downpour.failures import FAILED, Failed, last_checkpoint
from downpour.launch import SAVING_SECONDS, answer, first, impatience, surroundings
from downpour.processes import handle
from downpour.strategies.transport import TOKEN, listen
from downpour.trainer import Hardware

SERVERS = "DOWNPOUR_SERVERS"  # environment variable with the addresses of the servers: host:port host:port ...
LEAVING_SECONDS = 10  # that the other workers may take to end after rank 0 has


def launch(config: Mapping[str, Any], directory: Path, hardware: Hardware) -> None:
    """Run the servers and the workers of this node until rank 0, or on another node the last worker, has ended.

    Raises:
        ConfigError: a port is in use, or the nodes have no common secret.
        Failed: rank 0 or a server failed (on other nodes: a worker), or a signal stopped the run.
    """
    if hardware.nodes > 1 and not os.environ.get(TOKEN):
        advice = f"several nodes need a common secret: set {TOKEN} to the same 64 hexadecimal digits on all"
        raise ConfigError("trainer.nodes", hardware.nodes, advice)
    count = build(config["strategy"], hardware=hardware).servers
    listeners = _listen(count, hardware)
    ports = [hardware.port + i if hardware.port else listeners[i].getsockname()[1] for i in range(count)]
    with (
        surroundings(hardware),
        tempfile.TemporaryDirectory(prefix="downpour-") as name,
        impatience(name, directory),
    ):
        received: list[int] = []
        handle(lambda number, _: received.append(number))  # `surroundings` puts the others back
        scratch = Path(name)
        (scratch / "config.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False))
        os.environ.setdefault(TOKEN, secrets.token_hex(32))
        os.environ[SERVERS] = " ".join(f"{hardware.address}:{port}" for port in ports)
        arguments = (str(scratch / "config.yaml"), str(directory), str(os.getpid()))
        servers: list[subprocess.Popen[bytes]] = []
        workers: dict[int, subprocess.Popen[bytes]] = {}
        try:
            for listener in listeners:
                servers.append(_start("server", *arguments, str(listener.fileno()), keep=[listener.fileno()]))
                listener.close()
            for local in range(hardware.devices):
                rank = hardware.node_rank * hardware.devices + local
                workers[rank] = _start("worker", *arguments, rank=rank, local=local, world=hardware.world_size)
            _watch(workers, servers, received)
            if 0 in workers:
                _check_rank_zero(workers[0], servers, scratch, directory, received)
            else:
                _check_workers(workers, scratch, directory, received)
        finally:
            _terminate([*workers.values()], servers)


def _listen(count: int, hardware: Hardware) -> list[socket.socket]:
    """The servers' sockets, opened before anything is started, so that a port in use is reported first.

    Raises:
        ConfigError: a port is in use or does not exist, or the address is not one of this machine.
    """
    listeners: list[socket.socket] = []
    for number in range(count if hardware.node_rank == 0 else 0):
        port = hardware.port + number if hardware.port else None
        try:
            listeners.append(listen(hardware.address, port))
        except (OSError, OverflowError) as error:
            for each in listeners:
                each.close()
            number = getattr(error, "errno", None) or 0  # negative: of the resolver
            why = os.strerror(number) if number > 0 else getattr(error, "strerror", None) or str(error)
            failed = f"no parameter server can listen at {hardware.address} ({why}); name"
            if port and number >= 0 and number != errno.EADDRNOTAVAIL:
                raise ConfigError("trainer.port", port, f"{failed} another port, or null for a free one") from None
            raise ConfigError("trainer.address", hardware.address, f"{failed} an address of node 0") from None
    return listeners


def _start(
    role: str, *arguments: str, keep: list[int] | None = None, rank: int = 0, local: int = 0, world: int = 1
) -> "subprocess.Popen[bytes]":
    """Start a process in its own session: Ctrl-C in a terminal reaches the launcher only, which signals rank 0."""
    variables = {"RANK": rank, "LOCAL_RANK": local, "WORLD_SIZE": world, "TORCHELASTIC_RUN_ID": uuid.uuid4().hex}
    return subprocess.Popen(
        [sys.executable, "-m", "downpour.async_worker", role, *arguments],
        env={**os.environ, **{name: str(value) for name, value in variables.items()}},
        pass_fds=keep or (),
        start_new_session=True,
    )


def _watch(
    workers: Mapping[int, "subprocess.Popen[bytes]"], servers: list["subprocess.Popen[bytes]"], received: list[int]
) -> None:
    """Wait until rank 0 (on other nodes: all workers) or a server ends; forward the first signal to rank 0."""
    forwarded = False
    end = float("inf")
    while all(server.poll() is None for server in servers) and time.monotonic() < end:
        if 0 in workers and workers[0].poll() is not None:
            return
        if 0 not in workers and all(worker.poll() is not None for worker in workers.values()):
            return
        if received and not forwarded:
            forwarded, end = True, time.monotonic() + (SAVING_SECONDS if 0 in workers else 0)
            if 0 in workers:
                workers[0].send_signal(received[0])
        time.sleep(0.05)


def _check_rank_zero(
    rank_zero: "subprocess.Popen[bytes]",
    servers: list["subprocess.Popen[bytes]"],
    scratch: Path,
    directory: Path,
    received: list[int],
) -> None:
    """Determine why rank 0 or a server has ended.

    Raises:
        Failed: not because the run was finished.
    """
    dead = next((number for number, server in enumerate(servers) if server.poll() is not None), None)
    with contextlib.suppress(subprocess.TimeoutExpired):
        rank_zero.wait(LEAVING_SECONDS if dead is not None else 1)
    if rank_zero.returncode == 0:
        return
    if received and directories.read_summary(directory).get("status") != "finished":
        raise answer(scratch, received[0], directory)
    if dead is not None:
        code = servers[dead].returncode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise Failed(FAILED, f"parameter server {dead} {how}\n{last_checkpoint(directory)}")
    if rank_zero.returncode is None:
        rank_zero.kill()
        rank_zero.wait()
    raise first(scratch, {0: rank_zero.returncode}, directory, only=0)


def _check_workers(
    workers: Mapping[int, "subprocess.Popen[bytes]"], scratch: Path, directory: Path, received: list[int]
) -> None:
    """The same for a node without rank 0.

    Raises:
        Failed: one of its workers did not reach the end of the run.
    """
    if received:
        raise answer(scratch, received[0], directory)
    if codes := {rank: worker.returncode for rank, worker in workers.items() if worker.returncode}:
        raise first(scratch, codes, directory)


def _terminate(workers: list["subprocess.Popen[bytes]"], servers: list["subprocess.Popen[bytes]"]) -> None:
    """Give the workers time to end, as rank 0 has told them; then kill what is left."""
    end = time.monotonic() + LEAVING_SECONDS
    alive = bool(servers) and all(server.poll() is None for server in servers)
    while alive and any(worker.poll() is None for worker in workers) and time.monotonic() < end:
        time.sleep(0.02)
    for process in (*workers, *servers):
        process.kill()
        process.wait()
