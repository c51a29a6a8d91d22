"""Ablation of replay and the target network, over games and seeds, with single-threaded runs in parallel.

    python benchmarks/ablation.py --out DIR --games breakout --seeds 4 --frames 1000000 --seconds 540

Each run is `experiment=mnih2015_ablation` at one step size, in a process of its own that is pinned to one core. After
--seconds it is stopped (SIGTERM) and saves a checkpoint; the same command again resumes what is not finished. At the
end DIR contains the paper's table and figure at the last frame that all runs of a game have reached, and runs.json with
the length, time, training curve and evaluations of each run.

Uses this interpreter and the sources of this project; arguments after `--` are passed to train.py.
"""

import argparse
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))
GAMES = ("breakout", "freeway", "space_invaders", "asterix", "seaquest")
POINTS = 100  # of a training curve
GRACE = 60  # seconds that a stopped run has to save; it finishes an evaluation first


@dataclass
class Job:
    """One run.

    Attributes:
        run: its directory.
        arguments: of train.py.
        process: of the training, once started.
        begin: when it was started, by the monotonic clock.
        asked: whether it has been asked to stop.
    """

    run: Path
    arguments: list[str]
    process: Any = None
    begin: float = math.inf
    asked: bool = False

    def start(self, core: int) -> None:
        """Train in a process of its own, pinned to a core."""
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
        self.run.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "src" / "train.py"), *self.arguments],
                env=variables,
                stdout=log,
                stderr=log,
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            )
        self.begin = time.monotonic()

    @property
    def log(self) -> Path:
        return self.run.with_suffix(".log")

    def stop(self) -> None:
        """Ask it to stop, once: a second signal could arrive after its handlers have been removed."""
        if not self.asked:
            self.process.terminate()
        self.asked = True

    @property
    def failed(self) -> bool:
        return self.process.returncode not in (0, 128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGKILL)


def jobs(options: argparse.Namespace) -> list[Job]:
    """The runs that are not finished, ordered so that the four cells of a seed run at the same time."""
    every = itertools.product(options.games.split(","), range(options.seeds), (True, False), (True, False))
    found = []
    for game, seed, replay, target in every:
        cell = [f"env.game={game}", f"data.replay={replay}".lower(), f"algo.target_network={target}".lower()]
        run = options.runs.resolve() / f"{game}-replay={replay}-target={target}-{seed}".lower().replace("=", "_")
        length = f"total_env_steps={options.frames}"
        if (run / "config.yaml").exists():
            arguments = [f"resume={run}", length]
        else:
            fixed = [
                "experiment=mnih2015_ablation",
                "logger=csv",
                f"optimizer.lr={options.lr}",
                f"eval_every={options.eval_every}",
            ]
            arguments = [*fixed, *cell, length, f"seed={seed}", *options.more, f"hydra.run.dir={run}"]
        known = summary(run)
        if known.get("status") != "finished" or known["env_steps"] < options.frames:
            found.append(Job(run, arguments))
    return found


def summary(run: Path) -> dict[str, Any]:
    """A run's summary.json; {} if there is none yet."""
    try:
        return json.loads((run / "summary.json").read_text())
    except (OSError, ValueError):
        return {}


def work(waiting: list[Job], slots: int, seconds: float) -> list[Job]:
    """Run all jobs, `slots` at a time; returns those that failed. Ctrl-C stops the running ones, which save."""
    cores, waiting, failed = sorted(os.sched_getaffinity(0)), list(waiting), []
    running: dict[int, Job] = {}
    try:
        while waiting or running:
            for slot in range(slots):
                if slot not in running and waiting:
                    running[slot] = waiting.pop(0)
                    running[slot].start(cores[slot % len(cores)])
            time.sleep(0.2)
            for slot, job in list(running.items()):
                spent = time.monotonic() - job.begin
                if job.process.poll() is not None:
                    del running[slot]
                    failed += [job] if job.failed else []
                elif spent > seconds + GRACE:  # its last checkpoint remains
                    job.process.kill()
                elif spent > seconds:
                    job.stop()
    finally:
        for job in running.values():
            job.stop()
        for job in running.values():
            job.process.wait()
    return failed


def record(run: Any) -> dict[str, Any]:
    """The record of a run in runs.json."""
    from downpour.analysis.metrics import finite
    from downpour.analysis.table import last_episodes

    steps = sorted({run.steps * (point + 1) // POINTS for point in range(POINTS)})
    training = [(mark, last_episodes(run, mark)) for mark in steps]
    evaluations = finite(run.metrics, "eval/return_mean")
    scores = zip(evaluations.get("env_steps", []), evaluations.get("eval/return_mean", []), strict=True)
    return {
        "game": run.config["env"]["game"],
        "replay": run.config["data"]["replay"],
        "target_network": run.config["algo"]["target_network"],
        "seed": run.seed,
        "status": run.status,
        "frames": run.steps,
        "episodes": len(run.episodes),
        "seconds": run.summary.get("wall_seconds"),
        "last_100_training_episodes": [[mark, round(mean, 4)] for mark, mean in training if math.isfinite(mean)],
        "evaluations": [[int(step), float(mean)] for step, mean in scores],
    }


def collect(directory: Path, out: Path) -> str:
    """Write runs.json and the report of all runs in the directory; returns the text of the report."""
    from downpour.analysis.report import report
    from downpour.analysis.runs import RunDirectory, find_runs

    paths = find_runs(directory)
    runs = [run for run in map(RunDirectory, paths) if run.config and len(run.metrics)]
    out.mkdir(parents=True, exist_ok=True)
    (out / "runs.json").write_text("[\n" + ",\n".join(json.dumps(record(run)) for run in runs) + "\n]\n")
    return report(paths, out, paper="mnih2015_ablation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="where the table, the figure and runs.json go")
    parser.add_argument("--runs", type=Path, default=ROOT / "outputs" / "bench" / "ablation", help="where the runs are")
    parser.add_argument("--games", default="breakout", help=f"of {','.join(GAMES)}")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=1_000_000, help="of each run")
    parser.add_argument("--seconds", type=float, default=540, help=f"of each run; then it has {GRACE} more to save")
    parser.add_argument("--slots", type=int, default=len(os.sched_getaffinity(0)), help="runs at a time")
    parser.add_argument("--eval-every", type=int, default=100_000, help="frames")
    parser.add_argument("--lr", default="2.5e-4", help="step size")
    parser.add_argument("more", nargs="*", help="settings of train.py, after --")
    options = parser.parse_args()
    waiting = jobs(options)
    waves = -(-len(waiting) // options.slots)
    longest = waves * (options.seconds + GRACE)
    print(f"{len(waiting)} runs to do, {options.slots} at a time: {longest:.0f} s at most", file=sys.stderr, flush=True)
    failed = work(waiting, options.slots, options.seconds)
    for job in failed:
        print(f"failed: {job.run.name}\n{job.log.read_text()[-600:]}", file=sys.stderr)
    if not any(options.runs.glob("*/metrics.csv")):
        sys.exit(f"error: no run in {options.runs} has measured anything; more --seconds?")
    print(collect(options.runs.resolve(), options.out.resolve()))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
