"""One process of an asynchronous run: a parameter server or a worker. It never sees Hydra."""

import signal

if __name__ == "__main__":  # until training installs its own handlers, a signal ends rank 0 without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import logging
import os
import socket
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from downpour import directory as directories
from downpour.building import build_optimizer, build_strategy
from downpour.config import build
from downpour.experiment import fit
from downpour.failures import explain
from downpour.launch import report
from downpour.processes import SIGNALS, end_with
from downpour.run import process
from downpour.strategies.launch import SERVERS
from downpour.strategies.link import Link
from downpour.strategies.transport import serve, token_of_this_run
from downpour.worker import leave


def main(role: str, config_file: str, directory: str, launcher: int, *handle: str) -> None:
    """Run the given role; report a failure to the launcher."""
    config: dict[str, Any] = {}
    try:
        end_with(launcher)
        if role == "server" or process()[0]:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)  # it goes on until rank 0 has saved the run
        config = yaml.safe_load(Path(config_file).read_text())
        if role == "server":
            be_server(config, socket.socket(fileno=int(handle[0])))
        else:
            be_worker(config, Path(directory))
    except Exception as error:
        if config.get("debug", {}).get("traceback"):
            traceback.print_exc()
        failed = explain(error, Path(directory))
        report(Path(config_file).parent, process()[0], failed)
        leave(failed.code)
    leave(0)


def be_server(config: Mapping[str, Any], listener: socket.socket) -> None:
    """Serve until killed."""
    hardware = build(config["trainer"])
    hardware.apply()
    strategy = build_strategy(config, hardware)
    in_step = strategy.in_step(hardware.world_size)
    server = strategy.server(hardware.world_size, lambda own: build_optimizer(config, own, in_step))
    serve(listener, token_of_this_run(), server.serve)


def be_worker(config: Mapping[str, Any], directory: Path) -> None:
    """Connect to the servers and train."""
    rank, _ = process()
    addresses = [(host, int(port)) for host, _, port in (a.rpartition(":") for a in os.environ[SERVERS].split())]
    if rank:
        directories.log_to(None)
        logging.disable()  # rank 0 speaks
    strategy = build_strategy(config, build(config["trainer"]))
    link = Link(addresses, token_of_this_run(), rank, strategy.longest_wait)
    if rank:
        fit(config, directory, link)
        return
    with directories.locked(directory, shared=True):
        directories.log_to(directory)
        fit(config, directory, link)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), *sys.argv[5:])
