"""Evaluates the policy of a finished run in its environment: returns and videos."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from downpour.analysis.statistics import bootstrap_mean
from downpour.analysis.text import aligned, spaced
from downpour.callbacks.evaluation import play
from downpour.config import ConfigError, build
from downpour.evaluation_settings import Settings, load
from downpour.run import Purpose
from downpour.video import Camera, film

EPISODE_LIMIT = 27_000  # where a run's own evaluation names none


def measure(settings: Settings, directory: Path, config: Mapping[str, Any], out: Path) -> tuple[dict[str, Any], str]:
    """Play whole episodes: (what goes into eval.json, what to print)."""
    if settings.dropout:
        raise ConfigError("dropout", settings.dropout, "applies to runs on a data set; this run has an environment")
    environment = build(config["env"])
    camera = Camera(environment, out / "videos") if settings.video else None
    spaces = {"observation_space": environment.observation_space, "action_space": environment.action_space}
    policy, path, step = load(directory, config, spaces, settings)
    evaluation = config["callbacks"].get("evaluation", {})
    num_envs = min(settings.num_envs or evaluation.get("num_envs", 10), settings.episodes)
    max_steps = evaluation.get("max_episode_steps", EPISODE_LIMIT)
    seed = config["seed"] if settings.seed is None else settings.seed
    out.mkdir(parents=True, exist_ok=True)
    environments = environment.vector(num_envs)
    try:
        # Other episodes than those of training and of the evaluations that chose the checkpoint.
        sequence = np.random.SeedSequence([seed, Purpose.PLAYED])
        returns, lengths = play(policy, environments, settings.episodes, sequence, max_steps)
    finally:
        environments.close()
    result: dict[str, Any] = {
        "checkpoint": path.name,
        "step": step,
        "environment": environment.id,
        "algorithm": type(policy).__name__,
        "episodes": len(returns),
        "seed": seed,
        "epsilon": policy.evaluation_epsilon,
        "num_envs": num_envs,
        "return": describe(returns),
        "length": describe(lengths),
        "returns": returns.tolist(),
        "lengths": lengths.tolist(),
    }
    if camera is not None:
        sequence = np.random.SeedSequence([seed, Purpose.FILMED])
        films = film(policy, camera, f"{path.stem}-seed{seed}", settings.video_episodes, sequence, max_steps)
        camera.close()
        result["videos"] = [str(each.relative_to(out)) for each in films]
    return result, table(result, out)


def describe(values: np.ndarray) -> dict[str, float]:
    """Mean with its 95 % bootstrap interval over the episodes, and how the values lie. [episodes] -> numbers."""
    interval = bootstrap_mean(values)
    low, high = (interval.low, interval.high) if interval.known else (interval.mean, interval.mean)
    numbers = (np.std(values), np.min(values), np.median(values), np.max(values))
    std, least, median, greatest = map(float, numbers)
    return {
        "mean": interval.mean,
        "low": low,
        "high": high,
        "std": std,
        "min": least,
        "median": median,
        "max": greatest,
    }


def table(result: Mapping[str, Any], out: Path) -> str:
    """What a person reads."""
    shown = {k: v for k, v in (("epsilon", result["epsilon"]),) if v}
    facts = [f"{result['episodes']} episodes", f"seed {result['seed']}", *(f"{k} {v:g}" for k, v in shown.items())]
    head = (
        f"{result['algorithm']} on {result['environment']}, {result['checkpoint']} of step {spaced(result['step'])}: "
    )
    columns = ["", "mean", "95 % interval", "std", "min", "median", "max"]
    rows = [columns]
    for name in ("return", "length"):
        d = result[name]
        digits = 3 if max(abs(d["min"]), abs(d["max"])) < 10 else 1
        numbers = [f"{d[key]:.{digits}f}" for key in ("mean", "low", "high", "std", "min", "median", "max")]
        rows.append([name, numbers[0], f"[{numbers[1]}, {numbers[2]}]", *numbers[3:]])
    text = "\n".join([head + ", ".join(facts), "", *aligned(rows), ""])
    return text + "".join(f"\nvideo: {out / each}" for each in result.get("videos", []))
