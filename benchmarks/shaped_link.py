"""Two ranks of `ddp` in two network namespaces with a slow link between them: E_2, measured and predicted by the model.

The link has a delay and a rate each way: by netem on a pair of virtual Ethernet devices or, if the kernel has no netem,
by a relay in this process between two TUN devices. alpha and beta are fitted to all-reduces over the link; the time per
step of one process is measured in one of the namespaces. E_2 = T / (2 T_2), (1), is here the ratio of the times of two
gradient steps, as each rank has the whole batch. Needs root, the commands ip and tc, and netem or /dev/net/tun; the
namespaces are created by this script, and removed at the end.

    python benchmarks/shaped_link.py [--links 20:50,5:200] [--steps 40]
"""

import argparse
import contextlib
import fcntl
import json
import os
import select
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import torch
import torch.distributed as dist

from downpour.cost_model import Link, fit, synchronous
from downpour.scaling.all_reduces import median_seconds

ROOT = Path(__file__).resolve().parents[1]
ADDRESSES = ("10.213.7.1", "10.213.7.2")
PORT = 29_517
SIZES = (4_000, 40_000, 400_000, 1_200_000)  # bytes of the all-reduces that alpha and beta are fitted to
REPEATS = 5
LINKS = "20:50,5:200"  # milliseconds:Mbit/s
STEPS = 40  # gradient steps of the two ranks
TASK = ["algo=supervised", "data.batch_size=256", "data.updates=5", "model.hidden=[512,512]", "logger=csv"]
WEIGHTS = 64 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10
PATIENCE = 300  # timeout of each command, in seconds
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000


class NotAllowed(Exception):
    """This machine, or this user's rights on it, do not allow such a link."""


def command(*words: str) -> None:
    """Run a command.

    Raises:
        NotAllowed: it failed, or does not exist.
    """
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE)
    except FileNotFoundError as error:
        raise NotAllowed(f"there is no command {words[0]}") from error
    if done.returncode:
        raise NotAllowed(f"{' '.join(words)}: {done.stderr.strip().splitlines()[-1]}")


class Namespaces:
    """Two network namespaces, each with a device."""

    def __init__(self) -> None:
        self.names = tuple(f"downpour{os.getpid()}{side}" for side in "ab")
        self.devices = tuple(f"dp{os.getpid() % 100_000}{side}" for side in "ab")

    def address(self) -> None:
        """Give the devices addresses, and disable TCP's slow start after idle periods."""
        for name, device, address in zip(self.names, self.devices, ADDRESSES, strict=True):
            command("ip", "-n", name, "address", "add", f"{address}/24", "dev", device)
            for each in ("lo", device):
                command("ip", "-n", name, "link", "set", each, "up")
            setting = "net.ipv4.tcp_slow_start_after_idle"
            command("ip", "netns", "exec", name, "sh", "-c", f"echo 0 > /proc/sys/{setting.replace('.', '/')}")

    def start(self, side: int, *words: str) -> subprocess.Popen[str]:
        """Start a Python process in one of the namespaces."""
        source = {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": self.devices[side]}
        words = ("ip", "netns", "exec", self.names[side], sys.executable, *words)
        pipe = subprocess.PIPE
        return subprocess.Popen(words, env={**os.environ, **source}, stdout=pipe, stderr=pipe, text=True)


@contextlib.contextmanager
def shaped(delay: float, rate: float) -> Iterator[tuple[Namespaces, str]]:
    """(two namespaces, what shapes the link between them: netem or a relay).

    Args:
        delay: one-way, in seconds.
        rate: bits per second, each way.

    Raises:
        NotAllowed: neither is available on this machine.
    """
    both = Namespaces()
    with contextlib.ExitStack() as stack:
        for name in both.names:
            command("ip", "netns", "add", name)
            stack.callback(command, "ip", "netns", "delete", name)
        try:
            how = _netem(both, delay, rate)
        except NotAllowed as error:
            how = f"a relay ({error})"
            stack.enter_context(_relay(both, delay, rate))
        both.address()
        yield both, how


def _netem(both: Namespaces, delay: float, rate: float) -> str:
    (left, right), (one, other) = both.names, both.devices
    command("ip", "link", "add", one, "netns", left, "type", "veth", "peer", "name", other, "netns", right)
    try:
        for name, device in zip(both.names, both.devices, strict=True):
            shape = ("netem", "delay", f"{1e6 * delay:.0f}us", "rate", f"{rate:.0f}bit", "limit", "100000")
            command("ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", device, "root", *shape)
    except NotAllowed:
        command("ip", "-n", left, "link", "delete", one)
        raise
    return "netem"


@contextlib.contextmanager
def _relay(both: Namespaces, delay: float, rate: float) -> Iterator[None]:
    """Relay packets between two TUN devices, with serialization at `rate` and then `delay`."""
    ends: list[int] = []
    try:
        for name, device in zip(both.names, both.devices, strict=True):
            ends.append(os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK))
            fcntl.ioctl(ends[-1], TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI))
            command("ip", "link", "set", device, "netns", name)
    except OSError as error:
        for end in ends:
            os.close(end)
        raise NotAllowed(f"/dev/net/tun: {error.strerror}") from error
    over = threading.Event()
    carrier = threading.Thread(target=_carry, args=(ends, delay, rate, over), daemon=True)
    carrier.start()
    try:
        yield
    finally:
        over.set()
        carrier.join()
        for end in ends:
            os.close(end)


def _carry(ends: list[int], delay: float, rate: float, over: threading.Event) -> None:
    """Relay packets between two file descriptors until `over` is set."""
    waiting: list[deque[tuple[float, bytes]]] = [deque(), deque()]  # for each end, (when it arrives, packet)
    free = [0.0, 0.0]
    while not over.is_set():
        due = min((queue[0][0] for queue in waiting if queue), default=time.perf_counter() + 0.1)
        readable, _, _ = select.select(ends, [], [], max(0.0, min(0.1, due - time.perf_counter())))
        for end in readable:
            to = 1 - ends.index(end)
            with contextlib.suppress(BlockingIOError):
                while True:
                    packet = os.read(end, 65_536)
                    free[to] = max(free[to], time.perf_counter()) + 8 * len(packet) / rate
                    waiting[to].append((free[to] + delay, packet))
        for end, queue in zip(ends, waiting, strict=True):
            while queue and queue[0][0] <= time.perf_counter():
                with contextlib.suppress(OSError):  # the device is down: a packet is lost
                    os.write(end, queue.popleft()[1])


def finish(*processes: subprocess.Popen[str]) -> str:
    """Wait for all processes to end; returns the output of the first.

    Raises:
        SystemExit: one of them failed.
    """
    try:
        said = [process.communicate(timeout=PATIENCE) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, said, strict=True):
        if process.returncode:
            sys.exit(f"error: {' '.join(map(str, process.args))}: {errors}")
    return said[0][0]


def all_reduce_times(both: Namespaces) -> list[tuple[int, float, float]]:
    """(2, bytes, seconds) over the link."""
    here = str(Path(__file__).resolve())
    said = finish(*(both.start(rank, here, "--rank", str(rank)) for rank in (0, 1)))
    return [(2, float(size), seconds) for size, seconds in zip(SIZES, json.loads(said), strict=True)]


def all_reduce_rank(rank: int) -> None:
    """One of the two processes of the measurement above."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://{ADDRESSES[0]}:{PORT}", rank=rank, world_size=2)
    found = median_seconds(SIZES, REPEATS)
    if rank == 0:
        print(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def step_time(both: Namespaces, ranks: int, steps: int) -> float:
    """Seconds per gradient step, of one process or of one in each namespace; the first fifth is left out."""
    every = max(1, steps // 5)
    length = [f"total_gradient_steps={steps}", f"eval_every={steps}", f"callbacks.recorder.every={every}"]
    with tempfile.TemporaryDirectory(prefix="downpour-") as folder:
        task = (str(ROOT / "src" / "train.py"), *TASK, *length, f"hydra.run.dir={folder}/run")
        if ranks == 1:
            finish(both.start(0, *task))
        else:
            nodes = ("trainer=multi_node", f"trainer.address={ADDRESSES[0]}", f"trainer.port={PORT}")
            finish(*(both.start(rank, *task, *nodes, f"trainer.node_rank={rank}") for rank in (0, 1)))
        return common.step_time(common.timing(Path(folder) / "run")[1:])


def measure(delay: float, rate: float, steps: int) -> dict[str, Any]:
    """E_2 over a link, measured and predicted; see `shaped`."""
    with shaped(delay, rate) as (both, how):
        link: Link = fit(all_reduce_times(both))
        one, two = step_time(both, 1, 5 * steps), step_time(both, 2, steps)
    predicted = synchronous(one, link, 2, 4 * WEIGHTS)
    return {"how": how, "link": link, "one": one, "two": two, "measured": one / two, "predicted": one / predicted}


def main(turns: int, links: str = LINKS, steps: int = STEPS) -> str:
    """Measure every link `turns` times; returns the table, or why there is none."""
    lines = ["| link | alpha, ms | beta, ns | one process, ms a step | two, ms | E_2 | model | model : measured |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for each in links.split(",") * turns:
        delay, rate = map(float, each.split(":"))
        try:
            found = measure(1e-3 * delay, 1e6 * rate, steps)
        except NotAllowed as error:
            return f"skipped: this machine makes no shaped link: {error}"
        link, how = found["link"], found["how"]
        print(f"{delay:g} ms, {rate:g} Mbit/s: shaped by {how}", file=sys.stderr)
        ratio = found["predicted"] / found["measured"]
        cells = [f"{delay:g} ms, {rate:g} Mbit/s", f"{1e3 * link.alpha:.2f}", f"{1e9 * link.beta:.1f}"]
        cells += [f"{1e3 * found['one']:.2f}", f"{1e3 * found['two']:.1f}"]
        cells += [f"{found['measured']:.4f}", f"{found['predicted']:.4f}", f"{ratio:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--links", default=LINKS, help="milliseconds:Mbit/s, with commas between")
    parser.add_argument("--steps", type=int, default=STEPS, help="gradient steps of the two ranks")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)  # of the all-reduces
    options = parser.parse_args()
    if options.rank is not None:
        all_reduce_rank(options.rank)
        sys.exit()
    print(main(1, options.links, options.steps))
