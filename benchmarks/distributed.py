"""Two processes on two cores, `strategy=ddp`: what the framework costs, and what the second core gives.

The framework's cost is the time of a gradient step against that of a bare DistributedDataParallel loop of the same
network, batch, optimizer and threads. E_2 = T / (2 T_2), (1) of the lecture: the time of one process for a number of
samples against twice that of two processes, each with the same batch. The machine's speed drifts, so what counts is the
ratio of two measurements of the same turn; the table gives its median, least and greatest. All turns are made by the
same two processes, which are started once; while one computes alone the other sleeps.

    python benchmarks/distributed.py [TURNS]
"""

import contextlib
import csv
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
from omegaconf import OmegaConf

from downpour.experiment import fit
from downpour.scaling.plan import resolved
from downpour.validation import validate

ROOT = Path(__file__).resolve().parents[1]
MARK = "TORCHELASTIC_RUN_ID"  # tells a process that torchrun has started it


def downpour(task: bare.Task, processes: int, directory: Path) -> float:
    """Seconds a gradient step of a training run; the first fifth and the evaluation are left out."""
    every = task.steps // 5
    options = [f"model.{key}={str(value).replace(' ', '')}" for key, value in task.widths.items()]
    options += [f"total_gradient_steps={task.steps + every}", f"eval_every={task.steps + every}"]
    options += [f"callbacks.recorder.every={every}", f"data.updates={min(20, every)}", "logger=csv"]
    trainer = "trainer=ddp_cpu" if processes > 1 else "trainer=cpu"
    chosen = ["algo=supervised", f"model={task.model}", f"data.batch_size={task.batch}", trainer, *options]
    fit(validate(resolved([*chosen, f"hydra.run.dir={directory}"])), directory)
    if not (directory / "timing.csv").exists():  # not rank 0
        return 0.0
    with open(directory / "timing.csv") as file:
        speeds = [float(row["time/steps_per_second"]) for row in csv.DictReader(file)][1:]
    return statistics.mean(1 / speed for speed in speeds)


def worker(turns: int) -> None:
    """One of the two processes; rank 0 prints the table."""
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore")
    store, rank, _ = next(dist.rendezvous("env://"))
    OmegaConf.register_new_resolver("or", lambda first, second: first or second, replace=True)
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
    """Rank 0 measures as a process that knows of no other; rank 1 sleeps meanwhile."""
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
    """A process group of the two, as long as it is needed: one process must not see it."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    yield
    dist.destroy_process_group()


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """Medians; and ratios of measurements of the same turn."""
    lines = ["| network | one process, ms a step | two, ms | bare DDP, ms | bare : downpour | E_2 |"]
    lines.append("|---|---|---|---|---|---|")
    for name, values in found.items():
        cells = [f"{statistics.median(each):.2f}" for each in values.values()]
        for numerator in ("bare", "one"):
            cells.append(spread([a / b for a, b in zip(values[numerator], values["two"], strict=True)]))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Median, least and greatest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


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
