"""Returns under standard protocols, over seeds, with bootstrap intervals.

python benchmarks/learning.py cleanrl-cartpole 10
python benchmarks/learning.py ppo-inverted-pendulum ddpg-pendulum 10 --workers 16 --seconds 3000 --out results

With --workers, runs are trained in parallel, each on its own core. Runs begun before resume from their last checkpoint.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from scipy.stats import bootstrap

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "outputs" / "bench"
STUDIES = {
    "cleanrl-cartpole": ["experiment=cleanrl_dqn"],
    "cleanrl-acrobot": ["experiment=cleanrl_dqn", "env=acrobot"],
    "zoo-cartpole": ["experiment=zoo_cartpole"],
    "double-dqn-cartpole": ["experiment=double_dqn_cartpole", "eval_episodes=100"],
    "ppo-cartpole": ["algo=ppo", "env=cartpole", "total_env_steps=100000", "eval_every=10240", "eval_episodes=100"],
    "reinforce-cartpole": ["experiment=reinforce_cartpole"],
    "ddpg-pendulum": ["experiment=ddpg_pendulum"],
    "ppo-inverted-pendulum": ["experiment=ppo_inverted_pendulum"],
    "reinforce-inverted-pendulum": ["experiment=reinforce_inverted_pendulum"],
    "td3-half-cheetah": ["experiment=td3_half_cheetah"],
}
PATIENCE = 60.0  # seconds that a stopped run has to save
HEADER = (
    "| protocol | seeds | finished | least environment steps | last 100 training episodes, mean [95 %] "
    "| last evaluation, mean [95 %] | least |\n|---|---|---|---|---|---|---|"
)


class Pool:
    """Trains runs in parallel, each with one thread on its own core."""

    def __init__(self, workers: int, seconds: float | None = None):
        """
        Args:
            workers: runs in parallel.
            seconds: time limit, after which runs are stopped (they save) and no other is started; None: no limit.
        """
        self.workers = workers
        self.end = None if seconds is None else time.monotonic() + seconds
        self.cores = sorted(os.sched_getaffinity(0))
        self.lock = threading.Lock()
        self.started = 0

    def train(self, studies: Sequence[str], seeds: int, runs: Path) -> list[str]:
        """Train, or resume, every seed of every study; returns the errors, a line each."""
        jobs = [(name, seed) for name in studies for seed in range(seeds)]
        with ThreadPoolExecutor(self.workers, initializer=self._pin) as pool:
            return [line for line in pool.map(lambda job: self._run(*job, runs / job[0] / str(job[1])), jobs) if line]

    def _pin(self) -> None:
        """Pin this thread to a core, which the processes that it starts inherit."""
        if self.workers > 1:
            with self.lock:
                core = self.cores[self.started % len(self.cores)]
                self.started += 1
            os.sched_setaffinity(0, {core})

    def _run(self, name: str, seed: int, run: Path) -> str | None:
        if finished(run) or self._left() == 0:
            return None
        begun = (run / "checkpoints" / "last.ckpt").exists()
        what = [f"resume={run}"] if begun else [*STUDIES[name], f"seed={seed}", f"hydra.run.dir={run}"]
        run.mkdir(parents=True, exist_ok=True)
        with open(run.with_suffix(".log"), "w") as output:
            process = subprocess.Popen(
                [sys.executable, str(ROOT / "src" / "train.py"), *what],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                code = process.wait(self._left())
            except subprocess.TimeoutExpired:
                process.terminate()
                try:
                    process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()
                return None
        print(f"{name} {seed}: {'finished' if code == 0 else f'exit code {code}'}", file=sys.stderr, flush=True)
        return f"{name} {seed}: exit code {code}, see {run.with_suffix('.log')}" if code else None

    def _left(self) -> float | None:
        return None if self.end is None else max(0.0, self.end - time.monotonic())


def finished(run: Path) -> bool:
    """Whether the run has made all its steps."""
    summary = run / "summary.json"
    return summary.exists() and json.loads(summary.read_text())["status"] == "finished"


def outcome(run: Path) -> dict[str, Any] | None:
    """The results of a run; None if it has not been evaluated yet."""
    if not (run / "metrics.csv").exists() or not (run / "episodes.csv").exists():
        return None
    metrics = pandas.read_csv(run / "metrics.csv")
    if "eval/return_mean" not in metrics:
        return None
    evaluations = metrics[["env_steps", "eval/return_mean"]].dropna()
    returns = pandas.read_csv(run / "episodes.csv")["return"]
    if evaluations.empty or returns.empty:
        return None
    return {
        "seed": int(run.name),
        "finished": finished(run),
        "last_100_training_episodes": round(float(returns.tail(100).mean()), 3),
        "evaluations": [[int(steps), round(float(mean), 3)] for steps, mean in evaluations.to_numpy()],
    }


def study(name: str, seeds: int, runs: Path) -> dict[str, Any]:
    """The results of a study."""
    found = [outcome(runs / name / str(seed)) for seed in range(seeds)]
    return {"overrides": STUDIES[name], "runs": [run for run in found if run is not None]}


def line(name: str, result: dict[str, Any]) -> str:
    """The row of a study in the table."""
    runs = result["runs"]
    if not runs:
        return f"| {name} | 0 | | | | | |"
    last = [run["last_100_training_episodes"] for run in runs]
    steps, evaluated = zip(*(run["evaluations"][-1] for run in runs), strict=True)
    done = sum(run["finished"] for run in runs)
    numbers = f"{_interval(last)} | {_interval(evaluated)} | {min(evaluated):.1f}"
    return f"| {name} | {len(runs)} | {done} | {min(steps)} | {numbers} |"


def _interval(values: Sequence[float]) -> str:
    mean = np.mean(values)
    if len(values) == 1:
        return f"{mean:.1f} (one seed)"
    if np.ptp(values) == 0:
        return f"{mean:.1f} (all seeds)"
    found = bootstrap((values,), np.mean, confidence_level=0.95, method="percentile", rng=0).confidence_interval
    return f"{mean:.1f} [{found.low:.1f}, {found.high:.1f}]"


def main(seeds: int) -> str:
    """All studies, one run after another; returns the table.

    Raises:
        SystemExit: a run failed.
    """
    if wrong := Pool(1).train(list(STUDIES), seeds, RUNS):
        sys.exit("\n".join(wrong))
    return table({name: study(name, seeds, RUNS) for name in STUDIES})


def table(results: Mapping[str, dict[str, Any]]) -> str:
    """The table of studies."""
    return "\n".join([HEADER, *(line(name, result) for name, result in results.items())])


def measure(
    studies: Sequence[str],
    seeds: int = 10,
    *,
    workers: int = 1,
    seconds: float | None = None,
    runs: Path = RUNS,
    out: Path | None = None,
) -> list[str]:
    """Train, print the table, write `learning.json`; returns the errors, a line each."""
    failures = Pool(workers, seconds).train(studies, seeds, runs.resolve())
    results = {name: study(name, seeds, runs) for name in studies}
    print(table(results), flush=True)
    out = runs if out is None else out
    out.mkdir(parents=True, exist_ok=True)
    (out / "learning.json").write_text(json.dumps(results) + "\n")
    return failures


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help=f"studies, and how many seeds (10): {', '.join(STUDIES)}")
    parser.add_argument("--workers", type=int, default=1, help="runs in parallel, each on its own core")
    parser.add_argument("--seconds", type=float, help="stop after this time, and report the results so far")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where the run directories are (outputs/bench)")
    parser.add_argument("--out", type=Path, help="where learning.json goes (beside the runs)")
    found = parser.parse_args(words)
    found.studies = [word for word in found.what if not word.isdigit()]
    found.seeds = next((int(word) for word in found.what if word.isdigit()), 10)
    if unknown := [word for word in found.studies if word not in STUDIES]:
        parser.error(f"{unknown[0]}: there are {', '.join(STUDIES)}")
    return found


if __name__ == "__main__":
    given = arguments()
    wrong = measure(
        given.studies or list(STUDIES),
        given.seeds,
        workers=given.workers,
        seconds=given.seconds,
        runs=given.runs,
        out=given.out,
    )
    sys.exit("\n".join(wrong) or None)
