"""Learning under the protocols of the field, over seeds, with bootstrap intervals.

python benchmarks/learning.py cleanrl-cartpole 10
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas
from scipy.stats import bootstrap

ROOT = Path(__file__).resolve().parents[1]
STUDIES = {
    "cleanrl-cartpole": ["experiment=cleanrl_dqn"],
    "cleanrl-acrobot": ["experiment=cleanrl_dqn", "env=acrobot"],
    "zoo-cartpole": ["experiment=zoo_cartpole"],
    "double-dqn-cartpole": ["experiment=double_dqn_cartpole", "eval_episodes=100"],
}


def study(name: str, seeds: int, directory: Path) -> str:
    """Train every seed to its end, from where it was left; return one line of the table."""
    greedy, last = [], []
    for seed in range(seeds):
        run = directory / name / str(seed)
        summary = run / "summary.json"
        if not summary.exists() or json.loads(summary.read_text())["status"] != "finished":
            begun = (run / "checkpoints" / "last.ckpt").exists()
            what = [f"resume={run}"] if begun else [*STUDIES[name], f"seed={seed}", f"hydra.run.dir={run}"]
            subprocess.run([sys.executable, str(ROOT / "src" / "train.py"), *what], check=True)
        last.append(pandas.read_csv(run / "episodes.csv")["return"].tail(100).mean())
        greedy.append(pandas.read_csv(run / "metrics.csv")["eval/return_mean"].dropna().iloc[-1])
    return f"| {name} | {seeds} | {_interval(last)} | {_interval(greedy)} |"


def _interval(values: list[float]) -> str:
    mean = np.mean(values)
    if np.ptp(values) == 0:
        return f"{mean:.1f} (all seeds)"
    found = bootstrap((values,), np.mean, confidence_level=0.95, method="percentile", rng=0).confidence_interval
    return f"{mean:.1f} [{found.low:.1f}, {found.high:.1f}]"


def main(seeds: int, names: Sequence[str] = tuple(STUDIES)) -> str:
    """Train what is missing; return the table."""
    lines = ["| protocol | seeds | last 100 training episodes, mean [95 %] | final greedy evaluation, mean [95 %] |"]
    lines.append("|---|---|---|---|")
    for name in names:
        lines.append(study(name, seeds, ROOT / "outputs" / "bench"))
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


if __name__ == "__main__":
    chosen = [name for name in sys.argv[1:] if name in STUDIES] or list(STUDIES)
    print(main(next((int(word) for word in sys.argv[1:] if word.isdigit()), 10), chosen))
