"""Playing a finished run's policy: returns, a table of them, and films."""

import json
import signal
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from downpour.config import ConfigError, NonNegativeInt, PositiveInt, Probability, build, check_arguments
from downpour.settings import read_settings, show_help

if TYPE_CHECKING:
    import numpy as np

    from downpour.algorithms.base import Algorithm

SUMMARY = """
Play whole episodes with a trained policy, exploration off, and print what they returned. The numbers and all
returns are written to eval.json. The same seed gives the same episodes.

  python src/eval.py run=outputs/train/2026-11-22/15-04-05-double_dqn
  python src/eval.py run=outputs/train/2026-11-22/15-04-05-double_dqn episodes=20 seed=1 checkpoint=last video=true

Settings, with their defaults:

"""
EPISODE_LIMIT = 27_000  # where a run's own evaluation names none


@dataclass(kw_only=True)
class Settings:
    """What conf/eval.yaml says, typed."""

    run: str
    episodes: PositiveInt
    checkpoint: Literal["best", "last"]
    seed: NonNegativeInt | None
    epsilon: Probability | None
    device: str
    num_envs: PositiveInt | None
    video: bool
    video_episodes: PositiveInt
    out: str | None
    traceback: bool


def main(arguments: Sequence[str], defaults: Path) -> int:
    """Run the command; returns its exit code: 0, or 2 with one message on stderr for what a person got wrong.

    Args:
        arguments: what was typed after the command's name.
        defaults: the YAML file with every setting, its default and its meaning.
    """
    if show_help(arguments, SUMMARY, defaults):
        return 0
    full = False
    try:
        typed = read_settings(arguments, defaults, "run=outputs/train/...")
        settings = Settings(**check_arguments(Settings, typed, ""))
        full = settings.traceback
        out = Path(settings.out or settings.run).expanduser()
        try:
            print(evaluate(settings, out))
        except OSError as error:
            raise ConfigError("out", out, f"cannot be written ({error.strerror or error}); choose another") from None
    except ConfigError as error:
        if full:
            raise
        print(f"eval: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        if full:
            raise
        print(f"eval: {type(error).__name__}: {error} (traceback=true shows where)", file=sys.stderr)
        return 1
    return 0


def evaluate(settings: Settings, out: Path) -> str:
    """Play, write eval.json (and films), and return what to print."""
    import numpy as np
    import torch

    from downpour import directory as directories
    from downpour.callbacks.evaluation import play
    from downpour.video import Camera, film

    directories.log_to(None)
    directory = Path(settings.run).expanduser()
    config = directories.read_config(directory, "run")
    if not config.get("env"):
        raise ConfigError("run", directory, "has no environment to play in; its numbers are in summary.json")
    torch.set_num_threads(config["trainer"].get("threads") or torch.get_num_threads())
    environment = build(config["env"])
    camera = Camera(environment, out / "videos") if settings.video else None
    policy, path, step = load(directory, config, environment, settings)
    evaluation = config["callbacks"].get("evaluation", {})
    num_envs = min(settings.num_envs or evaluation.get("num_envs", 10), settings.episodes)
    max_steps = evaluation.get("max_episode_steps", EPISODE_LIMIT)
    seed = config["seed"] if settings.seed is None else settings.seed
    out.mkdir(parents=True, exist_ok=True)
    environments = environment.vector(num_envs)
    try:
        # 6 and 7: other episodes than those of training (1) and of the evaluations that chose the checkpoint (4).
        sequence = np.random.SeedSequence([seed, 6])
        returns, lengths = play(policy, environments, settings.episodes, sequence, max_steps)
    finally:
        environments.close()
    result: dict[str, Any] = {
        "run": str(directory.resolve()),
        "checkpoint": path.name,
        "step": step,
        "environment": environment.id,
        "algorithm": type(policy).__name__,
        "episodes": len(returns),
        "seed": seed,
        "epsilon": getattr(policy, "evaluation_epsilon", None),
        "num_envs": num_envs,
        "return": describe(returns),
        "length": describe(lengths),
        "returns": returns.tolist(),
        "lengths": lengths.tolist(),
        "git_commit": directories.git_commit(),
        "versions": directories.versions(),
    }
    if camera is not None:
        sequence = np.random.SeedSequence([seed, 7])
        films = film(policy, camera, f"{path.stem}-seed{seed}", settings.video_episodes, sequence, max_steps)
        camera.close()
        result["videos"] = [str(each.relative_to(out)) for each in films]
    directories.write_text(out / "eval.json", json.dumps(result, indent=2) + "\n")
    return table(result, out)


def load(
    directory: Path, config: Mapping[str, Any], environment: Any, settings: Settings
) -> "tuple[Algorithm, Path, int]":
    """The policy of a run with the weights of a checkpoint, where it was read from, and at which step it was saved.

    Raises:
        ConfigError: no checkpoint that can be read, one of something else, no such device.
    """
    import torch

    from downpour.checkpoints import BEST, LAST, PREVIOUS, log, newest_whole
    from downpour.experiment import build_algorithm, check_origin

    try:
        device = torch.device(settings.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        fits = f"cpu, cuda:0 to cuda:{n - 1}" if (n := torch.cuda.device_count()) else "cpu (no GPU was found)"
        raise ConfigError("device", settings.device, f"not on this machine, which has {fits}") from None
    asked = BEST if settings.checkpoint == "best" else LAST
    names = [asked, *(name for name in (LAST, PREVIOUS, BEST) if name != asked)]
    if not any((directory / "checkpoints" / name).exists() for name in names):
        raise ConfigError("run", directory, "has no checkpoint yet")
    if not (directory / "checkpoints" / asked).exists():
        log.warning("there is no %s yet: taking another", directory / "checkpoints" / asked)
    path, content = newest_whole(directory, names)
    spaces = {"observation_space": environment.observation_space, "action_space": environment.action_space}
    algorithm: Any = build_algorithm(config, spaces)
    check_origin(content, algorithm, path)
    try:
        algorithm.on_load_checkpoint(content)
        algorithm.load_state_dict(content["state_dict"])
    except (RuntimeError, KeyError, TypeError) as error:
        reason = textwrap.shorten(str(error), 200, placeholder=" ...")
        raise ConfigError("run", directory, f"{path.name} does not fit config.yaml: {reason}") from None
    if settings.epsilon is not None:
        if not hasattr(algorithm, "evaluation_epsilon"):
            advice = f"{type(algorithm).__name__} has no evaluation_epsilon to change; leave it out"
            raise ConfigError("epsilon", settings.epsilon, advice)
        algorithm.evaluation_epsilon = settings.epsilon
    return algorithm.to(device), path, int(content["step"])


def describe(values: "np.ndarray") -> dict[str, float]:
    """Mean with its 95 % bootstrap interval over the episodes, and how the values lie. [episodes] -> numbers."""
    import numpy as np

    from downpour.analysis.statistics import bootstrap_mean

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
    step = f"{result['step']:,}".replace(",", " ")
    head = f"{result['algorithm']} on {result['environment']}, {result['checkpoint']} of step {step}: "
    columns = ["", "mean", "95 % interval", "std", "min", "median", "max"]
    rows = [columns]
    for name in ("return", "length"):
        d = result[name]
        digits = 3 if max(abs(d["min"]), abs(d["max"])) < 10 else 1
        numbers = [f"{d[key]:.{digits}f}" for key in ("mean", "low", "high", "std", "min", "median", "max")]
        rows.append([name, numbers[0], f"[{numbers[1]}, {numbers[2]}]", *numbers[3:]])
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    lines = [f"| {' | '.join(cell.rjust(w) for cell, w in zip(row, widths, strict=True))} |" for row in rows]
    rule = "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"
    text = "\n".join([head + ", ".join(facts), "", lines[0], rule, *lines[1:], ""])
    return text + "".join(f"\nvideo: {out / each}" for each in result.get("videos", [])) + f"\neval: {out}/eval.json"
