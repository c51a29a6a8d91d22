"""Several nodes on one machine: what a person is told where they do not meet, and where one vanishes."""

import os
import signal
import socket
from pathlib import Path

import pytest
from tests.commands import SMALL, Commands, Running
from tests.ranks import free_port


def start(commands: Commands, node: int, port: int, *arguments: str) -> Running:
    """One of two nodes, in a folder of its own."""
    own = Commands(commands.folder / f"node{node}")
    own.folder.mkdir()
    options = ("trainer=multi_node", f"trainer.port={port}", f"trainer.node_rank={node}", "hydra.run.dir=run")
    return own.start(*SMALL, *options, *arguments)


def of_session(launcher: int) -> list[int]:
    """A process and all that it has started."""
    found = [launcher]
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == launcher:
            found += of_session(int(path.parent.name))
    return found


def test_a_port_in_use_is_named(commands: Commands) -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = other.getsockname()[1]
        ended = start(commands, 0, port).wait()
    assert ended.code == 2
    assert ended.err.splitlines() == [
        f"error: trainer.port={port}: node 0 cannot listen on it (address already in use); "
        "choose another port, the same on all nodes"
    ]
    assert not (commands.folder / "node0" / "run").exists()


@pytest.mark.parametrize("node", [0, 1])
def test_a_node_that_never_comes_is_not_waited_for_long(commands: Commands, node: int) -> None:
    port = free_port()
    ended = start(commands, node, port, "trainer.timeout_seconds=1").wait()
    assert ended.code == 2
    assert ended.err.splitlines() == [
        f"error: trainer.address=127.0.0.1: 2 nodes did not connect at port {port} within 1 s: "
        "start all of them, or increase trainer.timeout_seconds"
    ]
    assert not (commands.folder / f"node{node}" / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_node_that_vanishes_ends_the_run(commands: Commands, victim: int) -> None:
    """A process that is stopped keeps its connections open and answers nothing, as a machine without power does."""
    port, run = free_port(), commands.folder / "node0" / "run"
    lengths = ("trainer.timeout_seconds=5", "total_env_steps=10000000")
    nodes = [start(commands, node, port, *lengths) for node in (0, 1)]
    nodes[0].wait_until((run / "checkpoints" / "last.ckpt").exists)
    gone = of_session(nodes[victim].pid)
    assert len(gone) > 1
    try:
        for process in gone:
            os.kill(process, signal.SIGSTOP)
        ended = nodes[1 - victim].wait()
    finally:
        for process in gone:
            os.kill(process, signal.SIGKILL)
    assert ended.code == 1
    told = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert told == [f"error: no sign of life from node {victim} for trainer.timeout_seconds=5"]
    if victim == 1:
        assert ended.err.splitlines()[-1] == "resume from the last checkpoint: python src/train.py resume=run"
