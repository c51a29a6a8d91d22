"""Environment steps per second on MinAtar and Atari: this framework, a bare loop, Stable-Baselines3, in turn.

Network, hyperparameters and gradient steps per environment step are the same; each measurement is a process of its own.

    python benchmarks/pixels.py 3                # three turns of both
    python benchmarks/pixels.py 3 atari
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common import HERE, TRAIN, compare, run, step_time, timing

STEPS = {"minatar": 20_000, "atari": 8_400}  # 18 000 and 2 000 gradient steps
WARMUP = {"minatar": 2_000, "atari": 400}
THREADS = {"minatar": 1, "atari": 2}


def downpour(scale: str, *more: str) -> float:
    """One training run from the command line; its speed after the warm-up, without evaluation."""
    steps, warmup = STEPS[scale], WARMUP[scale]
    options = [f"experiment/scale={scale}", f"total_env_steps={steps}", f"eval_every={steps}", "eval_episodes=1"]
    options += [
        "callbacks.evaluation.max_episode_steps=10",
        "callbacks.recorder.every=200",
        f"data.learning_starts={warmup}",
    ]
    options += [f"trainer.threads={THREADS[scale]}", "data.capacity=50000", *more]
    with tempfile.TemporaryDirectory() as directory:
        run([TRAIN, "experiment=minatar_breakout", *options, f"hydra.run.dir={directory}/run"])
        rows = timing(Path(directory) / "run")
    shares = {name[5:]: value for name, value in rows[-1].items() if name.startswith("time/") and "second" not in name}
    print(f"    {' '.join(more)} { ({name: round(value, 2) for name, value in shares.items()}) }", file=sys.stderr)
    return 1 / step_time([row for row in rows if row["env_steps"] > warmup + 200])


def sb3(scale: str, envs: int) -> float:
    """Stable-Baselines3, with the environments in its process."""
    arguments = [scale, str(STEPS[scale]), str(WARMUP[scale]), str(envs), str(THREADS[scale])]
    return float(run([str(HERE / "peer_sb3_pixels.py"), *arguments]).splitlines()[-1])


def bare(scale: str, *more: str) -> float:
    """The bare loop."""
    arguments = [scale, str(STEPS[scale]), str(WARMUP[scale]), str(THREADS[scale])]
    return float(run([str(HERE / "bare_pixels.py"), *arguments, *more]).splitlines()[-1])


def main(turns: int, scales: Sequence[str] = tuple(STEPS)) -> str:
    """Measure; return the tables."""
    return "\n\n".join(f"### {scale}\n\n{table(scale, turns)}" for scale in scales)


def table(scale: str, turns: int) -> str:
    """Measure at one scale; return the table."""
    measures = {"downpour": lambda: downpour(scale)}
    if scale == "atari":
        measures["downpour, bf16-mixed"] = lambda: downpour(scale, "trainer.precision=bf16-mixed")
        measures["bare loop, bf16"] = lambda: bare(scale, "bf16")
    measures["bare loop"] = lambda: bare(scale)
    for envs in (1, 8):
        measures[f"Stable-Baselines3, {envs} environment{'s' * (envs > 1)}"] = lambda envs=envs: sb3(scale, envs)
    return "\n".join(compare(measures, turns))


if __name__ == "__main__":
    print(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3, sys.argv[2:] or tuple(STEPS)))
