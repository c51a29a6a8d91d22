"""Returns under standard protocols, over seeds, with bootstrap intervals.

python benchmarks/learning.py cleanrl-cartpole 10
python benchmarks/learning.py ppo-inverted-pendulum ddpg-pendulum 10 --workers 16

Each study is a sweep over seeds in outputs/bench; the same command continues an interrupted one.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common import RUNS, TRAIN

from downpour.analysis.configurations import group
from downpour.analysis.runs import RunDirectory, find_runs
from downpour.analysis.table import markdown, row

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


def directory(study: str, seeds: int) -> Path:
    """The directory of a study's sweep."""
    return RUNS / f"{study}-{seeds}"


def train(study: str, seeds: int, workers: int) -> int:
    """Train, or continue, the runs of a study, `workers` at a time; returns the exit code."""
    sweep = directory(study, seeds)
    begun = (sweep / "multirun.yaml").exists()
    where = f"resume_sweep={sweep}" if begun else f"hydra.sweep.dir={sweep}"
    launcher = (
        ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={workers}"] if workers > 1 else ["hydra/launcher=basic"]
    )
    command = [TRAIN, "-m", *STUDIES[study], f"seed=range({seeds})", where, *launcher]
    return subprocess.run([sys.executable, *command], stdout=sys.stderr).returncode


def table(studies: Sequence[str], seeds: int) -> str:
    """The results of the studies, a row each."""
    runs = {name: group(map(RunDirectory, find_runs(directory(name, seeds)))) for name in studies}
    return markdown([replace(row(each), label=name) for name, found in runs.items() for each in found])


def main(seeds: int, studies: Sequence[str] = tuple(STUDIES), workers: int = 1) -> str:
    """Train all studies; returns the table.

    Raises:
        SystemExit: a run failed, or was interrupted; the same command continues.
    """
    for name in studies:
        if code := train(name, seeds, workers):
            sys.exit(code)
    return table(studies, seeds)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help=f"studies, and how many seeds (10): {', '.join(STUDIES)}")
    parser.add_argument("--workers", type=int, default=1, help="runs in parallel (needs EXTRAS=sweep)")
    found = parser.parse_args(words)
    found.studies = [word for word in found.what if not word.isdigit()]
    found.seeds = next((int(word) for word in found.what if word.isdigit()), 10)
    if unknown := [word for word in found.studies if word not in STUDIES]:
        parser.error(f"{unknown[0]}: there are {', '.join(STUDIES)}")
    return found


if __name__ == "__main__":
    given = arguments()
    print(main(given.seeds, given.studies or tuple(STUDIES), given.workers))
