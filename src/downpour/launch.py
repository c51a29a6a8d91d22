"""Starts the processes of a run: a torchrun job on a resolved configuration."""

import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from downpour import directory as directories
from downpour.config import ConfigError
from downpour.failures import FAILED, Failed, interrupted, last_checkpoint, say, stopped
from downpour.nodes import have_started, together
from downpour.processes import SIGNALS, restore
from downpour.run import process
from downpour.strategies import parallelism_of
from downpour.trainer import Hardware

Launch = Callable[[Mapping[str, Any], Path, Hardware], None]
SAVING_SECONDS = 600  # time that ranks have to save after being asked to stop


def launcher(config: Mapping[str, Any], hardware: Hardware) -> Launch | None:
    """The function that starts the processes of a run; None if this process is one of its ranks.

    A strategy may have a way of its own, `Parallelism.own_launcher`.

    Raises:
        ConfigError: it has, and somebody's torchrun has started this process.
    """
    strategy = parallelism_of(config)
    _, started = process()
    own = strategy.own_launcher()
    if own and started is not None:
        raise ConfigError("strategy", strategy.__name__, "starts its own processes: do not use torchrun")
    return own or (launch if hardware.world_size > 1 and started is None else None)


def launch(config: Mapping[str, Any], directory: Path, hardware: Hardware) -> None:
    """Run the ranks of this node until they end.

    Raises:
        Failed: a rank failed, a node vanished, or a signal stopped them; with the message of the first cause.
        ConfigError: the nodes cannot connect to each other.
    """
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.launcher.api import elastic_launch

    for noisy in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.")]:
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    with surroundings(hardware), tempfile.TemporaryDirectory(prefix="downpour-") as name, impatience(name, directory):
        scratch = Path(name)
        (scratch / "config.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False))
        arguments = ("-m", "downpour.worker", str(scratch / "config.yaml"), str(directory), str(os.getpid()))
        try:
            with together(hardware, scratch) as watch:
                elastic_launch(_options(hardware, scratch), sys.executable)(*arguments)
        except ChildFailedError as error:
            if watch.silent is not None:
                told = (
                    f"no sign of life from node {watch.silent} for trainer.timeout_seconds={hardware.timeout_seconds}"
                )
                raise Failed(FAILED, f"{told}\n{last_checkpoint(directory)}") from None
            codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
            raise first(scratch, codes, directory, nodes=hardware.nodes) from None
        except SignalException as caught:
            if directories.read_summary(directory).get("status") != "finished":
                raise answer(scratch, caught.sigval, directory) from None
        except (DistError, RendezvousError, TimeoutError) as error:
            if have_started(scratch):
                told = str(error).splitlines()[0]
                raise Failed(FAILED, f"lost another node ({told})\n{last_checkpoint(directory)}") from None
            advice = f"{hardware.nodes} nodes did not connect at port {hardware.port} within "
            advice += f"{hardware.timeout_seconds} s: start all of them, or increase trainer.timeout_seconds"
            raise ConfigError("trainer.address", hardware.address, advice) from None


def _options(hardware: Hardware, scratch: Path) -> Any:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

    several = hardware.nodes > 1
    return LaunchConfig(
        min_nodes=hardware.nodes,
        max_nodes=hardware.nodes,
        nproc_per_node=hardware.devices,
        run_id="downpour" if several else uuid.uuid4().hex,  # the nodes must agree on it
        rdzv_backend="static" if several else "c10d",
        rdzv_endpoint=f"{hardware.address}:{hardware.port}" if several else "127.0.0.1:0",
        rdzv_configs={"rank": hardware.node_rank, "timeout": hardware.timeout_seconds} if several else {},
        local_addr=None if several else "127.0.0.1",
        logs_specs=DefaultLogsSpecs(log_dir=str(scratch)),
        max_restarts=0,
        monitor_interval=0.1,
        signals_to_handle=",".join(s.name for s in SIGNALS if signal.getsignal(s) != signal.SIG_IGN),
        shutdown_timeout=SAVING_SECONDS,
    )


@contextlib.contextmanager
def surroundings(hardware: Hardware) -> Iterator[None]:
    """Set what the ranks inherit, and restore it afterwards for the next job of a multirun."""
    before = dict(os.environ)
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    source = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in (source, before.get("PYTHONPATH")) if p)
    os.environ.setdefault("OMP_NUM_THREADS", str(hardware.threads or 1))
    # Python's resource tracker would warn about a rank that was killed.
    os.environ["PYTHONWARNINGS"] = ",".join(
        w for w in (before.get("PYTHONWARNINGS"), "ignore:resource_tracker:UserWarning") if w
    )
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        with contextlib.suppress(ValueError):  # only the main thread may set handlers
            restore(handlers)


@contextlib.contextmanager
def impatience(scratch: str, directory: Path) -> Iterator[None]:
    """A second SIGINT ends the launcher, and so its ranks, at once; torchrun would go on waiting for them to save."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch() -> None:
        asked = 0
        while number := os.read(reader, 1):
            asked += number[0] == signal.SIGINT
            if asked == 2:
                shutil.rmtree(scratch, ignore_errors=True)
                say(interrupted(signal.SIGINT, directory))
                os._exit(128 + signal.SIGINT)
        os.close(reader)

    try:
        before = signal.set_wakeup_fd(writer)
    except ValueError:  # not the main thread: signals are not ours to handle
        os.close(reader)
        os.close(writer)
        yield
        return
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)


def report(scratch: Path, rank: int, failed: Failed) -> None:
    """Write a rank's message for the launcher."""
    text = {"code": failed.code, "message": str(failed), "stopped": failed.stopped, "lost": failed.lost}
    partial = scratch / f"{rank}.partial"
    partial.write_text(json.dumps(text))
    partial.rename(scratch / f"{rank}.json")  # its time tells which was first


def _reports(scratch: Path) -> list[tuple[int, Failed]]:
    """(rank, message) of every rank that left one, causes before consequences."""
    told = []
    for path in sorted(scratch.glob("*.json"), key=lambda p: p.stat().st_mtime_ns):
        text = json.loads(path.read_text())
        failed = Failed(text["code"], text["message"], stopped=text["stopped"], lost=text["lost"])
        told.append((int(path.stem), failed))
    return sorted(told, key=lambda each: each[1].lost)


def first(
    scratch: Path, codes: Mapping[int, int], directory: Path, *, only: int | None = None, nodes: int = 1
) -> Failed:
    """Why the ranks (or `only` this one) failed, given the exit codes of those seen to, on one of `nodes` machines."""
    told = [each for each in _reports(scratch) if only in (None, each[0])]
    causes = [failed for _, failed in told if not failed.lost or only is not None]
    if causes:
        return causes[0]
    for rank in sorted(set(codes) - {rank for rank, _ in told}):
        if codes[rank] < 0:
            name = signal.Signals(-codes[rank]).name
            why = " (out of memory?)" if name == "SIGKILL" else ""
            return Failed(FAILED, f"rank {rank} was ended by {name}{why}\n{last_checkpoint(directory)}")
        return Failed(FAILED, f"rank {rank} ended with exit code {codes[rank]}\n{last_checkpoint(directory)}")
    if nodes == 1 and told:  # each has lost another, and none knows the cause
        return told[0][1]
    return Failed(FAILED, f"another node of this run has failed; see its output\n{last_checkpoint(directory)}")


def answer(scratch: Path, number: int, directory: Path) -> Failed:
    """The message after a signal stopped the ranks."""
    told = _reports(scratch)
    causes = [failed for _, failed in told if not failed.lost and not failed.stopped]
    if causes:
        return causes[0]
    return stopped(number, directory) if any(f.stopped for _, f in told) else interrupted(number, directory)
