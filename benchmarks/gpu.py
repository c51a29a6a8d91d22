"""One GPU: steps a second with and without CUDA graphs, beside a bare loop whose rounds are one CUDA graph.

    python benchmarks/gpu.py [cartpole minatar atari atari-bf16 convnet]

Runs of the command line, one after another; what its extra package is missing for is left out. A table with the time in
each part and the share of time in which nothing was on the GPU.
"""

import csv
import importlib.util
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from speed import HERE, OVERRIDES

WARMUP = 1_000
STEPS = {"cartpole": 24_000, "minatar": 10_000, "atari": 10_000, "atari-bf16": 10_000, "convnet": 6_000}
NEEDS = {"minatar": "minatar", "atari": "ale_py", "atari-bf16": "ale_py"}
ATARI = [
    "experiment=minatar_breakout",
    "experiment/scale=atari",
    "data.capacity=20000",
    f"data.learning_starts={WARMUP}",
]
OPTIONS = {
    "cartpole": [o for o in OVERRIDES if o.partition("=")[0] not in ("total_env_steps", "eval_every", "eval_episodes")],
    "minatar": ["experiment=minatar_breakout", "data.capacity=20000", f"data.learning_starts={WARMUP}"],
    "atari": ATARI,
    "atari-bf16": [*ATARI, "trainer.precision=bf16-mixed"],
    "convnet": ["algo=supervised", "model=convnet"],
}
PARTS = ("environment", "acting", "replay", "data", "transfer", "learning", "framework")


def run(command: list[str]) -> str:
    """Standard output of a command."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def downpour(name: str, graph: bool) -> dict[str, float]:
    """A training run: steps a second after the warm-up and as many steps again, and where the time went."""
    counted = "gradient_steps" if name == "convnet" else "env_steps"
    options = [f"total_{counted}={STEPS[name]}", f"eval_every={STEPS[name]}", *OPTIONS[name], "trainer=gpu"]
    options += [f"callbacks.recorder.every={WARMUP}", f"trainer.cuda_graph={str(graph).lower()}", "logger=csv"]
    if counted == "env_steps":
        options += ["eval_episodes=1", "callbacks.evaluation.max_episode_steps=10"]
    with tempfile.TemporaryDirectory() as directory:
        run([str(HERE.parent / "src" / "train.py"), *options, f"hydra.run.dir={directory}/run"])
        with open(Path(directory) / "run" / "timing.csv") as file:
            rows = [{n: float(v or 0) for n, v in row.items()} for row in csv.DictReader(file)]
    rows = [row for row in rows if row[counted] > 2 * WARMUP + 500]
    found = {n[5:]: statistics.mean(row[n] for row in rows) for n in rows[0] if n.startswith("time/")}
    found["steps_per_second"] = 1 / statistics.mean(1 / row["time/steps_per_second"] for row in rows)
    return found


def bare(name: str) -> float:
    """Steps a second of the bare loop."""
    scale, _, half = name.partition("-")
    return float(run([str(HERE / "bare_gpu.py"), scale, str(STEPS[name]), str(WARMUP), half]).splitlines()[-1])


def main(names: list[str]) -> str:
    """Measure; return the table."""
    lines = [f"{torch.cuda.get_device_name()}, Torch {torch.__version__}", ""]
    lines += ["| | steps/s | : bare | " + " | ".join(PARTS) + " | GPU idle |", "|---" * (len(PARTS) + 4) + "|"]
    for name in names:
        if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
            print(f"{name}: {NEEDS[name]} is not installed", file=sys.stderr)
            continue
        limit = bare(name)
        for graph in (False, True):
            found = downpour(name, graph)
            cells = [f"{found[part]:.2f}" if part in found else "" for part in PARTS]
            speed = found["steps_per_second"]
            label = f"{name}, {'CUDA graph' if graph else 'eager'}"
            lines.append(
                f"| {label} | {speed:.0f} | {speed / limit:.2f} | {' | '.join(cells)} | {found['gpu_idle']:.2f} |"
            )
            print(lines[-1], file=sys.stderr)
        lines.append(f"| {name}, bare loop | {limit:.0f} | 1 |" + " |" * (len(PARTS) + 1))
    return "\n".join(lines)


if __name__ == "__main__":
    print(main(sys.argv[1:] or list(STEPS)))
