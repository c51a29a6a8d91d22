"""The result of runs that lose a worker half way.

Each seed trains with the given settings; worker 1 is killed (SIGKILL) when the run has made half of its steps.

  python benchmarks/killed_worker.py experiment=digits_mlp strategy=downpour trainer=ddp_cpu
"""

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from common import TRAIN


def last_step(run: Path) -> int:
    """The last step in the run's metrics; 0 if there is none."""
    try:
        with open(run / "metrics.csv", newline="") as file:
            *_, row = csv.DictReader(file)
        return int(next(iter(row.values())))
    except (OSError, ValueError):
        return 0


def worker(run: Path, rank: int) -> int | None:
    """The process id of a worker of the run; None if it is not running."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments, variables = path.read_bytes().split(b"\0"), (path.parent / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"worker" in arguments and str(run).encode() in arguments and f"RANK={rank}".encode() in variables:
            return int(path.parent.name)
    return None


def train(run: Path, settings: list[str], seed: int) -> dict[str, float]:
    """Train, and kill worker 1 half way; returns the run's summary.

    Raises:
        SystemExit: the run failed, or did not continue without the worker.
    """
    more = [f"seed={seed}", f"hydra.run.dir={run}", "logger=csv", "callbacks.recorder.every=50"]
    process = subprocess.Popen([sys.executable, TRAIN, *settings, *more], stderr=subprocess.PIPE, text=True)
    killed_at = 0
    while process.poll() is None and not killed_at:
        time.sleep(0.02)
        if (step := last_step(run)) and (victim := worker(run, 1)):
            config = yaml.safe_load((run / "config.yaml").read_text())
            if 2 * step >= (config["total_gradient_steps"] or config["total_env_steps"]):
                os.kill(victim, signal.SIGKILL)
                killed_at = step
    _, errors = process.communicate()
    if process.returncode or "the run goes on without it" not in errors:
        sys.exit(f"seed {seed}: worker killed at {killed_at}, exit code {process.returncode}: {errors}")
    return {**json.loads((run / "summary.json").read_text()), "killed_at": killed_at}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="+", help="of train.py")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    print("| seed | killed at step | steps | test accuracy |\n|---|---|---|---|")
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            summary = train(Path(folder) / "run", options.settings, seed)
        steps, accuracy = summary["gradient_steps"], summary["test/accuracy"]
        print(f"| {seed} | {summary['killed_at']} | {steps} | {100 * accuracy:.2f} % |", flush=True)


if __name__ == "__main__":
    main()
