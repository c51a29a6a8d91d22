"""Two processes on two cores with `strategy=ddp`: the framework's overhead, and the parallel efficiency.

The overhead is measured by the time of a gradient step, relative to a bare DistributedDataParallel loop with the same
network, batch, optimizer and threads. The efficiency E_2 = T / (2 T_2), (1) of the lecture, compares the time of one
process for a number of samples with twice that of two processes, each with the same batch. All turns are made by the
same two processes; while one computes on its own, the other sleeps.

    python benchmarks/distributed.py [TURNS]
"""

import contextlib
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from subprocess import PIPE

import bare_ddp as bare
import torch
import torch.distributed as dist
from common import ratios, spread, step_time, timing

from downpour.experiment import fit
from downpour.scaling.plan import resolved
from downpour.validation import validate

ROOT = Path(__file__).resolve().parents[1]
MARK = "TORCHELASTIC_RUN_ID"  # environment variable that tells a process that torchrun has started it


def downpour(task: bare.Task, processes: int, directory: Path) -> float:
    """Seconds per gradient step of a training run, without the first fifth and the evaluation."""
    every = task.steps // 5
    options = [f"model.{key}={str(value).replace(' ', '')}" for key, value in task.widths.items()]
    options += [f"total_gradient_steps={task.steps + every}", f"eval_every={task.steps + every}"]
    options += [f"callbacks.recorder.every={every}", f"data.updates={min(20, every)}", "logger=csv"]
    trainer = "trainer=ddp_cpu" if processes > 1 else "trainer=cpu"
    chosen = ["algo=supervised", f"model={task.model}", f"data.batch_size={task.batch}", trainer, *options]
    fit(validate(resolved([*chosen, f"hydra.run.dir={directory}"])), directory)
    if not (directory / "timing.csv").exists():  # not rank 0
        return 0.0
    return step_time(timing(directory)[1:])


def worker(turns: int) -> None:
    """One of the two processes; rank 0 prints the table."""
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore")
    store, rank, _ = next(dist.rendezvous("env://"))
    found: dict[str, dict[str, list[float]]] = {name: {"one": [], "two": [], "bare": []} for name in bare.TASKS}
    for turn in range(turns):
        for name, task in bare.TASKS.items():
            own = dist.PrefixStore(f"{turn} {name}", store)
            with tempfile.TemporaryDirectory(prefix="downpour-") as folder:
                one = alone(task, own, Path(folder) / "one")
                with group(own):
                    two = downpour(task, 2, Path(folder) / "two")
                    dist.barrier()
                    by_hand = bare.step_time(task)
                    dist.barrier()
            for kind, seconds in (("one", one), ("two", two), ("bare", by_hand)):
                found[name][kind].append(1000 * seconds)
            if rank == 0:
                said = ", ".join(f"{kind} {values[-1]:.3f} ms" for kind, values in found[name].items())
                print(f"turn {turn + 1} {name}: {said}", file=sys.stderr, flush=True)
    if rank == 0:
        print(table(found))


def alone(task: bare.Task, store: dist.Store, directory: Path) -> float:
    """Rank 0 measures as a single process, while rank 1 sleeps."""
    if os.environ["RANK"] != "0":
        store.wait(["alone"], timedelta(hours=1))
        return 0.0
    mark = os.environ.pop(MARK)
    seconds = downpour(task, 1, directory)
    os.environ[MARK] = mark
    store.set("alone", "done")
    return seconds


@contextlib.contextmanager
def group(store: dist.Store) -> Iterator[None]:
    """A process group of the two, within the context only: the measurement of a single process must not see it."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    yield
    dist.destroy_process_group()


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """The table of medians, and of ratios within the same turn."""
    lines = ["| network | one process, ms a step | two, ms | bare DDP, ms | bare : downpour | E_2 |"]
    lines.append("|---|---|---|---|---|---|")
    for name, values in found.items():
        cells = [f"{statistics.median(each):.2f}" for each in values.values()]
        for numerator in ("bare", "one"):
            cells.append(spread(ratios(values[numerator], values["two"])))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(turns: int) -> str:
    """Measure; return the table."""
    command = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    command += ["--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1", str(Path(__file__).resolve())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, *command, "worker", str(turns)], env=environment, stdout=PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout.strip()


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(int(sys.argv[2]))
    else:
        print(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
