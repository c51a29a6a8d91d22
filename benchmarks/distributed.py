"""Two processes on two cores, `strategy=ddp`: what the framework costs, and what the second core gives.

The framework's cost is the time of a gradient step against that of a bare DistributedDataParallel loop of the same
network, batch, optimizer and threads. E_2 = T / (2 T_2), (1) of the lecture: the time of one process for a number of
samples against twice that of two processes, each with the same batch. The machine's speed drifts, so what counts is the
ratio of two measurements of the same turn; the table gives its median, least and greatest.

    python benchmarks/distributed.py [TURNS]
"""

import csv
import statistics
import sys
import tempfile
from pathlib import Path

import bare_ddp as bare
import supervised

ROOT = Path(__file__).resolve().parents[1]


def downpour(name: str, processes: int) -> float:
    """Gradient steps a second of a training run; the first fifth and the evaluation are left out."""
    model, widths, steps = bare.MODELS[name]
    every = steps // 5
    options = [f"model.{key}={str(value).replace(' ', '')}" for key, value in widths.items()]
    options += [f"total_gradient_steps={steps + every}", f"eval_every={steps + every}"]
    options += [f"callbacks.recorder.every={every}", f"data.updates={min(20, every)}", "logger=[]"]
    trainer = "trainer=ddp_cpu" if processes > 1 else "trainer=cpu"
    with tempfile.TemporaryDirectory() as directory:
        command = [str(ROOT / "src" / "train.py"), "algo=supervised", f"model={model}", trainer, *options]
        supervised.run([*command, f"hydra.run.dir={directory}/run"])
        with open(Path(directory) / "run" / "timing.csv") as file:
            speeds = [float(row["time/steps_per_second"]) for row in csv.DictReader(file)][1:]
    return 1 / statistics.mean(1 / speed for speed in speeds)


def alone(name: str) -> float:
    """The same of the bare loop."""
    command = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--rdzv-backend=c10d"]
    command += ["--rdzv-endpoint=127.0.0.1:0", str(ROOT / "benchmarks" / "bare_ddp.py")]
    return float(supervised.run([*command, name, str(bare.MODELS[name][2])]))


def spread(values: list[float]) -> str:
    """Median, least and greatest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main(turns: int) -> str:
    """Measure; return the table."""
    lines = ["| network, batch 64 | one process, ms a step | two, ms | bare DDP, ms | bare : downpour | E_2 |"]
    lines.append("|---|---|---|---|---|---|")
    for name in bare.MODELS:
        found: dict[str, list[float]] = {"one": [], "two": [], "bare": []}
        for turn in range(turns):
            found["one"].append(1000 / downpour(name, 1))
            found["two"].append(1000 / downpour(name, 2))
            found["bare"].append(1000 / alone(name))
            print(f"turn {turn + 1} {name}", {k: round(v[-1], 3) for k, v in found.items()}, file=sys.stderr)
        cells = [f"{statistics.median(values):.2f}" for values in found.values()]
        for numerator in ("bare", "one"):
            cells.append(spread([a / b for a, b in zip(found[numerator], found["two"], strict=True)]))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
