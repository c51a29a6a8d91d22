"""REINFORCE on a reward with two equal peaks: a Gaussian policy and a mixture of two Gaussians, over seeds.

python benchmarks/two_peaks.py 10

For each head: the mean reward, and the smaller of the probabilities within 0.3 of each peak, at X = 0; for comparison,
the largest that a Gaussian can have there. Draws the learned densities into outputs/bench/two_peaks.png.
"""

import shutil
import sys
from typing import Any

import numpy as np
import torch
from common import RUNS, TRAIN, run
from scipy.stats import norm

from downpour.analysis.drawing import GREY, PALETTE, dress, figure_of, save
from downpour.analysis.statistics import bootstrap_mean
from downpour.analysis.table import interval
from downpour.directory import read_config, read_summary
from downpour.environments import Gymnasium
from downpour.loading import load_trained

SETTINGS = [
    "algo=reinforce",
    "env=continuous_bandit",
    "data.num_envs=64",
    "data.episodes_per_env=2",
    "optimizer.lr=3e-3",
    "total_env_steps=60_000",
    "eval_every=60_000",
    "eval_episodes=1000",
    "algo.evaluation=sample",
    "logger=csv",
]
HEADS = {
    "one Gaussian": ["model/head=gaussian"],
    "mixture of two": ["model/head=mixture_of_gaussians", "algo.head.weights=fixed", "algo.head.learn_sigma=true"],
}
GRID, PEAK, WITHIN = torch.linspace(-4, 4, 4001), 1.0, 0.3


def trained(head: str, seed: int) -> tuple[float, np.ndarray]:
    """(mean reward of the last evaluation, density over `GRID` at X = 0) of a run, which is trained if need be."""
    directory = RUNS / "two_peaks" / head.replace(" ", "_") / str(seed)
    if read_summary(directory).get("status") != "finished":
        shutil.rmtree(directory, ignore_errors=True)  # an interrupted run
        run([TRAIN, *SETTINGS, *HEADS[head], f"seed={seed}", f"hydra.run.dir={directory}"])
    environment = Gymnasium(id="downpour/ContinuousBandit-v0")
    spaces = {"observation_space": environment.observation_space, "action_space": environment.action_space}
    algorithm: Any = load_trained(directory, read_config(directory, "run"), spaces, "last.ckpt", "run")[0]
    with torch.no_grad():
        density = algorithm.head.distribution(algorithm.policy(torch.zeros(1, 1))).log_prob(GRID.unsqueeze(-1)).exp()
    return read_summary(directory)["eval/return_mean"], density.numpy()


def neglected(density: np.ndarray) -> float:
    """The smaller of the probabilities near the two peaks."""
    grid = GRID.numpy()
    return float(min(density[np.abs(grid - side) < WITHIN].sum() for side in (PEAK, -PEAK)) * (grid[1] - grid[0]))


def main(seeds: int) -> str:
    """Train the runs that are missing, and draw; returns the table."""
    figure = figure_of(7.0, 4.0)
    axes = figure.subplots()
    lines = ["| head | seeds | mean reward [95 %] | probability near the lesser peak [95 %] |", "|---|---|---|---|"]
    for head, color in zip(HEADS, PALETTE, strict=False):
        runs = [trained(head, seed) for seed in range(seeds)]
        rewards, parts = [reward for reward, _ in runs], [neglected(density) for _, density in runs]
        cells = (interval(bootstrap_mean(values)) for values in (rewards, parts))
        lines.append(f"| {head} | {seeds} | {' | '.join(cells)} |")
        for number, (_, density) in enumerate(runs):
            axes.plot(GRID, density, color=color, alpha=0.6, label=None if number else f"{head}, {seeds} seeds")
    for side in (PEAK, -PEAK):
        axes.axvline(side, color=GREY, linestyle=":", linewidth=1)
    axes.set_xlabel("action")
    axes.set_ylabel("density at X = 0 (dotted: peaks)")
    dress(figure)
    axes.set_xlim(-2.5, 2.5)
    save(figure, RUNS / "two_peaks.png")
    sigma = np.linspace(0.05, 5, 5000)  # by symmetry, the optimal mean is 0
    largest = (norm.cdf(PEAK + WITHIN, scale=sigma) - norm.cdf(PEAK - WITHIN, scale=sigma)).max()
    return "\n".join([*lines, "", f"The most that any Gaussian can have near the lesser peak: {largest:.3f}."])


if __name__ == "__main__":
    print(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10))
