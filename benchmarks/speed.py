"""Environment steps per second of DQN on CartPole: this framework, the bare loop, Stable-Baselines3, in turn.

Each measurement is a process of its own, with one thread.

python benchmarks/speed.py [TURNS]
"""

import statistics
import sys
import tempfile
from pathlib import Path

import bare_loop as bare
from common import HERE, TRAIN, compare, run, step_time, timing

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


def downpour(shares: dict[str, list[float]]) -> float:
    """One training run from the command line; adds the shares of its time to `shares`."""
    with tempfile.TemporaryDirectory() as directory:
        run([TRAIN, *OVERRIDES, f"hydra.run.dir={directory}/run"])
        return rate(Path(directory) / "run", 2 * bare.WARMUP, shares)


def rate(directory: Path, after: int, shares: dict[str, list[float]]) -> float:
    """Environment steps per second of a run after `after` steps; adds the shares of its time to `shares`."""
    rows = [row for row in timing(directory) if row["env_steps"] > after]
    for name in rows[0]:
        if name.startswith("time/") and name != "time/steps_per_second":
            shares.setdefault(name[5:], []).append(statistics.mean(row[name] for row in rows))
    return 1 / step_time(rows)


def main(turns: int) -> str:
    """Measure; return the table."""
    shares: dict[str, list[float]] = {}
    measures = {
        "downpour": lambda: downpour(shares),
        "bare loop": lambda: float(run([str(HERE / "bare_loop.py"), str(STEPS)])),
        "Stable-Baselines3, 1 environment": lambda: float(run([str(HERE / "peer_sb3.py"), str(STEPS)])),
        "Stable-Baselines3, 8 environments": lambda: float(run([str(HERE / "peer_sb3.py"), str(STEPS), "--envs", "8"])),
    }
    lines = compare(measures, turns)
    parts = ", ".join(f"{name} {100 * statistics.median(values):.0f} %" for name, values in shares.items())
    return "\n".join([*lines, "", f"Where downpour's time goes: {parts}."])


if __name__ == "__main__":
    print(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
