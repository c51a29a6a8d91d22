"""Environment steps a second: this framework, the bare loop, Stable-Baselines3, in turn, several times.

Each measurement is a process of its own with one thread. The machine's speed drifts, so what counts is the ratio of two
measurements of the same turn; the table gives its median, least and greatest.
"""

import csv
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import bare_loop as bare

HERE = Path(__file__).resolve().parent
STEPS = 40_000
OVERRIDES = [
    "algo=dqn",
    f"total_env_steps={STEPS}",
    f"eval_every={STEPS}",
    "eval_episodes=1",
    f"algo.gamma={bare.GAMMA}",
    "algo.loss=huber",
    f"algo.gradient_clip={bare.CLIP}",
    f"algo.target_every={bare.TARGET_EVERY}",
    f"algo.epsilon.steps={bare.EPSILON_STEPS}",
    f"data.num_envs={bare.ENVS}",
    f"data.round_steps={bare.ROUND_STEPS}",
    f"data.updates={bare.UPDATES}",
    f"data.batch_size={bare.BATCH}",
    f"data.capacity={bare.CAPACITY}",
    f"data.learning_starts={bare.WARMUP}",
    f"optimizer.lr={bare.LR}",
    "model.hidden=[120,84]",
    "callbacks.recorder.every=2000",
]


def run(command: list[str]) -> str:
    """Standard output of a command with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def downpour(shares: dict[str, list[float]]) -> float:
    """One training run from the command line; notes where its time went."""
    with tempfile.TemporaryDirectory() as directory:
        run([str(HERE.parent / "src" / "train.py"), *OVERRIDES, f"hydra.run.dir={directory}/run"])
        return rate(Path(directory) / "run" / "timing.csv", 2 * bare.WARMUP, shares)


def rate(timing: Path, after: int, shares: dict[str, list[float]]) -> float:
    """Steps a second after so many steps, from a run's timing.csv; notes where its time went."""
    with open(timing) as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    rows = [row for row in rows if row["env_steps"] > after]
    seconds = [1 / row["time/steps_per_second"] for row in rows]  # a step, in equally long stretches
    for name in rows[0]:
        if name.startswith("time/") and name != "time/steps_per_second":
            shares.setdefault(name[5:], []).append(statistics.mean(row[name] for row in rows))
    return 1 / statistics.mean(seconds)


def main(turns: int) -> str:
    """Measure; return the table."""
    shares: dict[str, list[float]] = {}
    measures = {
        "downpour": lambda: downpour(shares),
        "bare loop": lambda: float(run([str(HERE / "bare_loop.py"), str(STEPS)])),
        "Stable-Baselines3, 1 environment": lambda: float(run([str(HERE / "peer_sb3.py"), str(STEPS)])),
        "Stable-Baselines3, 8 environments": lambda: float(run([str(HERE / "peer_sb3.py"), str(STEPS), "--envs", "8"])),
    }
    found: dict[str, list[float]] = {name: [] for name in measures}
    for turn in range(turns):
        for name, measure in measures.items():
            found[name].append(measure())
            print(f"turn {turn + 1}  {name}: {found[name][-1]:.0f} steps/s", file=sys.stderr)
    lines = [
        "| | steps/s (median) | downpour is faster by (median) | least | greatest |",
        "|---|---|---|---|---|",
    ]
    for name, values in found.items():
        ratios = [ours / other for ours, other in zip(found["downpour"], values, strict=True)]
        spread = (statistics.median(ratios), min(ratios), max(ratios))
        lines.append(f"| {name} | {statistics.median(values):.0f} | " + " | ".join(f"{r:.2f}" for r in spread) + " |")
    parts = ", ".join(f"{name} {100 * statistics.median(values):.0f} %" for name, values in shares.items())
    return "\n".join([*lines, "", f"Where downpour's time goes: {parts}."])


if __name__ == "__main__":
    print(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
