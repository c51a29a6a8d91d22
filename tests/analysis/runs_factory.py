"""Run directories as training writes them, small and made up, for the tests of the analysis."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml


def write_run(
    path: Path,
    *,
    overrides: Sequence[str] = (),
    choices: dict[str, str | None] | None = None,
    seed: int = 0,
    evaluations: Sequence[tuple[int, float]] = ((1000, 100.0), (2000, 200.0)),
    returns: Sequence[float] = (),
    status: str | None = "finished",
    config: dict[str, Any] | None = None,
    **summary: Any,
) -> Path:
    """One reinforcement learning run: `evaluations` (env_steps, mean return), `returns` of training."""
    path.mkdir(parents=True)
    chosen = {
        "algo": "double_dqn",
        "env": "cartpole",
        "data": "off_policy",
        "experiment": None,
        **(choices or {}),
    }
    whole = {"seed": seed, "env": {"id": "CartPole-v1"}, "eval_episodes": 10, **(config or {})}
    (path / "config.yaml").write_text(yaml.safe_dump(whole))
    (path / "choices.yaml").write_text(yaml.safe_dump({"overrides": [*overrides], "choices": chosen}))
    rows = [f"{step},,{value},{abs(value) / 10}" for step, value in evaluations]
    rows += [f"{step + 1},0.5,," for step, _ in evaluations]
    rows.sort(key=lambda row: int(row.split(",")[0]))
    header = "env_steps,train/loss,eval/return_mean,eval/return_std"
    (path / "metrics.csv").write_text("\n".join([header, *rows]) + "\n")
    last = evaluations[-1][0] if evaluations else 0
    if returns:
        steps = np.linspace(1, max(last, len(returns)), len(returns)).astype(int)
        lines = [
            f"{step},{value},{int(abs(value))},{i % 8}"
            for i, (step, value) in enumerate(zip(steps, returns, strict=True))
        ]
        (path / "episodes.csv").write_text("\n".join(["env_steps,return,length,environment", *lines]) + "\n")
    if status is not None:
        final = {"eval/return_mean": evaluations[-1][1]} if evaluations else {}
        basics = {"status": status, "seed": seed, "env_steps": last, "env_steps_per_second": 8000.0}
        (path / "summary.json").write_text(json.dumps({**basics, **final, **summary}))
    return path


def write_supervised_run(path: Path, *, seed: int = 0, steps: int = 600, overrides: Sequence[str] = ()) -> Path:
    """One supervised run: loss every ten gradient steps, evaluation every hundred."""
    path.mkdir(parents=True)
    chosen = {"algo": "supervised", "data": "digits", "env": None, "model": "mlp"}
    (path / "config.yaml").write_text(yaml.safe_dump({"seed": seed}))
    (path / "choices.yaml").write_text(yaml.safe_dump({"overrides": [*overrides], "choices": chosen}))
    rng = np.random.default_rng(seed)
    rows = []
    for step in range(10, steps + 1, 10):
        loss = 2.3 * np.exp(-step / 80) * np.exp(rng.normal() * 0.2) + 0.004
        row = f"{step},{loss:.5f},{1 - loss / 2.5:.4f},"
        rows.append(row + (f"{loss * 1.1 + 0.05:.5f},{0.98 - loss / 2.5:.4f}" if step % 100 == 0 else ","))
    header = "gradient_steps,train/loss,train/accuracy,eval/loss,eval/accuracy"
    (path / "metrics.csv").write_text("\n".join([header, *rows]) + "\n")
    summary = {"status": "finished", "seed": seed, "gradient_steps": steps, "wall_seconds": 12.0}
    (path / "summary.json").write_text(json.dumps(summary))
    return path


def learning(
    seed: int, *, level: float = 500.0, points: int = 25, every: int = 2000, speed: float = 8.0
) -> list[tuple[int, float]]:
    """Evaluations of a made-up run that learns up to `level`."""
    rng = np.random.default_rng(seed)
    t = np.arange(1, points + 1)
    curve = level / (1 + np.exp(-(t - speed - rng.normal()) / 1.8)) + rng.normal(size=points) * level / 25
    return [(int(i * every), float(value)) for i, value in zip(t, np.minimum(curve, level), strict=True)]


def training(seed: int, *, level: float = 500.0, episodes: int = 600) -> list[float]:
    """Training returns of a made-up run that learns up to `level`."""
    rng = np.random.default_rng(seed)
    mean = level / (1 + np.exp(-(np.arange(episodes) - episodes / 3) / (episodes / 12)))
    return [float(value) for value in np.clip(mean * rng.gamma(6, 1 / 6, episodes) + 15, 9, level).round()]
