"""One GPU: steps per second with and without CUDA graphs, and those of a bare loop with one CUDA graph per round.

    python benchmarks/gpu.py [cartpole minatar atari atari-bf16 convnet]

Runs from the command line, one after another; scales whose package is not installed are skipped. The table has the
shares of time of each part, and the share in which the GPU was idle.
"""

import importlib.util
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

import common
import torch
from common import HERE, TRAIN, step_time, timing
from speed import OVERRIDES

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
run = partial(common.run, threads=None)


def downpour(name: str, graph: bool) -> dict[str, float]:
    """A training run: steps per second after twice the warm-up, and the shares of time."""
    counted = "gradient_steps" if name == "convnet" else "env_steps"
    options = [f"total_{counted}={STEPS[name]}", f"eval_every={STEPS[name]}", *OPTIONS[name], "trainer=gpu"]
    options += [f"callbacks.recorder.every={WARMUP}", f"trainer.cuda_graph={str(graph).lower()}", "logger=csv"]
    if counted == "env_steps":
        options += ["eval_episodes=1", "callbacks.evaluation.max_episode_steps=10"]
    with tempfile.TemporaryDirectory() as directory:
        run([TRAIN, *options, f"hydra.run.dir={directory}/run"])
        rows = [row for row in timing(Path(directory) / "run") if row[counted] > 2 * WARMUP + 500]
    found = {n[5:]: statistics.mean(row[n] for row in rows) for n in rows[0] if n.startswith("time/")}
    found["steps_per_second"] = 1 / step_time(rows)
    return found


def bare(name: str) -> float:
    """Steps per second of the bare loop."""
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
