"""Starting a run whose workers do not wait for each other, so that one that dies ends nobody but itself."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from downpour import directory as directories
from downpour.config import ConfigError, build
from downpour.failures import FAILED, Failed, last_checkpoint
from downpour.launch import SAVING_SECONDS, SIGNALS, answer, first, impatience, surroundings
from downpour.strategies.transport import TOKEN, listen
from downpour.trainer import Hardware

SERVERS = "DOWNPOUR_SERVERS"  # where a worker finds the servers: host:port host:port ...
LEAVING_SECONDS = 10  # how long the other workers may take to end when rank 0 has


def launch(config: Mapping[str, Any], directory: Path, hardware: Hardware) -> None:
    """Run the servers and the workers of this node until rank 0, or on another node the last worker, has ended.

    Raises:
        ConfigError: a port is in use, or the nodes have no common secret.
        Failed: rank 0 or a server failed, on another node a worker did; or a signal stopped the run.
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
        _signals() as asked,
    ):
        scratch = Path(name)
        (scratch / "config.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False))
        os.environ.setdefault(TOKEN, secrets.token_hex(32))
        os.environ[SERVERS] = " ".join(f"{hardware.address}:{port}" for port in ports)
        own = (str(scratch / "config.yaml"), str(directory), str(os.getpid()))
        servers: list[subprocess.Popen[bytes]] = []
        workers: dict[int, subprocess.Popen[bytes]] = {}
        try:
            for listener in listeners:
                servers.append(_start("server", *own, str(listener.fileno()), keep=[listener.fileno()]))
                listener.close()
            for local in range(hardware.devices):
                rank = hardware.node_rank * hardware.devices + local
                workers[rank] = _start("worker", *own, rank=rank, local=local, world=hardware.world_size)
            _watch(workers, servers, asked)
            if 0 in workers:
                _conclude(workers[0], servers, scratch, directory, asked)
            else:
                _conclude_elsewhere(workers, scratch, directory, asked)
        finally:
            _end([*workers.values()], servers)


def _listen(count: int, hardware: Hardware) -> list[socket.socket]:
    """The servers' sockets, opened here so that a port in use is told before anything starts."""
    found: list[socket.socket] = []
    for number in range(count if hardware.node_rank == 0 else 0):
        port = hardware.port + number if hardware.port else None
        try:
            found.append(listen(hardware.address, port))
        except OSError as error:
            key, value = ("trainer.port", port) if port else ("trainer.address", hardware.address)
            for each in found:
                each.close()
            why = os.strerror(error.errno or 0)
            other = "another port, or null for a free one" if port else "another"
            advice = f"no parameter server can listen at {hardware.address} ({why}); name {other}"
            raise ConfigError(key, value, advice) from None
    return found


def _start(
    role: str, *arguments: str, keep: list[int] | None = None, rank: int = 0, local: int = 0, world: int = 1
) -> "subprocess.Popen[bytes]":
    """A process in a session of its own: a terminal's Ctrl-C is for the launcher, which tells rank 0."""
    variables = {"RANK": rank, "LOCAL_RANK": local, "WORLD_SIZE": world, "TORCHELASTIC_RUN_ID": uuid.uuid4().hex}
    return subprocess.Popen(
        [sys.executable, "-m", "downpour.async_worker", role, *arguments],
        env={**os.environ, **{name: str(value) for name, value in variables.items()}},
        pass_fds=keep or (),
        start_new_session=True,
    )


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that this process has got, in order."""
    got: list[int] = []
    with contextlib.suppress(ValueError):  # only the main thread may set handlers; `surroundings` puts them back
        for name in SIGNALS:
            if signal.getsignal(number := getattr(signal, name)) != signal.SIG_IGN:
                signal.signal(number, lambda number, _: got.append(number))
    yield got


def _watch(
    workers: Mapping[int, "subprocess.Popen[bytes]"], servers: list["subprocess.Popen[bytes]"], asked: list[int]
) -> None:
    """Wait for the end, telling rank 0 of a signal once."""
    told = False
    end = float("inf")
    while all(server.poll() is None for server in servers) and time.monotonic() < end:
        if 0 in workers and workers[0].poll() is not None:
            return
        if 0 not in workers and all(worker.poll() is not None for worker in workers.values()):
            return
        if asked and not told:
            told, end = True, time.monotonic() + (SAVING_SECONDS if 0 in workers else 0)
            if 0 in workers:
                workers[0].send_signal(asked[0])
        time.sleep(0.05)


def _conclude(
    chief: "subprocess.Popen[bytes]",
    servers: list["subprocess.Popen[bytes]"],
    scratch: Path,
    directory: Path,
    asked: list[int],
) -> None:
    """Say what the end means.

    Raises:
        Failed: it was not the run's.
    """
    dead = next((number for number, server in enumerate(servers) if server.poll() is not None), None)
    with contextlib.suppress(subprocess.TimeoutExpired):
        chief.wait(LEAVING_SECONDS if dead is not None else 1)
    if chief.returncode == 0:
        return
    if asked and directories.read_summary(directory).get("status") != "finished":
        raise answer(scratch, asked[0], directory)
    if dead is not None:
        code = servers[dead].returncode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise Failed(FAILED, f"parameter server {dead} {how}\n{last_checkpoint(directory)}")
    if chief.returncode is None:
        chief.kill()
        chief.wait()
    raise first(scratch, {0: chief.returncode}, directory, only=0)


def _conclude_elsewhere(
    workers: Mapping[int, "subprocess.Popen[bytes]"], scratch: Path, directory: Path, asked: list[int]
) -> None:
    """Say how the workers of a node without rank 0 ended.

    Raises:
        Failed: one of them did not get to the end of the run.
    """
    if asked:
        raise answer(scratch, asked[0], directory)
    if codes := {rank: worker.returncode for rank, worker in workers.items() if worker.returncode}:
        raise first(scratch, codes, directory)


def _end(workers: list["subprocess.Popen[bytes]"], servers: list["subprocess.Popen[bytes]"]) -> None:
    """Rank 0 has told the others to stop; what has not by now is of no use any more."""
    end = time.monotonic() + LEAVING_SECONDS
    alive = bool(servers) and all(server.poll() is None for server in servers)
    while alive and any(worker.poll() is None for worker in workers) and time.monotonic() < end:
        time.sleep(0.02)
    for process in (*workers, *servers):
        process.kill()
        process.wait()
